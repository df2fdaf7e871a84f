"""Multinomial logistic regression over a whole grid of L2 strengths, solved together.

For each strength λ of the grid, with features ``x_i`` and labels ``y_i``, ``i = 1..n``:

    minimize over W, b   (1/n) Σ_i cross_entropy(Wᵀ x_i + b, y_i)  +  (λ/2) ‖W‖²_F        (the bias is not penalized)

scikit-learn's ``LogisticRegression(C=1 / (n λ))`` has the same minimum. Where a row has any number of labels, given as
bool ``[n L]``, each label has a logistic regression of its own, and their losses are summed:

    minimize over W, b   (1/n) Σ_i Σ_l log(1 + exp(∓(w_lᵀ x_i + b_l)))  +  (λ/2) ‖W‖²_F

The solver is L-BFGS (``lbfgs.py``), each strength with its own history, line search and convergence. Four things make
it fast:

- One product serves the grid: the problems share the features, so ``[n F] x [F G·C]`` gives all their logits in
  one pass over the features.
- Logits are linear in the weights: the product of the *direction* with the features is computed once per iteration,
  and the line search then only evaluates ``logits + t · slopes``, without touching the features again.
- The preconditioner is the inverse Hessian with its softmax part averaged: ``H₀ = (s A + λ I)⁻¹``, where ``A`` is the
  centered Gram matrix and ``s`` the mean curvature ``E[1 - Σ_c p_c²] / (C - 1)`` at the current point. (Böhning 1992,
  *Multinomial logistic regression algorithm*, bounds the Hessian by the same matrix with ``s = 1/2``: safe, but its
  steps are several times too short.) Correlated features then need no more iterations than independent ones.
- With fewer rows than features, and no preconditioner at hand, the rows are first replaced by their coordinates in
  their own span, ``[n F] -> [n r]``, ``r < n``.

The decrease that is left is predicted with that preconditioner, so it is too small where the averaged curvature is too
large: rows that are far out, or rare, are soon fitted and have no curvature any more. Where the rows have much less
curvature at the solution than assumed, the fit is continued with a preconditioner that knows it, and ended by Newton
steps with the true curvature (``newton.py``), which tell what is left.

Fits that have not converged are continued in float64, with a preconditioner from more rows, a longer history and more
steps. ``LogisticFit.converged`` names those that fail even then.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.machine.memory import available_memory
from finetune.solvers import newton
from finetune.solvers.gram import blocks, column_mean
from finetune.solvers.lbfgs import IndependentProblems, Problems
from finetune.solvers.preconditioner import TINY, Preconditioner, Span, few_rows, share_of_assumed

MEMORY = 2 << 30  # bytes for logits, slopes and probabilities; strengths that do not fit are solved in later groups
# curvature at the solution, as a share of what the preconditioner assumes, below which a fit is confirmed: dense
# features have 0.89 or more, sparse and low-rank ones 0.5 to 0.85, outlying rows 0.1; fits that ended more than 1e-4
# above their minimum had 0.87 or less
DOUBTFUL = 0.9
CAREFUL_EFFORT, CAREFUL_HISTORY = 8, 50  # sample of the preconditioner and history of a careful fit


@dataclass(frozen=True)
class LinearFit:
    """Linear classifiers for each of G strengths, in the given order."""

    l2: tuple[float, ...]
    weight: Tensor  # [G F C]
    bias: Tensor  # [G C]
    objective: Tensor  # [G], float64

    @property
    def unconverged(self) -> tuple[int, ...]:
        """Which strengths, by their places, have a fit that is not the minimum; none of a closed form."""
        return ()

    def near(self, l2: float) -> tuple[Tensor, Tensor]:
        """Weights ``[F C]`` and bias ``[C]`` of the nearest strength."""
        place = min(range(len(self.l2)), key=lambda place: abs(math.log(self.l2[place] / l2)))
        return self.weight[place], self.bias[place]

    def predict(self, features: Tensor) -> Tensor:
        """Features ``[n F]`` -> the class with the largest logit under each strength, int64 ``[G n]``."""
        G, F, C = self.weight.shape
        flat = self.weight.permute(1, 0, 2).reshape(F, G * C)
        parts = [(rows @ flat).view(-1, G, C).add_(self.bias).argmax(2) for rows in blocks(features)]
        return torch.cat(parts).T.contiguous()

    def outputs(self, features: Tensor) -> Tensor:
        """Features ``[n F]`` -> what each strength gives for each class or label, ``[G n C]``."""
        return torch.stack([features @ weight + bias for weight, bias in zip(self.weight, self.bias, strict=True)])


@dataclass(frozen=True)
class LogisticFit(LinearFit):
    """Logistic classifiers, with the number of solver steps and whether each converged."""

    steps: tuple[int, ...]
    converged: tuple[bool, ...]

    def confident(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``[n F]`` -> answers of the first classifier, int64 ``[n]``, with their probabilities ``[n]``."""
        logits = (rows @ self.weight[0] + self.bias[0] for rows in blocks(features))
        parts = [(one.argmax(1), one.float().softmax(1).amax(1)) for one in logits]
        return torch.cat([classes for classes, _ in parts]), torch.cat([share for _, share in parts])

    @property
    def unconverged(self) -> tuple[int, ...]:
        return tuple(place for place, done in enumerate(self.converged) if not done)

    def replaced(self, places: Sequence[int], other: LogisticFit) -> LogisticFit:
        """A copy with the fits of another at these places, whose steps continued these."""
        weight, bias, values = self.weight.clone(), self.bias.clone(), self.objective.clone()
        at = list(places)
        weight[at], bias[at], values[at] = other.weight.to(weight), other.bias.to(bias), other.objective
        steps, converged = list(self.steps), list(self.converged)
        for place, more, done in zip(places, other.steps, other.converged, strict=True):
            steps[place], converged[place] = steps[place] + more, done
        return LogisticFit(self.l2, weight, bias, values, tuple(steps), tuple(converged))


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
    confirm: bool = True,
    careful_steps: int = 2000,
    history: int = 10,
) -> LogisticFit:
    """Fit one classifier per strength in ``l2``. No objective ends above that of its start.

    Args:
        features: ``[n F]``, float32 or float64; also the precision of the computation; losses are summed in float64.
        labels: int64 ``[n]`` in ``0..classes-1``; or bool ``[n L]``, independent labels.
        classes: number of classes C, at least 2; a class may be absent. Of independent labels, L.
        l2: strengths λ > 0, on the scale of the mean loss.
        start: initial weights ``[F C]`` and bias ``[C]`` of all problems; zero by default.
        preconditioner: of these or nearly these features. By default it is computed from them; few rows are then
            solved in their span, which has its own.
        tolerance: a problem is solved when the decrease predicted by its quadratic model is below this fraction of its
            objective (or below the numerical precision), and the decrease extrapolated from its latest steps is of
            the same order.
        max_steps: iterations after which a problem stops.
        confirm: whether a fit is continued with the curvature at its solution, if that is much less than assumed.
        careful_steps: iterations of the careful fit that continues one that stopped without having converged; 0 for
            none. It needs 8 bytes per feature and row, and computes in the features' precision if they are not free.
        history: pairs of steps and gradient changes that L-BFGS keeps.

    Raises:
        ValueError: shapes, labels, features or strengths are invalid.
    """
    check_problem(features, labels, classes, l2)
    G, F = len(l2), features.shape[1]
    if start is None:
        weight, bias = features.new_zeros(G, F, classes), features.new_zeros(G, classes)
    else:
        weight, bias = (part.to(features).expand(G, *part.shape) for part in start)
    chained = start is None
    if few_rows(features) and preconditioner is None:
        base: Preconditioner | Span = Span(features, column_mean(features))
    else:
        base = preconditioner or Preconditioner.of(features)
    fit = _fit(features, labels, l2, weight, bias, base, tolerance, max_steps, history, chained=chained)
    if confirm:
        fit = _confirmed(fit, features, labels, base, tolerance, max_steps, history)
    again = fit.unconverged
    if not again or careful_steps == 0:
        return fit
    exact = features.double() if _fits_in_float64(features) else features
    exact_base = base.of(exact) if isinstance(base, Span) else Preconditioner.of(exact, CAREFUL_EFFORT)
    settings = tolerance, careful_steps, max(history, CAREFUL_HISTORY)
    weight, bias = (part[list(again)].to(exact) for part in (fit.weight, fit.bias))
    careful = _fit(exact, labels, [l2[index] for index in again], weight, bias, exact_base, *settings, chained=False)
    if confirm:
        careful = _confirmed(careful, exact, labels, exact_base, *settings)
    return fit.replaced(again, careful)


def _fit(
    features: Tensor,
    labels: Tensor,
    l2: Sequence[float],
    weight: Tensor,
    bias: Tensor,
    base: Preconditioner | Span,
    tolerance: float,
    max_steps: int,
    history: int,
    *,
    chained: bool,
    certain: bool = False,
) -> LogisticFit:
    """Fit once, from weights ``[G F C]`` and biases ``[G C]``.

    Args:
        base: the span of the features if they are few rows, else their preconditioner.
        chained: if the grid is solved in groups, later ones start from the nearest solution so far instead.
        certain: whether Newton steps end the fit, and decide whether it has converged.
    """
    mean = column_mean(features).to(features.dtype)
    centered_bias = bias + mean @ weight
    if isinstance(base, Span):
        weight = base.coordinates_of(weight)
        rows, row_mean, preconditioner = base.coordinates, torch.zeros_like(base.coordinates[0]), base.preconditioner
    else:
        rows, row_mean, preconditioner = features, mean, base
    weight = weight.transpose(1, 2)  # [G C F]
    # logits, slopes, probabilities and a temporary; and the histories
    per_problem = rows.element_size() * bias.shape[1] * (4 * len(rows) + 2 * (history + 4) * rows.shape[1])
    size = max(1, min(len(l2), MEMORY // per_problem))
    parts: list[Problems] = []
    # strongest first: the solution of a stronger penalty is near
    order = sorted(range(len(l2)), key=lambda index: -l2[index])
    for first in range(0, len(order), size):
        group = order[first : first + size]
        weights, biases = weight[group], centered_bias[group]
        if parts and chained:
            weights, biases = parts[-1].weight[-1].expand_as(weights), parts[-1].centered_bias[-1].expand_as(biases)
        strengths = features.new_tensor([l2[index] for index in group])
        kind, known = (Problems, labels) if labels.ndim == 1 else (IndependentProblems, labels.T.contiguous())
        parts.append(kind(rows, known, weights, biases, strengths, row_mean, preconditioner, history))
        parts[-1].solve(tolerance, max_steps)
        if certain:
            newton.end(parts[-1], tolerance, max_steps)
    back = torch.tensor(order).argsort().tolist()
    weight = torch.cat([part.weight for part in parts])[back].transpose(1, 2)
    weight = (base.weight_of(weight) if isinstance(base, Span) else weight).contiguous()
    bias = torch.cat([part.centered_bias for part in parts])[back] - mean @ weight
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


def _confirmed(
    fit: LogisticFit,
    features: Tensor,
    labels: Tensor,
    base: Preconditioner | Span,
    tolerance: float,
    max_steps: int,
    history: int,
) -> LogisticFit:
    """The fit, continued and ended with the curvature at its solution where that is much less than assumed."""
    curvature = _curvature(features, fit, independent=labels.ndim == 2)
    doubtful = (share_of_assumed(features, curvature) < DOUBTFUL).nonzero().flatten().tolist()
    if not doubtful:
        return fit
    weights = curvature[doubtful].mean(0)
    actual = base.weighted(weights) if isinstance(base, Span) else Preconditioner.of(features, curvature=weights)
    l2, weight, bias = [fit.l2[place] for place in doubtful], fit.weight[doubtful], fit.bias[doubtful]
    settings = tolerance, max_steps, history
    again = _fit(features, labels, l2, weight, bias, actual, *settings, chained=False, certain=True)
    return fit.replaced(doubtful, again)


def _curvature(features: Tensor, fit: LogisticFit, *, independent: bool) -> Tensor:
    """How much every row curves the loss under each strength, relative to their mean: float64 ``[G n]``.

    ``1 - Σ_c p_c²`` of classes, ``Σ_l p_l (1 - p_l)`` of independent labels.
    """

    def of(logits: Tensor) -> Tensor:
        if independent:
            p = logits.sigmoid()
            return (p * (1 - p)).sum(2, dtype=torch.float64)
        return 1 - logits.softmax(2).square().sum(2, dtype=torch.float64)

    curvature = torch.cat([of(fit.outputs(rows)) for rows in blocks(features)], 1).clamp_min(0)
    return curvature / curvature.mean(1, keepdim=True).clamp_min(TINY)


def _fits_in_float64(features: Tensor) -> bool:
    """Whether a float64 copy of the features takes at most half of the free memory."""
    on_gpu = features.device.type == "cuda"
    free = torch.cuda.mem_get_info(features.device)[0] if on_gpu else available_memory()
    return 8 * features.numel() <= free // 2


def objective(features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, l2: Sequence[float]) -> Tensor:
    """The objective above at weights ``[G F C]`` and biases ``[G C]``, float64 ``[G]``."""
    G, F, C = weight.shape
    flat = weight.permute(1, 0, 2).reshape(F, G * C)
    total = torch.zeros(G, dtype=torch.float64, device=features.device)
    for rows, y in zip(blocks(features), blocks(labels), strict=True):
        logits = (rows @ flat).view(-1, G, C) + bias
        if y.ndim == 2:
            margin = torch.where(y[:, None], logits, -logits)
            total += torch.nn.functional.softplus(-margin).sum((0, 2), dtype=torch.float64)
            continue
        label = y.view(-1, 1, 1).expand(-1, G, 1)
        # log(1 + Σ exp(other - label)): a difference of logarithms would lose the loss of rows that are nearly fitted
        ahead = (logits - logits.gather(2, label)).scatter_(2, label, -torch.inf).logsumexp(2)
        total += torch.nn.functional.softplus(ahead).sum(0, dtype=torch.float64)
    penalty = weight.double().square().sum(dim=(1, 2)) * torch.tensor(l2, dtype=torch.float64, device=total.device)
    return total / len(features) + penalty / 2


def check_problem(features: Tensor, labels: Tensor, classes: int, l2: Sequence[float]) -> None:
    """Raise ValueError unless these define a classification problem with a penalty."""
    fits = labels.shape[1:] == (classes,) and labels.dtype == torch.bool if labels.ndim == 2 else labels.ndim == 1
    if features.ndim != 2 or labels.shape[:1] != features.shape[:1] or not len(features) or not fits:
        shapes = f"{list(features.shape)} and {list(labels.shape)}"
        raise ValueError(f"expected features [n F] and labels [n] or bool [n L] with n > 0, got {shapes}")
    if features.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"features must be float32 or float64, got {features.dtype}")
    if labels.ndim == 1 and (classes < 2 or int(labels.min()) < 0 or int(labels.max()) >= classes):
        raise ValueError(f"labels must be in 0..{classes - 1}, with at least 2 classes")
    if not l2 or min(l2) <= 0:
        raise ValueError(f"every strength must be positive, got {list(l2)}: without a penalty there may be no minimum")
    # a finite sum is the cheapest proof; an infinite one may be an overflow
    if not bool(features.sum().isfinite()) and not bool(features.isfinite().all()):
        raise ValueError("features must be finite")
