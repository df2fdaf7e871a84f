"""Colorization: restore colour from luminance."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from kornia.color import lab_to_rgb, rgb_to_grayscale, rgb_to_lab
from pydantic import Field
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor
from torch.nn import functional as F

from common.encoders.base import Encoder, View
from common.errors import UserError
from pretrain.gradient.example import Example
from pretrain.gradient.pretexts.base import Pretext, State

AB_SCALE = 25.0  # ab units in one unit of a regression target: brings colours of photographs near variance 1
AB_REACH = 110  # every colour of sRGB has |a|, |b| below this
NEIGHBOURS = 5  # bins that share one colour
SOFTNESS = 5.0  # deviation in ab units of the Gaussian that shares it
SAMPLE = 100_000  # colours that bins are fitted to


class Colorize(Pretext):
    """From luminance, restore the ab channels of CIELAB at a fraction of the resolution.

    ``classification`` (Zhang, Isola and Efros 2016, section 2): cross-entropy between a softmax over colour bins and
    the true colour, shared among its 5 nearest bins by a Gaussian of deviation 5, rare colours weighted up by
    ``((1 - λ) p + λ / Q)^-1``. Bins are k-means centres of the training images' colours rather than a regular grid:
    photographs fill little of the ab plane. ``regression``: squared error of ab / 25.

    The encoder sees gray at pretraining and at transfer: luma (ITU-R BT.601, ``0.299 R + 0.587 G + 0.114 B``), not the
    L* that belongs to ab. Luma is the gray of photographs, JPEG and PIL, so that a gray picture comes to the encoder as
    it is, and it is one weighted sum where L* takes two powers of every pixel. It is no function of L* alone, and so
    tells a little of the colour. Pictures for people keep the true L*. Colour changes slowly over an image and the eye
    places it by luminance, so a quarter of the resolution is enough; at full resolution the target would cost more
    than the whole training step.
    """

    kind: Literal["colorize"] = "colorize"
    view: ClassVar[View] = "gray"
    objective: Literal["classification", "regression"] = "classification"
    bins: int = Field(96, ge=2, le=1024)
    """Colour bins Q."""
    rebalance: float = Field(0.5, ge=0, le=1)
    """λ of the mix with the uniform distribution: 0 weights rare colours most, 1 weights all alike."""
    stride: int = Field(4, ge=1)
    """Pixels of the image to one of the target, down and across."""
    temperature: float = Field(0.38, gt=0)
    """Of the annealed mean that makes one colour of a distribution for pictures: 0 is its mode, 1 its mean."""

    def check(self, encoder: Encoder) -> list[str]:
        if encoder.image_size % self.stride:
            return [f"pretext.stride is {self.stride}, which does not divide the image size {encoder.image_size}"]
        return []

    def output(self, image_size: int) -> tuple[int, int]:
        return (2 if self.objective == "regression" else self.bins), image_size // self.stride

    def corrupt(self, images: Tensor, encoder: Encoder) -> Example:
        gray = rgb_to_grayscale(images).repeat(1, 3, 1, 1)
        return Example(input=gray, clean=images, target=self.colours(images))

    def colours(self, images: Tensor) -> Tensor:
        """RGB ``[B 3 H W]`` in [0, 1] -> ab of CIELAB (D65), in its own units, ``[B 2 H/stride W/stride]``."""
        lab: Tensor = rgb_to_lab(F.avg_pool2d(images, self.stride))
        return lab[:, 1:]

    # ---- the colour bins

    def blank_state(self, image_size: int) -> dict[str, Tensor]:
        if self.objective == "regression":
            return {}
        centers = torch.zeros(self.bins, 2)
        return {"centers": centers, "rarity": torch.ones(self.bins), **code_table(centers)}

    def fit(self, images: Tensor) -> dict[str, Tensor]:
        """Bins ``centers [Q 2]`` (ab units), and the ``rarity [Q]`` of each, whose mean over the sample is 1.

        Raises:
            UserError: the sample has fewer different colours than bins, as a set of gray images has.
        """
        if self.objective == "regression":
            return {}
        colours = self.colours(images.float().cpu()).permute(0, 2, 3, 1).reshape(-1, 2).numpy()
        colours = np.random.default_rng(0).permutation(colours)[:SAMPLE]
        distinct = len(np.unique(colours.round(1), axis=0))
        if distinct < self.bins:
            raise UserError(
                f"pretext.bins is {self.bins}, but the training images show only {distinct} different colours: "
                "lower it, or train on colour images"
            )
        kmeans = MiniBatchKMeans(self.bins, random_state=0, n_init=3, batch_size=4096).fit(colours)
        share = np.bincount(kmeans.predict(colours), minlength=self.bins) / len(colours)
        rarity = 1 / np.maximum((1 - self.rebalance) * share + self.rebalance / self.bins, 1e-6)
        rarity /= (share * rarity).sum()
        centers = torch.from_numpy(kmeans.cluster_centers_.astype(np.float32))
        return {"centers": centers, "rarity": torch.from_numpy(rarity.astype(np.float32)), **code_table(centers)}

    # ---- the loss

    def score(self, prediction: Tensor, example: Example, state: State) -> Tensor:
        colours = example.target.float()
        if self.objective == "regression":
            return (prediction - colours / AB_SCALE).square().mean()
        bins, shares = soft_code(colours, state)  # [B 5 h w] each
        # cross-entropy against a target of five bins: log Z - Σ share * logit
        logits = prediction.gather(1, bins)
        wrong = prediction.logsumexp(dim=1, keepdim=True) - (shares * logits).sum(dim=1, keepdim=True)
        # rarity averages 1 over the training images: its sum in a batch would tie the images of a batch together
        return (wrong * state["rarity"][bins[:, :1]]).mean()

    # ---- the picture

    def picture(self, prediction: Tensor, example: Example, state: State) -> Tensor:
        """True lightness and predicted colour."""
        with torch.autocast(prediction.device.type, enabled=False):
            predicted = prediction.float()
            if self.objective == "regression":
                colours = predicted * AB_SCALE
            else:
                chance = (predicted / self.temperature).softmax(dim=1)
                colours = torch.einsum("bqhw,qc->bchw", chance, state["centers"])
            lightness = rgb_to_lab(example.clean)[:, :1]
            colours = F.interpolate(colours, lightness.shape[2:], mode="bilinear", align_corners=False)
            restored: Tensor = lab_to_rgb(torch.cat([lightness, colours], dim=1))
        return restored.clamp(0, 1)


def code_table(centers: Tensor) -> dict[str, Tensor]:
    """Soft code of every whole-numbered ab colour: its nearest bins ``[G² 5]`` and their shares ``[G² 5]``.

    Looking a colour up costs nothing beside distances from every pixel to every bin; rounding it to whole units
    moves it by at most 0.7, and people see differences from about 2.
    """
    axis = torch.arange(-AB_REACH, AB_REACH + 1, dtype=torch.float32)
    return dict(zip(("table_bins", "table_shares"), brute_code(torch.cartesian_prod(axis, axis), centers), strict=True))


def brute_code(colours: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """Colours ``[N 2]`` -> their 5 nearest bins, nearest first, and Gaussian shares that sum to 1, ``[N 5]`` each."""
    nearest = torch.cdist(colours, centers).topk(min(NEIGHBOURS, len(centers)), largest=False)
    # softmax of -d² / 2σ² is the normalised Gaussian, and stays finite far away from every bin
    return nearest.indices.int(), (-nearest.values.square() / (2 * SOFTNESS**2)).softmax(dim=1)


def soft_code(colours: Tensor, state: State) -> tuple[Tensor, Tensor]:
    """Colours ``[B 2 h w]`` in ab units -> bins (int64, nearest first) and shares, ``[B 5 h w]`` each, by lookup."""
    whole = colours.round().clamp(-AB_REACH, AB_REACH).long() + AB_REACH
    place = whole[:, 0] * (2 * AB_REACH + 1) + whole[:, 1]
    bins, shares = (state[name][place].permute(0, 3, 1, 2) for name in ("table_bins", "table_shares"))
    return bins.long(), shares
