"""Masking: restore hidden patches."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from common.corruptions import Holes
from common.corruptions.holes import draw_patches, enlarge
from common.encoders.base import Encoder, MaskChannel, TokenEncoder
from pretrain.gradient.example import Example
from pretrain.gradient.pretexts.base import Pretext, State
from pretrain.ruler.restorers import Restorer, for_damage

# Added to the variance of a patch, pixels in [0, 1], so that the 1/255 steps of a flat patch are not amplified.
VARIANCE_FLOOR = 1e-4


class Mask(Pretext):
    """``d(f(g(visible)), hidden)`` over hidden pixels only.

    A vision transformer encodes only the visible patches (He et al. 2022, MAE). For a CNN, hidden patches are filled
    with gray and marked in a fourth channel.
    """

    kind: Literal["mask"] = "mask"
    ratio: float = Field(0.75, gt=0, lt=1)
    """Share of hidden patches; every image has the same number."""
    size: int = Field(4, ge=1, le=1024)
    """Side of a hidden patch in pixels, for a CNN; a vision transformer hides its own patches."""
    distance: Literal["l2", "l1"] = "l2"
    """Between hidden pixels and what the decoder gives for them."""
    normalize_patches: bool = True
    """Target: each patch minus its mean, divided by its standard deviation (MAE's norm_pix_loss)."""
    paste_visible: bool = True
    """In panels, show the original visible patches."""

    @property
    def mask_channel(self) -> MaskChannel:
        return "maps"

    def drops_tokens(self, encoder: Encoder) -> bool:
        return isinstance(encoder, TokenEncoder)

    def patch_size(self, encoder: Encoder) -> int:
        """Side of a hidden patch in pixels."""
        return encoder.patch_size if isinstance(encoder, TokenEncoder) else self.size

    def check(self, encoder: Encoder) -> list[str]:
        size, image = self.patch_size(encoder), encoder.image_size
        key = "the encoder's patch size" if isinstance(encoder, TokenEncoder) else "pretext.size"
        if image % size:
            return [
                f"{key} is {size}, which does not divide the image size {image}: hidden patches must fill the image"
            ]
        if image == size:
            return [f"{key} is {size}, the whole image: nothing would stay visible; make it smaller"]
        return []

    def restorers(self, encoder: Encoder) -> tuple[Restorer, ...]:
        return for_damage([Holes()], told=True)

    def aided(self, restored: Tensor, example: Example, encoder: Encoder) -> Tensor:
        """The true mean of every patch, where ``picture`` knows it. Not its deviation: a wrong pattern is best weak."""
        if example.shift is None:
            return restored
        return restored - patch_statistics(restored, self.patch_size(encoder))[0] + example.shift

    def corrupt(self, images: Tensor, encoder: Encoder) -> Example:
        size = self.patch_size(encoder)
        grid = (images.shape[2] // size, images.shape[3] // size)
        visible, patches = draw_patches(images, grid, self.ratio)
        hidden = enlarge(patches.view(-1, 1, *grid), size)
        target, shift, scale = images, None, None
        if self.normalize_patches:
            shift, scale = patch_statistics(images, size)
            target = (images - shift) / scale
        if self.drops_tokens(encoder):
            return Example(images, images, target, hidden, visible, shift, scale)
        seen = torch.cat([torch.where(hidden > 0, 0.5, images), hidden], dim=1)
        return Example(seen, images, target, hidden, None, shift, scale)

    def score(self, prediction: Tensor, example: Example, state: State) -> Tensor:
        assert example.weight is not None, "corrupt() sets the hidden pixels"
        wrong = prediction - example.target.float()
        return hidden_mean(wrong.abs() if self.distance == "l1" else wrong.square(), example.weight)

    def picture(self, prediction: Tensor, example: Example, state: State) -> Tensor:
        restored = prediction.float()
        # the network predicts normalized patches: the picture uses their true mean and deviation
        if example.shift is not None and example.scale is not None:
            restored = restored * example.scale + example.shift
        if self.paste_visible and example.weight is not None:
            restored = torch.where(example.weight > 0, restored, example.clean)
        return restored.clamp(0, 1)


def hidden_mean(error: Tensor, hidden: Tensor) -> Tensor:
    """Mean of ``error`` ``[B K H W]`` where ``hidden`` ``[B 1 H W]`` is 1, equally often in every image."""
    count = (hidden.sum() * error.shape[1]).clamp_min(1)
    return (error * hidden).sum() / count


def patch_statistics(images: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Mean and deviation of every patch, over pixels and colors, repeated over its pixels: ``[B 1 H W]`` each."""
    numbers = images.shape[1] * size * size
    mean = F.avg_pool2d(images, size).mean(dim=1, keepdim=True)
    centered = images - enlarge(mean, size)
    # unbiased, as in MAE
    variance = F.avg_pool2d(centered.square(), size).mean(dim=1, keepdim=True) * (numbers / max(numbers - 1, 1))
    return enlarge(mean, size), enlarge((variance + VARIANCE_FLOOR).sqrt(), size)
