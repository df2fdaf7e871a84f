"""Colorization: restore color from luminance."""

from __future__ import annotations

import logging
from typing import ClassVar, Literal

import numpy as np
import torch
from kornia.color import lab_to_rgb, rgb_to_grayscale, rgb_to_lab
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from common.encoders.base import Encoder, View
from common.errors import UserError
from pretrain.gradient.example import Example
from pretrain.gradient.pretexts.base import Pretext, State
from pretrain.ruler.restorers import COLOR, GRAY, Damaged, Restorer

AB_SCALE = 25.0  # ab units per unit of a regression target: brings colors of photographs near variance 1
AB_REACH = 110  # every sRGB color has |a|, |b| below this
NEIGHBORS = 5  # bins that share one color
SOFTNESS = 5.0  # standard deviation, in ab units, of the Gaussian that weights them
SAMPLE = 100_000  # colors that bins are fitted to
PASSES = 100  # passes of k-means over them, at most; it took 2 or 3 on photographs and generated images

log = logging.getLogger("retouch")


class Colorize(Pretext):
    """From luminance, restore the ab channels of CIELAB at a fraction of the resolution.

    ``classification`` (Zhang, Isola and Efros 2016, section 2): cross-entropy between a softmax over color bins and
    the true color, which is spread over its 5 nearest bins by a Gaussian of standard deviation 5. Rare colors get a
    higher weight, ``((1 - λ) p + λ / Q)^-1``. Bins are k-means centres of the training images' colors rather than a
    regular grid, because photographs fill little of the ab plane. ``regression``: squared error of ab / 25.

    The encoder sees gray in pretraining and in transfer: luma (ITU-R BT.601, ``0.299 R + 0.587 G + 0.114 B``), not the
    L* that belongs to ab. Luma is the gray of photographs, JPEG and PIL, so gray images reach the encoder unchanged. It
    is a single weighted sum, while L* takes two powers per pixel. Luma is not a function of L* alone, so it reveals a
    little of the color. Panels keep the true L*. Color changes slowly over an image and the eye locates it by
    luminance, so a quarter of the resolution is enough. At full resolution the target would cost more than the whole
    training step.
    """

    kind: Literal["colorize"] = "colorize"
    view: ClassVar[View] = "gray"
    objective: Literal["classification", "regression"] = "classification"
    """Classify each pixel into a color bin, or regress its ab channels."""
    bins: int = Field(96, ge=2, le=1024)
    """Color bins Q."""
    rebalance: float = Field(0.5, ge=0, le=1)
    """λ of the mix with the uniform distribution: 0 gives rare colors the highest weight, 1 weights all equally."""
    stride: int = Field(4, ge=1, le=1024)
    """Image pixels per target pixel, in each direction."""
    temperature: float = Field(0.38, ge=1e-3, le=100)
    """Temperature of the annealed mean that turns a distribution into one color: 0 gives the mode, 1 the mean."""

    @property
    def needs_color(self) -> bool:
        return True

    @property
    def spared(self) -> str:
        return "without color"

    def check(self, encoder: Encoder) -> list[str]:
        if encoder.image_size % self.stride:
            return [f"pretext.stride is {self.stride}, which does not divide the image size {encoder.image_size}"]
        return []

    def output(self, image_size: int) -> tuple[int, int]:
        return (2 if self.objective == "regression" else self.bins), image_size // self.stride

    def corrupt(self, images: Tensor, encoder: Encoder) -> Example:
        gray = rgb_to_grayscale(images).repeat(1, 3, 1, 1)
        return Example(input=gray, clean=images, target=self.colors(images))

    def colors(self, images: Tensor) -> Tensor:
        """RGB ``[B 3 H W]`` in [0, 1] -> ab of CIELAB (D65), in its own units, ``[B 2 H/stride W/stride]``."""
        lab: Tensor = rgb_to_lab(F.avg_pool2d(images, self.stride))
        return lab[:, 1:]

    # ---- the color bins

    def blank_state(self, image_size: int) -> dict[str, Tensor]:
        if self.objective == "regression":
            return {}
        centers = torch.zeros(self.bins, 2)
        return {"centers": centers, "rarity": torch.ones(self.bins), **code_table(centers)}

    def fit(self, images: Tensor) -> dict[str, Tensor]:
        """Bins ``centers [Q 2]`` (ab units), and the ``rarity [Q]`` of each, whose mean over the sample is 1.

        Raises:
            UserError: the sample has fewer distinct colors than bins, such as a set of gray images.
        """
        if self.objective == "regression":
            return {}
        from sklearn.cluster import MiniBatchKMeans  # takes a second to import

        colors = self.colors(images.float().cpu()).permute(0, 2, 3, 1).reshape(-1, 2).numpy()
        colors = np.random.default_rng(0).permutation(colors)[:SAMPLE]
        distinct = len(np.unique(colors.round(1), axis=0))
        if distinct < self.bins:
            raise UserError(
                f"pretext.bins is {self.bins}, but the training images have only {distinct} distinct colors: "
                "lower it, or train on color images"
            )
        kmeans = MiniBatchKMeans(self.bins, random_state=0, n_init=3, batch_size=4096, max_iter=PASSES).fit(colors)
        if kmeans.n_iter_ >= PASSES:
            log.warning("k-means of the color bins did not converge in %d passes over %d colors", PASSES, len(colors))
        share = np.bincount(kmeans.predict(colors), minlength=self.bins) / len(colors)
        rarity = 1 / np.maximum((1 - self.rebalance) * share + self.rebalance / self.bins, 1e-6)
        rarity /= (share * rarity).sum()
        centers = torch.from_numpy(kmeans.cluster_centers_.astype(np.float32))
        return {"centers": centers, "rarity": torch.from_numpy(rarity.astype(np.float32)), **code_table(centers)}

    # ---- the loss

    def score(self, prediction: Tensor, example: Example, state: State) -> Tensor:
        colors = example.target.float()
        if self.objective == "regression":
            return (prediction - colors / AB_SCALE).square().mean((1, 2, 3))
        bins, shares = soft_code(colors, state)  # [B 5 h w] each
        # cross-entropy against a target of five bins: log Z - Σ share * logit
        logits = prediction.gather(1, bins)
        wrong = prediction.logsumexp(dim=1, keepdim=True) - (shares * logits).sum(dim=1, keepdim=True)
        # rarity has mean 1 over the training images: normalizing by its sum would couple the images of a batch
        return (wrong * state["rarity"][bins[:, :1]]).mean((1, 2, 3))

    # ---- the picture, and what it is compared with

    def restorers(self, encoder: Encoder) -> tuple[Restorer, ...]:
        return (GRAY, COLOR)

    def aided(self, restored: Tensor, example: Example, encoder: Encoder) -> Tensor:
        """True lightness, as in ``picture``."""
        return with_lightness(restored, example.clean)

    def picture(self, prediction: Tensor, example: Example, state: State) -> Tensor:
        """True lightness and predicted color."""
        with torch.autocast(prediction.device.type, enabled=False):
            predicted = prediction.float()
            if self.objective == "regression":
                colors = predicted * AB_SCALE
            else:
                chance = (predicted / self.temperature).softmax(dim=1)
                colors = torch.einsum("bqhw,qc->bchw", chance, state["centers"])
            lightness = rgb_to_lab(example.clean)[:, :1]
            colors = F.interpolate(colors, lightness.shape[2:], mode="bilinear", align_corners=False)
            restored: Tensor = lab_to_rgb(torch.cat([lightness, colors], dim=1))
        return restored.clamp(0, 1)

    # ---- pictures of any size: their color is ignored, so nothing is damaged

    def damage(self, images: Tensor, encoder: Encoder) -> Damaged:
        return Damaged(images, torch.zeros_like(images[:, :1]))

    def given(self, damaged: Damaged, encoder: Encoder) -> Example:
        return self.corrupt(damaged.images, encoder)

    def kept(self, restored: Tensor, damaged: Damaged) -> Tensor:
        """Their lightness, even where tiles overlap: the mean of two colors of equal lightness may have another."""
        return with_lightness(restored, damaged.images).clamp(0, 1)


def with_lightness(colored: Tensor, light: Tensor) -> Tensor:
    """The colors (ab of CIELAB) of one RGB image ``[B 3 H W]`` with the lightness of another."""
    lab = torch.cat([rgb_to_lab(light.clamp(0, 1))[:, :1], rgb_to_lab(colored.clamp(0, 1))[:, 1:]], dim=1)
    joined: Tensor = lab_to_rgb(lab)
    return joined


def code_table(centers: Tensor) -> dict[str, Tensor]:
    """Soft code of every integer ab color: its nearest bins ``[G² 5]`` and their shares ``[G² 5]``.

    A lookup is free compared with distances from every pixel to every bin. Rounding moves a color by at most 0.7, and
    people notice differences above about 2.
    """
    axis = torch.arange(-AB_REACH, AB_REACH + 1, dtype=torch.float32)
    return dict(zip(("table_bins", "table_shares"), brute_code(torch.cartesian_prod(axis, axis), centers), strict=True))


def brute_code(colors: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """Colors ``[N 2]`` -> their 5 nearest bins, nearest first, and Gaussian shares that sum to 1, ``[N 5]`` each."""
    nearest = torch.cdist(colors, centers).topk(min(NEIGHBORS, len(centers)), largest=False)
    # softmax of -d² / 2σ² is the normalized Gaussian, and stays finite far away from every bin
    return nearest.indices.int(), (-nearest.values.square() / (2 * SOFTNESS**2)).softmax(dim=1)


def soft_code(colors: Tensor, state: State) -> tuple[Tensor, Tensor]:
    """Colors ``[B 2 h w]`` in ab units -> bins (int64, nearest first) and shares, ``[B 5 h w]`` each, by lookup."""
    whole = colors.round().clamp(-AB_REACH, AB_REACH).long() + AB_REACH
    place = whole[:, 0] * (2 * AB_REACH + 1) + whole[:, 1]
    bins, shares = (state[name][place].permute(0, 3, 1, 2) for name in ("table_bins", "table_shares"))
    return bins.long(), shares
