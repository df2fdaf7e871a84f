"""Encoders of whole small images or patches as vectors: ``x = image - center`` to a code without spatial layout."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from common.encoders.base import Encoder, View, check_own
from common.encoders.config import EncoderConfig
from common.solvers import top_k

Centre = Literal["data", "own"]


class VectorEncoder(Encoder):
    """Flattens an image ``[3 S S]`` to ``x`` ``[d]``, ``d = 3 S²``, and codes it: maps are ``[B h 1 1]``.

    Attributes:
        centring: ``data`` subtracts ``centre``, the mean of the training images; ``own`` subtracts each image's mean
            level, as usual for patches of photographs, whose brightness says nothing about structure.
        centre: ``[d]``, zero until fitted.
    """

    statistics = ("centre",)
    centre: Tensor
    centring: Centre

    def __init__(
        self, config: EncoderConfig, image_size: int, view: View, mask_channel: bool, centring: Centre = "data"
    ) -> None:
        check_own(config, mask_channel)
        super().__init__(config.name, image_size, view, mask_channel, mean=(0, 0, 0), std=(1, 1, 1))
        self.config, self.centring = config.model_copy(update={"stem": "default"}), centring
        self.register_buffer("centre", torch.zeros(self.dimension))

    @property
    def dimension(self) -> int:
        """d: values per image."""
        return 3 * self.image_size**2

    def fit_centre(self, images: Tensor) -> None:
        """With ``data`` centring, set ``centre`` to the mean of training images ``[N 3 S S]`` in [0, 1]."""
        if self.centring == "data":
            self.centre.copy_(self.prepare(images.to(self.centre.device)).double().mean(0).flatten())

    def vectors(self, images: Tensor) -> Tensor:
        """Images ``[B 3 S S]``, RGB in [0, 1] -> centered rows ``[B d]``."""
        prepared = self.prepare(images)
        if images.shape[2] != self.image_size or images.shape[3] != self.image_size:
            raise ValueError(f"it encodes images of {self.image_size} px only, not {images.shape[2]}x{images.shape[3]}")
        rows = prepared.flatten(1)
        return rows - (rows.mean(1, keepdim=True) if self.centring == "own" else self.centre.to(rows.dtype))

    def layers(self, images: Tensor) -> list[Tensor]:
        """Images ``[B 3 S S]``, RGB in [0, 1] -> maps ``[B h 1 1]``, the code last."""
        return [code[:, :, None, None] for code in self.codes(self.vectors(images))]

    @abstractmethod
    def codes(self, rows: Tensor) -> Sequence[Tensor]:
        """Centered rows ``[B d]`` -> vectors ``[B h_l]``, shallow to deep, the code last."""


def code_activation(code: Tensor, rectify: bool, kept: int | None) -> Tensor:
    """Sparsify a code ``[B h ...]``: ReLU, and only the ``kept`` entries of largest magnitude."""
    if rectify:
        code = code.relu()
    if kept is None or kept >= code.shape[1]:
        return code
    return top_k(code, kept, dim=1)


class Rows(nn.Module):
    """A linear map whose weight ``[h d]`` is initialized with orthonormal rows (columns, if h > d)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.orthogonal_(torch.empty(outputs, inputs)))

    def forward(self, rows: Tensor) -> Tensor:
        """``[B d]`` -> ``[B h]``."""
        return nn.functional.linear(rows, self.weight)
