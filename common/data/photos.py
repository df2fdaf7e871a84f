"""`photos`: square patches of two photographs, for learning dictionaries without a download.

The photographs, a temple in China and a dahlia (640x427 each), come with the scikit-learn package. Patches are cut at
native resolution with the requested side, so ``data.image_size=12`` gives crisp pixels. They are drawn uniformly over
photographs and positions, sky included: nothing is selected, so their statistics are those of the photographs. Patch i
is a function of (seed, split, i) and its side alone.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor

from common.data.counter import Ints, uniform
from common.data.source import Labels, Source, digest
from common.errors import UserError

SIDE = 16  # pixels, by default
LARGEST = 160  # larger patches are cut at this side and enlarged; it is the width of the test region
LENGTHS = {"train": 20_000, "test": 4_000}
# Columns: the left three quarters, and the right one. The border coincides with the JPEGs' 16-pixel blocks.
REGIONS = {"train": slice(0, 480), "test": slice(480, 640)}
VERSION = 1  # part of the fingerprint: raise it whenever the patches change


class PhotosSource(Source):
    """Rows 0, 1, 2, ... of the generator, unlabeled. ``length`` only limits a pass: rows beyond it exist too.

    Training and test patches come from disjoint regions.
    """

    endless = True
    tasks = ()

    def __init__(self, split: str = "train", length: int | None = None, seed: int = 0, side: int = SIDE) -> None:
        self.split, self.seed, self.side = split, seed, side
        self.length = LENGTHS[split] if length is None else length
        self.spec = f"photos:{split}:{self.length}"

    @property
    def fingerprint(self) -> str:
        # includes the pixels: JPEG decoders may differ in the last bit
        return digest(["photos", VERSION, self.split, self.length, self.seed, self.side, photographs().tobytes()])

    def __len__(self) -> int:
        return self.length

    def at(self, size: int) -> PhotosSource:
        return PhotosSource(self.split, self.length, self.seed, min(size, LARGEST))

    def image(self, index: int) -> Tensor:
        return self.bulk(torch.tensor([index]))[0]

    def bulk(self, rows: Tensor) -> Tensor:
        return torch.from_numpy(cut(self.seed, self.split, rows.numpy(), self.side))

    def where(self, index: int) -> str:
        return f"photos:{self.split}[{index}]"

    def labels(self, task: str | None = None, rows: Tensor | None = None) -> Labels:
        raise UserError(f"{self.spec} has no labels, but labels are needed here")


def cut(seed: int, split: str, rows: Ints, side: int) -> NDArray[np.uint8]:
    """Patches ``rows`` ``[n]``, uint8 ``[n 3 side side]``; ``side`` is at most ``LARGEST``."""
    region = photographs()[..., REGIONS[split]]
    windows = sliding_window_view(region, (side, side), axis=(2, 3))  # [photograph 3 top left side side], a view
    photograph, top, left = places(seed, split, rows, side).T
    patches: NDArray[np.uint8] = windows[photograph, :, top, left]
    return patches


def places(seed: int, split: str, rows: Ints, side: int) -> Ints:
    """Where patches ``rows`` ``[n]`` are cut: photograph, and top and left in the region of the split, ``[n 3]``."""
    count, _, height, width = photographs()[..., REGIONS[split]].shape
    choices = (count, height - side + 1, width - side + 1)
    u = uniform(seed, split, rows, 3).astype(np.float64)
    return np.stack([(u[:, k] * number).astype(np.int64) for k, number in enumerate(choices)], axis=1)


@lru_cache(maxsize=1)
def photographs() -> NDArray[np.uint8]:
    """The two photographs, read-only uint8 ``[2 3 427 640]``."""
    from sklearn.datasets import load_sample_images  # takes a second to import

    images: list[Any] = load_sample_images().images
    pixels = np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))
    pixels.setflags(write=False)
    return pixels
