"""The attentive pooling probe: which positions of a map are averaged is learned together with the linear classifier.

For a map with positions ``x_p`` (``D`` numbers each), every head h has a query ``q_h``:

    a_hp = softmax_p(q_hᵀ x_p / √D),    z_h = Σ_p a_hp x_p,    logits = Σ_h W_hᵀ z_h + b

    minimize over q, W, b   (1/n) Σ_i cross_entropy(logits_i, y_i)  +  (λ/2) (Σ_h ‖W_h‖²_F H + Σ_h ‖q_h‖²)

It is attention pooling with a class token as in CaiT (Touvron et al. 2021) and V-JEPA's probe (Bardes et al. 2024),
without their further layers. With queries of zero the attention is uniform: positions are standardized by the
statistics of their average, so this is the linear probe of average-pooled features, with the same penalty. Training
starts at its solution and goes on by L-BFGS, which needs no learning rate. How far it goes is part of the method.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import cross_entropy

from common.errors import UserError
from finetune.pooling import Shape, Space, build_spaces, cells_within
from finetune.probes.base import Probe
from finetune.probes.classifiers import Answers, Classifiers, Rows
from finetune.probes.linear import CHOOSING, FINAL
from finetune.probes.search import LayerChoice, Standardizer, Task
from finetune.records import Setting
from finetune.solvers.gram import blocks
from finetune.solvers.logistic import fit_logistic

ROWS = 512  # images whose attention is computed at once
START = 0.01  # standard deviation of the first queries: heads that start equal would stay equal


class Attentive(Probe):
    """Attention over the positions of a map, then logistic regression."""

    kind: Literal["attentive"] = "attentive"
    layers: tuple[LayerChoice, ...] | None = Field(default=None, min_length=1)
    """Maps to choose from: numbers or each; by default the last one that has more than one position."""
    cells: int = Field(default=8, ge=2, le=16)
    """Larger maps are averaged to this many positions per side, or to fewer if they exceed max_width features."""
    heads: tuple[Annotated[int, Field(gt=0, le=64)], ...] = Field(default=(1, 4), min_length=1)
    """Numbers of queries to choose from."""
    l2: tuple[Annotated[float, Field(ge=1e-12, le=1e12)], ...] = Field(default=(1e-4, 1e-3, 1e-2, 1e-1), min_length=1)
    """Regularization strengths to choose from."""
    steps: int = Field(default=50, ge=0, le=10_000)
    """Steps of L-BFGS from the linear probe of averages; 0 is that probe itself."""

    @property
    def text(self) -> str:
        return f"attentive probe ({self.steps} steps from uniform attention)"

    def spaces(self, shapes: Sequence[Shape], searched: list[Space], max_width: int) -> list[Space]:
        """One for each map, averaged to as many cells as fit.

        Raises:
            UserError: no map, or one that was asked for, has more than one position.
        """
        several = [layer for layer, (_, h, w) in enumerate(shapes) if h * w > 1]
        if not several:
            raise UserError("attentive: this encoder's maps have one position each, so there is nothing to attend to")
        one = (0,) if len(shapes) == 1 else None  # raw pixels have no other
        chosen, _ = build_spaces(shapes, one or self.layers or (several[-1],), ["avg"], max_width)
        found = []
        for space in chosen:
            if len(space.layers) > 1 or space.layers[0] not in several:
                names = ", ".join(map(str, several))
                raise UserError(
                    f"attentive.layers: layer {space.layer} is not a single map with several positions; choose among "
                    f"{names}, or each where all have"
                )
            found.append(cells_within(space.layers[0], shapes[space.layers[0]], self.cells, max_width))
        return found

    def grid(self, task: Task) -> list[Setting]:
        strengths, heads = sorted(set(self.l2)), sorted(set(self.heads), reverse=True)
        grid: list[Setting] = []
        for count in heads:
            grid += [{"l2": strength, "heads": count} for strength in strengths]
        return grid

    def standardizer(self, matrix: Tensor, space: Space) -> Standardizer:
        """By the statistics of each channel's average, the same for all positions."""
        averages = Standardizer.of(_tokens(matrix, space.positions).mean(2))
        return Standardizer(*(part.repeat_interleave(space.positions) for part in (averages.mean, averages.scale)))

    def fit(self, rows: Rows, settings: Sequence[Setting], *, final: bool) -> AttentiveClassifiers:
        l2 = [setting["l2"] for setting in settings]
        averages = _tokens(rows.features, rows.positions).mean(2)
        tolerance = FINAL if final else CHOOSING
        start = fit_logistic(averages, rows.labels, rows.classes, l2, tolerance=tolerance, confirm=final)
        models, unconverged = [], {*start.unconverged}
        for place, setting in enumerate(settings):
            model = Attention.around(start.weight[place], start.bias[place], int(setting["heads"]), rows.positions)
            if not model.train(rows.features, rows.labels, setting["l2"], self.steps):
                unconverged.add(place)
            models.append(model)
        return AttentiveClassifiers(models, tuple(sorted(unconverged)))


class Attention:
    """One classifier.

    Attributes:
        query: ``[H D]``.
        weight: ``[H D C]``.
        bias: ``[C]``.
    """

    def __init__(self, query: Tensor, weight: Tensor, bias: Tensor, positions: int) -> None:
        self.query, self.weight, self.bias, self.positions = query, weight, bias, positions

    @classmethod
    def around(cls, weight: Tensor, bias: Tensor, heads: int, positions: int) -> Attention:
        """Nearly uniform attention with the weights ``[D C]`` of a linear classifier, shared by all heads."""
        generator = torch.Generator().manual_seed(0)
        query = START * torch.randn(heads, len(weight), generator=generator).to(weight)
        return cls(query, (weight / heads).expand(heads, -1, -1).clone(), bias.clone(), positions)

    def logits(self, features: Tensor) -> Tensor:
        """Standardized features ``[b D*P]`` -> ``[b C]``."""
        tokens = _tokens(features, self.positions)
        scores = torch.einsum("bdp,hd->bhp", tokens, self.query / math.sqrt(tokens.shape[1]))
        pooled = torch.einsum("bdp,bhp->bhd", tokens, scores.softmax(2))
        return torch.einsum("bhd,hdc->bc", pooled, self.weight) + self.bias

    def penalty(self) -> Tensor:
        """Half of what λ multiplies: with equal heads, that of the linear classifier that they add up to."""
        return (len(self.query) * self.weight.square().sum() + self.query.square().sum()) / 2

    def train(self, features: Tensor, labels: Tensor, l2: float, steps: int) -> bool:
        """Minimize the objective above by ``steps`` steps of L-BFGS (torch's, with a strong Wolfe line search).

        Returns:
            Whether it ends at no higher value than its start; if not, it is left at the lowest value on its way.
        """
        if steps == 0:
            self.query.zero_()
            return True
        parameters = [self.query, self.weight, self.bias]
        for one in parameters:
            one.requires_grad_()
        optimizer = torch.optim.LBFGS(parameters, max_iter=steps, history_size=10, line_search_fn="strong_wolfe")

        values: list[float] = []
        lowest: list[Tensor] = []

        def objective() -> Tensor:
            optimizer.zero_grad()
            value = l2 * self.penalty()
            value.backward()  # type: ignore[no-untyped-call]
            total = value.detach()
            for some, y in zip(blocks(features, ROWS), blocks(labels, ROWS), strict=True):
                loss = cross_entropy(self.logits(some), y, reduction="sum") / len(features)
                loss.backward()  # type: ignore[no-untyped-call]
                total = total + loss.detach()
            if not values or float(total) < min(values):
                lowest[:] = [one.detach().clone() for one in parameters]
            values.append(float(total) if total.isfinite() else math.inf)
            return total

        with torch.enable_grad():
            optimizer.step(objective)  # type: ignore[no-untyped-call]
            sound = float(objective()) <= values[0]
        for one, best in zip(parameters, lowest, strict=True):
            one.requires_grad_(False)
            if not sound:
                one.copy_(best)
        return sound


class AttentiveClassifiers(Classifiers):
    """Attentive classifiers, one per setting."""

    def __init__(self, models: Sequence[Attention], unconverged: tuple[int, ...] = ()) -> None:
        self.models, self._unconverged = models, unconverged

    @property
    def unconverged(self) -> tuple[int, ...]:
        """Those whose linear probe, at which they start, did not converge, and those that got no better than it."""
        return self._unconverged

    def predict(self, features: Tensor) -> Tensor:
        return torch.stack([_logits(model, features).argmax(1) for model in self.models])

    def answers(self, features: Tensor) -> Answers:
        """With the softmax of the logits."""
        confidence, classes = _logits(self.models[0], features).softmax(1).max(1)
        return Answers(classes, confidence)


def _logits(model: Attention, features: Tensor) -> Tensor:
    return torch.cat([model.logits(rows) for rows in blocks(features, ROWS)])


def _tokens(features: Tensor, positions: int) -> Tensor:
    """Features ``[n D*P]`` of a map -> ``[n D P]``."""
    return features.view(len(features), -1, positions)
