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
from pretrain.gradient.example import HIDDEN, Example
from pretrain.gradient.pretexts.base import Pretext, State
from pretrain.ruler.restorers import Damaged, Restorer, for_damage

# Added to the variance of a patch, pixels in [0, 1], so that the 1/255 steps of a flat patch are not amplified.
VARIANCE_FLOOR = 1e-4
NOTHING = 1e-200  # the weight of gray, which is all that counts where no pixel is visible
MOST_HOLE = 512  # the largest side of a patch that ``Holes`` accepts


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
    """Distance between hidden pixels and their predictions."""
    normalize_patches: bool = True
    """Target: each patch minus its mean, divided by its standard deviation (MAE's norm_pix_loss)."""
    paste_visible: bool = True
    """In panels, show the original visible patches."""

    @property
    def mask_channel(self) -> MaskChannel:
        return "maps"

    @property
    def spared(self) -> str:
        return "of one color"

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
        return for_damage([Holes()], holes_known=True)

    def aided(self, restored: Tensor, example: Example, encoder: Encoder) -> Tensor:
        """The true mean of every patch, where ``picture`` knows it. Not its deviation: wrong patterns are best weak."""
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

    # ---- pictures of any size, with holes of any shape

    @property
    def fills_holes(self) -> bool:
        return True

    def damage(self, images: Tensor, encoder: Encoder) -> Damaged:
        """The same share of patches is hidden; those at the right and lower edges may be cut off."""
        holes = Holes(ratio=self.ratio, size=min(self.patch_size(encoder), MOST_HOLE))
        return Damaged(*holes.punch(images))

    def given(self, damaged: Damaged, encoder: Encoder) -> Example:
        """A vision transformer drops every patch with a hole in it: the same number in all images."""
        size, (images, hidden) = self.patch_size(encoder), damaged
        shift, scale = likely_statistics(images, hidden, size) if self.normalize_patches else (None, None)
        if not self.drops_tokens(encoder):
            return Example(torch.cat([images, hidden], dim=1), images, images, hidden, None, shift, scale)
        holed = F.max_pool2d(hidden, size).flatten(1)
        holed.scatter_(1, F.avg_pool2d(hidden, size).flatten(1).argmin(1, keepdim=True), 0.0)  # one patch must stay
        visible = (holed == 0).nonzero()[:, 1].view(len(images), -1)
        return Example(images, images, images, hidden, visible, shift, scale)

    def kept(self, restored: Tensor, damaged: Damaged) -> Tensor:
        """The visible pixels are those of the damaged pictures."""
        return torch.where(damaged.hidden > 0, restored, damaged.images)


def hidden_mean(error: Tensor, hidden: Tensor) -> Tensor:
    """Mean of each ``error`` ``[B K H W]`` where ``hidden`` ``[B 1 H W]`` is 1, ``[B]``; 0 if nothing is hidden."""
    count = (hidden.sum((1, 2, 3)) * error.shape[1]).clamp_min(1)
    return (error * hidden).sum((1, 2, 3)) / count


def likely_statistics(images: Tensor, hidden: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """``patch_statistics`` of images with holes (``hidden`` ``[B 1 H W]``), whose true statistics are unknown.

    A mean over all patches, weighted by the visible share of each and by ``exp(-4 d)`` of its distance ``d``: nearly
    the mean of the nearest ones. Distance is rows plus columns, so that the weights are a product of the two, and
    memory does not grow with the square of the number of patches. Gray where nothing is visible.
    """
    visible = 1 - hidden
    share = F.avg_pool2d(visible, size)  # [B 1 h w]
    mean = F.avg_pool2d(images * visible, size).mean(dim=1, keepdim=True) / share.clamp_min(1e-6)
    apart = (images - enlarge(mean, size)).square() * visible
    variance = F.avg_pool2d(apart, size).mean(dim=1, keepdim=True) / share.clamp_min(1e-6)
    rows, columns = (_near(side, images.device) for side in share.shape[2:])
    total = rows @ share.double() @ columns + NOTHING

    def around(one: Tensor, otherwise: float) -> Tensor:
        weighted = rows @ (share * one).double() @ columns + NOTHING * otherwise
        return (weighted / total).to(images)

    shift, spread = around(mean, HIDDEN), around(variance, 0.0)
    return enlarge(shift, size), enlarge((spread + VARIANCE_FLOOR).sqrt(), size)


def _near(count: int, device: torch.device) -> Tensor:
    """``exp(-4 d)`` of the distances between ``count`` places, ``[n n]``; in float32, it would be 0 far away."""
    place = torch.arange(count, dtype=torch.float64, device=device)
    return torch.exp(-4 * (place - place[:, None]).abs())


def patch_statistics(images: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Mean and deviation of every patch, over pixels and colors, repeated over its pixels: ``[B 1 H W]`` each."""
    numbers = images.shape[1] * size * size
    mean = F.avg_pool2d(images, size).mean(dim=1, keepdim=True)
    centered = images - enlarge(mean, size)
    # unbiased, as in MAE
    variance = F.avg_pool2d(centered.square(), size).mean(dim=1, keepdim=True) * (numbers / max(numbers - 1, 1))
    return enlarge(mean, size), enlarge((variance + VARIANCE_FLOOR).sqrt(), size)
