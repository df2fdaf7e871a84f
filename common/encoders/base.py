"""The encoder contract: every encoder, ours or timm's, is read through these few calls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

View = Literal["rgb", "gray"]

MEAN = (0.485, 0.456, 0.406)  # ImageNet statistics, in [0, 1]: what timm's models expect
STD = (0.229, 0.224, 0.225)
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, the weights of a gray photograph


class Encoder(nn.Module, ABC):
    """Maps images to feature maps.

    Attributes:
        name: what the config calls it, e.g. ``small_cnn`` or ``timm/convnext_atto``.
        image_size: side in pixels of the square images it was built for.
        view: ``rgb``, or ``gray``: the encoder sees only luminance, repeated on three channels, whatever it is given.
        mask_channel: whether the input may carry a fourth channel, 1 where a pixel is hidden; zero when absent.
        layer_shapes: ``(D, h, w)`` of each map that ``layers`` returns, shallow to deep.
    """

    name: str
    image_size: int
    view: View
    mask_channel: bool
    layer_shapes: list[tuple[int, int, int]]
    mean: Tensor
    std: Tensor

    def __init__(self, name: str, image_size: int, view: View, mask_channel: bool) -> None:
        super().__init__()
        self.name, self.image_size, self.view, self.mask_channel = name, image_size, view, mask_channel
        # constants of the class, not weights: they follow the device but are not saved
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    @property
    def map_shape(self) -> tuple[int, int, int]:
        """``(D, h, w)`` of the last map."""
        return self.layer_shapes[-1]

    @abstractmethod
    def layers(self, images: Tensor) -> list[Tensor]:
        """Images ``[B 3 H W]`` (or ``[B 4 H W]`` with a mask channel), RGB in [0, 1] -> maps ``[B D_l h_l w_l]``."""

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[B 3 H W]``, RGB in [0, 1] (noise may leave the range) -> the last map ``[B D h w]``."""
        return self.layers(images)[-1]

    def encode(self, images: Tensor, layer: int = -1) -> Tensor:
        """Images ``[B 3 H W]``, RGB in [0, 1] -> one vector an image ``[B D]``: the average of one layer's map."""
        return self.layers(images)[layer].float().mean(dim=(2, 3))

    def prepare(self, images: Tensor) -> Tensor:
        """RGB in [0, 1] -> the network's own input: view, ImageNet standardisation, mask channel (zero if absent)."""
        rgb, mask = images[:, :3], images[:, 3:]
        if self.view == "gray":
            weights = rgb.new_tensor(LUMA).view(1, 3, 1, 1)
            rgb = (rgb * weights).sum(1, keepdim=True).expand(-1, 3, -1, -1)
        rgb = (rgb - self.mean.to(rgb.dtype)) / self.std.to(rgb.dtype)
        if not self.mask_channel:
            return rgb
        return torch.cat([rgb, mask if mask.shape[1] else torch.zeros_like(rgb[:, :1])], dim=1)


class TokenEncoder(Encoder):
    """An encoder made of patch tokens, which can look at some patches only (timm VisionTransformer)."""

    patch_size: int

    @property
    def grid(self) -> tuple[int, int]:
        """Patches down and across."""
        return self.image_size // self.patch_size, self.image_size // self.patch_size

    @abstractmethod
    def tokens(self, images: Tensor, visible: Tensor) -> Tensor:
        """Images ``[B 3 H W]`` and indices of kept patches ``[B n]``, row by row -> their tokens ``[B n D]``."""
