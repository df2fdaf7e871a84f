"""Multinomial logistic regression over a whole grid of L2 strengths, solved together.

For each strength λ of the grid, with features ``x_i`` and labels ``y_i``, ``i = 1..n``:

    minimise over W, b   (1/n) Σ_i cross_entropy(Wᵀ x_i + b, y_i)  +  (λ/2) ‖W‖²_F        (the bias is not penalised)

scikit-learn's ``LogisticRegression(C=1 / (n λ))`` has the same minimum.

The solver is L-BFGS (Nocedal & Wright 2006, algorithm 7.4), each strength with its own history, line search and
convergence. Four things make it fast:

- One product serves the grid: the problems share the features, so ``[n F] x [F G·C]`` gives all their logits in
  one pass over the features.
- Logits are linear in the weights: the product of the *direction* with the features is computed once per iteration,
  and the line search then only evaluates ``logits + t · slopes``, without touching the features again.
- The preconditioner is the inverse Hessian with its softmax part averaged: ``H₀ = (s A + λ I)⁻¹``, where ``A`` is the
  centred Gram matrix and ``s`` the mean curvature ``E[1 - Σ_c p_c²] / (C - 1)`` at the current point. (Böhning 1992,
  *Multinomial logistic regression algorithm*, bounds the Hessian by the same matrix with ``s = 1/2``: safe, but its
  steps are several times too short.) Correlated features then need no more iterations than independent ones.
- With fewer rows than features, the rows are first replaced by their coordinates in their own span,
  ``[n F] -> [n r]``, ``r < n``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from finetune.solvers.gram import blocks, column_mean
from finetune.solvers.preconditioner import Preconditioner, Span, few_rows

MEMORY = 2 << 30  # bytes for logits, slopes and probabilities; strengths that do not fit are solved in later groups
SUFFICIENT, FLAT = 1e-4, 0.5  # Wolfe constants: sufficient decrease, and curvature
MOST_TRIALS = 20  # step lengths tried per line search
ROUNDING = 1e-7  # relative change of the objective that float32 cannot resolve


@dataclass(frozen=True)
class LinearFit:
    """Linear classifiers for each of G strengths, in the given order."""

    l2: tuple[float, ...]
    weight: Tensor  # [G F C]
    bias: Tensor  # [G C]
    objective: Tensor  # [G], float64

    def predict(self, features: Tensor) -> Tensor:
        """Features ``[n F]`` -> the class with the largest logit under each strength, int64 ``[G n]``."""
        G, F, C = self.weight.shape
        flat = self.weight.permute(1, 0, 2).reshape(F, G * C)
        parts = [(rows @ flat).view(-1, G, C).add_(self.bias).argmax(2) for rows in blocks(features)]
        return torch.cat(parts).T.contiguous()


@dataclass(frozen=True)
class LogisticFit(LinearFit):
    """Logistic classifiers, with the number of solver steps and whether each converged."""

    steps: tuple[int, ...]
    converged: tuple[bool, ...]


def fit_logistic(
    features: Tensor,
    labels: Tensor,
    classes: int,
    l2: Sequence[float],
    *,
    start: tuple[Tensor, Tensor] | None = None,
    preconditioner: Preconditioner | None = None,
    tolerance: float = 1e-5,
    max_steps: int = 500,
    history: int = 10,
) -> LogisticFit:
    """Fit one classifier per strength in ``l2``.

    Args:
        features: ``[n F]``, float32 or float64; also the precision of the computation; losses are summed in float64.
        labels: int64 ``[n]`` in ``0..classes-1``.
        classes: number of classes C, at least 2; a class may be absent.
        l2: strengths λ > 0, on the scale of the mean loss.
        start: initial weights ``[F C]`` and bias ``[C]`` of all problems; zero by default.
        preconditioner: of these or nearly these features; computed from them by default. Unused for few rows,
            whose span has its own.
        tolerance: a problem is solved when the decrease predicted by its quadratic model is below this fraction of its
            objective (or below the numerical precision).
        max_steps: iterations after which a problem stops without having converged (see ``converged``).
        history: pairs of steps and gradient changes that L-BFGS keeps.

    Raises:
        ValueError: shapes, labels or strengths are invalid.
    """
    check_problem(features, labels, classes, l2)
    exact_mean = column_mean(features)
    mean = exact_mean.to(features.dtype)
    if start is not None:
        weight, bias = (part.to(features) for part in start)
        start = weight, bias + mean @ weight
    if few_rows(features):
        span = Span(features, exact_mean)
        if start is not None:
            start = span.coordinates_of(start[0]), start[1]
        rows, row_mean, preconditioner = span.coordinates, torch.zeros_like(span.coordinates[0]), span.preconditioner
    else:
        span, rows, row_mean, preconditioner = None, features, mean, preconditioner or Preconditioner.of(features)
    # logits, slopes, probabilities and a temporary; and the histories
    per_problem = rows.element_size() * classes * (4 * len(rows) + 2 * (history + 4) * rows.shape[1])
    group = max(1, min(len(l2), MEMORY // per_problem))
    parts: list[_Problems] = []
    # strongest first: if the grid is solved in groups, each starts from the nearest solution so far
    order = sorted(range(len(l2)), key=lambda index: -l2[index])
    for first in range(0, len(order), group):
        strengths = [l2[index] for index in order[first : first + group]]
        problems = _Problems(rows, labels, classes, strengths, row_mean, preconditioner, history)
        if parts:
            problems.begin(parts[-1].weight[-1].T, parts[-1].centred_bias[-1])
        elif start is not None:
            problems.begin(*start)
        problems.solve(tolerance, max_steps)
        parts.append(problems)
    back = torch.tensor(order).argsort().tolist()
    weight = torch.cat([part.weight for part in parts])[back].transpose(1, 2)
    weight = (weight if span is None else span.weight_of(weight)).contiguous()
    bias = torch.cat([part.centred_bias for part in parts])[back] - mean @ weight
    steps = [count for part in parts for count in part.steps]
    converged = [done for part in parts for done in part.converged]
    return LogisticFit(
        tuple(l2),
        weight,
        bias,
        objective(features, labels, weight, bias, l2),
        tuple(steps[index] for index in back),
        tuple(converged[index] for index in back),
    )


def objective(features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, l2: Sequence[float]) -> Tensor:
    """The objective above at weights ``[G F C]`` and biases ``[G C]``, float64 ``[G]``."""
    G, F, C = weight.shape
    flat = weight.permute(1, 0, 2).reshape(F, G * C)
    total = torch.zeros(G, dtype=torch.float64, device=features.device)
    for rows, y in zip(blocks(features), blocks(labels), strict=True):
        logits = (rows @ flat).view(-1, G, C) + bias
        chosen = logits.gather(2, y.view(-1, 1, 1).expand(-1, G, 1)).squeeze(2)
        total += (logits.logsumexp(2) - chosen).sum(0, dtype=torch.float64)
    penalty = weight.double().square().sum(dim=(1, 2)) * torch.tensor(l2, dtype=torch.float64, device=total.device)
    return total / len(features) + penalty / 2


class _Problems:
    """The state of one group of problems during the solve.

    The class dimension comes before rows or features, ``[g C n]`` and ``[g C F]``: softmax then runs over long
    contiguous rows (20 times faster than over the last dimension), and solved problems are dropped by slicing. The bias
    is for centred features: it does not depend on the weights, so the preconditioner can treat the two separately.
    """

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        classes: int,
        l2: Sequence[float],
        mean: Tensor,
        preconditioner: Preconditioner,
        history: int,
    ) -> None:
        self.features, self.labels, self.preconditioner, self.history = features, labels, preconditioner, history
        self.mean = mean
        self.l2 = features.new_tensor(list(l2))
        self.weight = features.new_zeros(len(l2), classes, features.shape[1])
        self.centred_bias = features.new_zeros(len(l2), classes)
        self.steps, self.converged = [0] * len(l2), [False] * len(l2)

    def begin(self, weight: Tensor, centred_bias: Tensor) -> None:
        """Start every problem from weights ``[F C]`` and the bias of centred features ``[C]``."""
        self.weight = weight.T.expand_as(self.weight).clone()
        self.centred_bias = centred_bias.expand_as(self.centred_bias).clone()

    def solve(self, tolerance: float, max_steps: int) -> None:
        """L-BFGS on every problem until it is solved; solved ones leave the batch."""
        active = torch.arange(len(self.l2), device=self.l2.device)
        l2 = self.l2
        point = torch.cat([self.weight, self.centred_bias[:, :, None]], dim=2)  # [g C F+1]
        logits = self._product(point)  # [g C n]
        here = self._evaluate(logits)
        value, gradient = self._penalised(here, point, l2)
        pairs: list[_Pair] = []
        stalled = torch.zeros_like(active, dtype=torch.bool)
        # the rounding error of a loss near 0: no smaller decrease can be measured
        floor = torch.finfo(logits.dtype).eps
        for step_index in range(max_steps + 1):
            direction = -self._inverse_hessian(gradient, here.curvature, l2, pairs)
            slope = _dot(direction, gradient)
            done = -slope / 2 <= tolerance * value + floor
            leaving = torch.ones_like(done) if step_index == max_steps else done | stalled
            if bool(leaving.any()):
                self._store(active, point, leaving, done, step_index)
                keep = (~leaving).nonzero().squeeze(1)
                if not len(keep):
                    return
                active, l2, point, logits = active[keep], l2[keep], point[keep], logits[keep]
                value, gradient, direction, slope = value[keep], gradient[keep], direction[keep], slope[keep]
                pairs = [pair.only(keep) for pair in pairs]
            slopes = self._product(direction)
            length, here, stalled = self._line_search(logits, slopes, point, direction, value, slope, l2)
            step = length[:, None, None] * direction
            point = point + step
            logits += length[:, None, None] * slopes
            value, new_gradient = self._penalised(here, point, l2)
            pairs = [*pairs, _Pair.of(step, new_gradient - gradient)][-self.history :]
            gradient = new_gradient

    def _product(self, point: Tensor) -> Tensor:
        """Weights and bias ``[g C F+1]`` -> logits of all rows ``[g C n]``."""
        weight, bias = point[..., :-1], point[..., -1]
        g, C, F = weight.shape
        # [n F] x [F g·C]: this order reads the features once, and was the fastest of the four in measurements on CPUs
        logits = torch.mm(weight.reshape(g * C, F), self.features.T).view(g, C, -1)
        return logits.add_((bias - weight @ self.mean)[:, :, None])

    def _evaluate(self, logits: Tensor) -> _Point:
        """Logits ``[g C n]`` -> mean loss, residual and curvature; the loss is summed in float64."""
        log_p = logits.log_softmax(1)
        rows = self.labels.expand(len(logits), 1, -1)
        loss = -log_p.gather(1, rows).sum(dim=(1, 2), dtype=torch.float64) / logits.shape[2]
        residual = log_p.exp_()
        classes = logits.shape[1]
        curvature = (1 - residual.square().sum(1).mean(1)) / (classes - 1)
        residual.scatter_add_(1, rows, residual.new_full((1, 1, 1), -1).expand_as(rows))
        return _Point(loss, residual, curvature.clamp_min(1e-6))

    def _penalised(self, here: _Point, point: Tensor, l2: Tensor) -> tuple[Tensor, Tensor]:
        """The objective, float64 ``[g]``, and its gradient ``[g C F+1]``."""
        weight = point[..., :-1]
        g, C, n = here.residual.shape
        total = here.residual.sum(2)
        gradient = (here.residual.view(g * C, n) @ self.features).view_as(weight) - total[:, :, None] * self.mean
        gradient = gradient / n + l2[:, None, None] * weight
        value = here.loss + l2.double() / 2 * weight.double().square().sum(dim=(1, 2))
        return value, torch.cat([gradient, total[:, :, None] / n], dim=2)

    def _inverse_hessian(self, gradient: Tensor, curvature: Tensor, l2: Tensor, pairs: list[_Pair]) -> Tensor:
        """Two-loop recursion: L-BFGS's inverse Hessian times the gradient ``[g C F+1]``."""
        result = gradient
        factors: list[Tensor] = []
        for pair in reversed(pairs):
            factors.append(pair.weight * _dot(pair.step, result))
            result = result - factors[-1][:, None, None] * pair.change
        weight = self.preconditioner.apply(result[..., :-1], curvature, l2)
        result = torch.cat([weight, result[..., -1:] / curvature[:, None, None]], dim=2)
        for pair, factor in zip(pairs, reversed(factors), strict=True):
            result = result + (factor - pair.weight * _dot(pair.change, result))[:, None, None] * pair.step
        return result

    def _line_search(
        self,
        logits: Tensor,
        slopes: Tensor,
        point: Tensor,
        direction: Tensor,
        value: Tensor,
        slope: Tensor,
        l2: Tensor,
    ) -> tuple[Tensor, _Point, Tensor]:
        """Step lengths that meet the strong Wolfe conditions, the points they lead to, and which searches failed.

        Along a line the objective is convex and its derivative needs no product with the features. So a bracketed
        secant method searches for a zero of the derivative. The first trial is 1, which is nearly always good enough.
        """
        weight, along = point[..., :-1], direction[..., :-1]
        linear, square = l2 * _dot(weight, along), l2 * _dot(along, along)
        norm = l2.double() / 2 * weight.double().square().sum(dim=(1, 2))
        length, low, high = torch.ones_like(slope), torch.zeros_like(slope), torch.full_like(slope, torch.inf)
        low_slope, high_slope = slope.clone(), torch.zeros_like(slope)
        pending = torch.arange(len(slope), device=slope.device)
        found: _Point | None = None
        for _ in range(MOST_TRIALS):
            here = self._evaluate(logits[pending] + length[pending, None, None] * slopes[pending])
            found = here if found is None else found.replaced(pending, here)
            t = length[pending]
            slope_t = (here.residual * slopes[pending]).sum(dim=(1, 2)) / logits.shape[2]
            slope_t = slope_t + linear[pending] + t * square[pending]
            penalty = norm[pending] + (t * linear[pending] + t.square() / 2 * square[pending]).double()
            # with float32 logits the loss has a relative error of about 1e-6: smaller decreases are not required
            enough = value[pending] * (1 + ROUNDING) + (SUFFICIENT * t * slope[pending]).double()
            falls = here.loss + penalty <= enough
            flat = slope_t.abs() <= -FLAT * slope[pending]
            back = ~falls | (slope_t > 0)
            low[pending] = torch.where(back, low[pending], t)
            low_slope[pending] = torch.where(back, low_slope[pending], slope_t)
            high[pending] = torch.where(back, t, high[pending])
            high_slope[pending] = torch.where(back, slope_t.clamp_min(0), high_slope[pending])
            pending = pending[~(falls & flat)]
            if not len(pending):
                break
            length[pending] = _secant(low[pending], low_slope[pending], high[pending], high_slope[pending])
        assert found is not None
        stalled = torch.zeros_like(slope, dtype=torch.bool)
        stalled[pending] = True  # happens only if rounding hides all progress
        return length, found, stalled

    def _store(self, active: Tensor, point: Tensor, leaving: Tensor, done: Tensor, step: int) -> None:
        places = active[leaving]
        self.weight[places], self.centred_bias[places] = point[leaving][..., :-1], point[leaving][..., -1]
        for place, converged in zip(places.tolist(), done[leaving].tolist(), strict=True):
            self.steps[place], self.converged[place] = step, converged


class _Point(NamedTuple):
    """Loss, residual and curvature of the active problems at one point."""

    loss: Tensor  # [g], float64
    residual: Tensor  # probabilities minus one-hot labels [g C n]
    curvature: Tensor  # [g]

    def replaced(self, places: Tensor, other: _Point) -> _Point:
        for mine, new in zip(self, other, strict=True):
            mine[places] = new
        return self


class _Pair(NamedTuple):
    """One stored step and the change of gradient along it, ``[g C F+1]``; weight is 1 / their product ``[g]``."""

    step: Tensor
    change: Tensor
    weight: Tensor

    @classmethod
    def of(cls, step: Tensor, change: Tensor) -> _Pair:
        product = _dot(step, change)
        # a pair without positive curvature can only be a rounding error: a weight of zero discards it
        usable = product > torch.finfo(product.dtype).eps * _dot(change, change).sqrt() * _dot(step, step).sqrt()
        return cls(step, change, torch.where(usable, 1 / product, torch.zeros_like(product)))

    def only(self, keep: Tensor) -> _Pair:
        return _Pair(*(part[keep] for part in self))


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """``[g C F] . [g C F] -> [g]``."""
    return torch.einsum("gcf,gcf->g", a, b)


def _secant(low: Tensor, low_slope: Tensor, high: Tensor, high_slope: Tensor) -> Tensor:
    """The next trial: where the secant of the derivative crosses zero, inside the bracket; farther out without one."""
    width = high - low
    crossing = low + width * low_slope / (low_slope - high_slope)
    inside = torch.clamp(crossing, low + 0.1 * width, high - 0.1 * width)
    return torch.where(high.isinf(), 4 * low.clamp_min(0.25), inside)


def check_problem(features: Tensor, labels: Tensor, classes: int, l2: Sequence[float]) -> None:
    """Raise ValueError unless these define a classification problem with a penalty."""
    if features.ndim != 2 or labels.shape != features.shape[:1] or not len(features):
        shapes = f"{list(features.shape)} and {list(labels.shape)}"
        raise ValueError(f"expected features [n F] and labels [n] with n > 0, got {shapes}")
    if features.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"features must be float32 or float64, got {features.dtype}")
    if classes < 2 or int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise ValueError(f"labels must be in 0..{classes - 1}, with at least 2 classes")
    if not l2 or min(l2) <= 0:
        raise ValueError(f"every strength must be positive, got {list(l2)}: without a penalty there may be no minimum")
