"""Images that are in memory already, as a source."""

from __future__ import annotations

import torch
from torch import Tensor

from common.data.images import Images
from common.data.source import Labels, Source, digest
from common.errors import UserError


class MemorySource(Source):
    """Images ``[N 3 S S]``: uint8 0..255, or float32 in [0, 1]; unlabeled."""

    tasks = ()

    def __init__(self, pixels: Tensor, spec: str = "images in memory") -> None:
        self.pixels, self.spec = pixels, spec

    @property
    def fingerprint(self) -> str:
        return digest(["memory", str(self.pixels.dtype), self.pixels.numpy().tobytes()])

    def __len__(self) -> int:
        return len(self.pixels)

    def image(self, index: int) -> Tensor:
        return self.pixels[index]

    def where(self, index: int) -> str:
        return f"{self.spec}[{index}]"

    def labels(self, task: str | None = None, rows: Tensor | None = None) -> Labels:
        raise UserError(f"{self.spec}: has no labels, and labels are needed here")


def images_in_memory(pixels: Tensor, spec: str = "images in memory") -> Images:
    """``[N 3 S S]``, uint8 0..255 or float32 in [0, 1], as they are."""
    return Images(MemorySource(pixels, spec), pixels.shape[3], torch.arange(len(pixels)), pixels)
