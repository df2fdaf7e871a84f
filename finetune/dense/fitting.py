"""Linear discriminant analysis of the cells of maps, in closed form, from sums over images.

Every pixel of a mask is a row: the features of the cell that it lies in, and its class. Pixels of one cell have the
same features, so a cell with its counts of pixels stands for all of them, and nothing is lost. With the shares π of the
classes, their means μ and their common covariance Σ of standardized features, the scores of a cell x are, for each
strength λ,

    x·w_c + b_c,    w_c = (Σ + λ I)⁻¹ μ_c,    b_c = -½ μ_c·w_c + γ log π_c

(Friedman 1989; Hastie, Buja and Tibshirani 1995: ridge regression onto the classes, without the masking of one class
by others). With γ = 1 they are log-posteriors, up to a constant. Mean IoU counts every class the same, so that a
smaller γ may be better: λ and γ are chosen together.

Only sums over the images are needed, so maps are never kept. The sums of some images can be subtracted from those of
all, so cross-validation costs no second pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from finetune.solvers.gram import gram
from finetune.solvers.ridge import solve_moments

BEHIND = 30.0  # its softmax is 1e-13 of the other's: less than float32 can add to it


@dataclass(frozen=True)
class Moments:
    """Sums over cells, each weighted by its pixels; float64. Features are measured from a fixed center."""

    pixels: Tensor  # [C], of each class
    sums: Tensor  # [D C], of the features of each class's pixels
    products: Tensor  # [D D], Σ w x xᵀ

    @classmethod
    def none(cls, width: int, classes: int, device: torch.device) -> Moments:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.float64, device=device)

        return cls(zeros(classes), zeros(width, classes), zeros(width, width))

    def add_(self, cells: Tensor, counts: Tensor, center: Tensor) -> None:
        """Add cells ``[n D]``, float32, with counts ``[n C]`` of pixels.

        Args:
            center: float32 ``[D]``, close to the mean: rounding errors grow with the distance from it.
        """
        counts = counts.double()
        self.pixels.add_(counts.sum(0))
        self.sums.add_((cells - center).double().T @ counts)
        self.products.add_(gram(cells, center, counts.sum(1)))

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.pixels + other.pixels, self.sums + other.sums, self.products + other.products)

    def __sub__(self, other: Moments) -> Moments:
        return Moments(self.pixels - other.pixels, self.sums - other.sums, self.products - other.products)


@dataclass(frozen=True)
class Discriminant:
    """Linear scores of cells, one set for each strength. A class without pixels is never the answer."""

    center: Tensor  # float32 [D], that features are measured from
    weight: Tensor  # float32 [G D C]
    bias: Tensor  # float32 [G C], without the share of the classes
    log_share: Tensor  # float32 [C]; -inf for a class without pixels

    def scores(self, maps: Tensor) -> Tensor:
        """Maps ``[B D h w]`` -> scores without the share of the classes, float32 ``[G B C h w]``."""
        centered = maps.float() - self.center[:, None, None]
        return torch.einsum("bdhw,gdc->gbchw", centered, self.weight) + self.bias[:, None, :, None, None]

    def shares(self, prior: float) -> Tensor:
        """What the share of each class adds to its score, ``[C]``: γ log π."""
        return torch.where(self.log_share.isfinite(), prior * self.log_share, -torch.inf)

    def folded(self, prior: float) -> tuple[Tensor, Tensor]:
        """Weight ``[D C]`` and bias ``[C]`` of the first strength, with center and shares in it, float32 on the CPU.

        A class without pixels has the scores of the most frequent class minus ``BEHIND``: so it is never the answer,
        and its scores are as large as others.
        """
        weight = self.weight[0].double()
        bias = self.bias[0].double() - self.center.double() @ weight + self.shares(prior).double()
        there, most = self.log_share.isfinite(), int(self.log_share.argmax())
        weight = torch.where(there, weight, weight[:, most, None])
        bias = torch.where(there, bias, bias[most] - BEHIND)
        return weight.float().cpu(), bias.float().cpu()

    def only(self, place: int) -> Discriminant:
        """The discriminant of one strength."""
        some = slice(place, place + 1)
        return Discriminant(self.center, self.weight[some], self.bias[some], self.log_share)


def discriminant(moments: Moments, center: Tensor, strengths: Sequence[float]) -> Discriminant:
    """The scores for each strength, from the moments of the cells that they are fitted on."""
    n = moments.pixels.sum()
    there = moments.pixels > 0
    share = moments.pixels / n
    mean = moments.sums.sum(1) / n
    means = torch.where(there, moments.sums / moments.pixels.clamp_min(1) - mean[:, None], 0)  # from the common mean
    total = moments.products / n - torch.outer(mean, mean)
    deviation = total.diagonal().clamp_min(0).sqrt()
    # constant up to float32 rounding, as in `Standardizer`
    scale = torch.where(deviation <= 1e-6 * (mean + center).abs() + 1e-30, torch.inf, deviation)
    within = (total - (means * share) @ means.T) / torch.outer(scale, scale)
    means = means / scale[:, None]
    weight = solve_moments(within, means, strengths)  # [G D C], of standardized features
    bias = -0.5 * (means * weight).sum(1)
    weight = weight / scale[:, None]
    bias = bias - torch.einsum("d,gdc->gc", mean, weight)
    log_share = torch.where(there, share.clamp_min(1e-300).log(), -torch.inf)
    return Discriminant(center, weight.float(), bias.float(), log_share.float())
