"""L-BFGS on several logistic problems at once (Nocedal & Wright 2006, algorithm 7.4).

The problems share features, labels and preconditioner, and differ in their L2 strength. Each has its own history, line
search and convergence. None ends above its start. A problem is solved if both hold:

- The decrease that its quadratic model predicts is below the tolerance. If the model overestimates the curvature, this
  is too optimistic.
- So is what its latest steps leave to be gained, if their rate of convergence continues, up to a factor ``SLACK``.

A line search that fails means that rounding or an old history misleads: the history is cleared and the logits are
computed again from the weights. If the next line search fails too, the problem stops without having converged.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from finetune.solvers.preconditioner import Preconditioner

SUFFICIENT, FLAT = 1e-4, 0.5  # Wolfe constants: sufficient decrease, and curvature
MOST_TRIALS = 30  # step lengths tried per line search
WINDOW = 10  # steps over which the rate of convergence is measured, twice
SLACK = 10
PRODUCT_ROWS = 2048  # whose products are computed at once
LEAST_CURVATURE = 1e-6  # below it, rows are fitted: a step by the curvature alone would have no bounds


class Problems:
    """The state of one group of problems during the solve.

    The class dimension comes before rows or features, ``[g C n]`` and ``[g C F]``: softmax then runs over long
    contiguous rows (20 times faster than over the last dimension), and solved problems are dropped by slicing. The bias
    is for centered features: it does not depend on the weights, so the preconditioner can treat the two separately.

    Attributes:
        weight: ``[g C F]``; the start, and after ``solve`` the solution.
        centered_bias: ``[g C]``, likewise.
        steps: number of steps of each problem.
        converged: whether each is solved.
    """

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        weight: Tensor,
        centered_bias: Tensor,
        l2: Tensor,
        mean: Tensor,
        preconditioner: Preconditioner,
        history: int,
    ) -> None:
        self.features, self.labels, self.preconditioner, self.history = features, labels, preconditioner, history
        self.weight, self.centered_bias, self.l2, self.mean = weight.clone(), centered_bias.clone(), l2, mean
        self.steps, self.converged = [0] * len(l2), [False] * len(l2)

    def solve(self, tolerance: float, max_steps: int) -> None:
        """L-BFGS on every problem until it is solved; solved ones leave the batch."""
        active = torch.arange(len(self.l2), device=self.l2.device)
        l2 = self.l2
        point = torch.cat([self.weight, self.centered_bias[:, :, None]], dim=2)  # [g C F+1]
        logits = self.product(point)  # [g C n]
        here = self.evaluate(logits)
        value, gradient = self.penalized(here, point, l2)
        first, values = value, [value]
        pairs: list[_Pair] = []
        failed = hopeless = torch.zeros_like(active, dtype=torch.bool)
        tolerance += torch.finfo(logits.dtype).eps  # no smaller decrease can be measured
        for step_index in range(max_steps + 1):
            direction = -self._inverse_hessian(gradient, here.curvature, l2, pairs)
            slope = dot(direction, gradient)
            small = tolerance * value
            # an uphill direction, which only rounding can cause, predicts nothing: its line search will fail
            done = (slope <= 0) & (-slope / 2 <= small)
            last = step_index == max_steps
            if last or bool((done | hopeless).any()):
                done &= _remaining(values) <= SLACK * small
                leaving = torch.ones_like(done) if last else done | hopeless
                self._store(active, point, leaving, value <= first, done, step_index)
                keep = (~leaving).nonzero().squeeze(1)
                if not len(keep):
                    return
                active, l2, point, logits = active[keep], l2[keep], point[keep], logits[keep]
                value, gradient, direction, slope = value[keep], gradient[keep], direction[keep], slope[keep]
                first, failed, values = first[keep], failed[keep], [one[keep] for one in values]
                pairs = [pair.only(keep) for pair in pairs]
            slopes = self.product(direction)
            failed_before = failed
            length, here, failed = self.line_search(logits, slopes, point, direction, value, slope, l2)
            hopeless = failed & failed_before
            step = length[:, None, None] * direction
            point = point + step
            logits += length[:, None, None] * slopes
            if bool(failed.any()):
                again = failed.nonzero().squeeze(1)
                logits[again] = self.product(point[again])
                here = here.replaced(again, self.evaluate(logits[again]))
            value, new_gradient = self.penalized(here, point, l2)
            pairs = [*pairs, _Pair.of(step, new_gradient - gradient)][-self.history :]
            if bool(failed.any()):
                pairs = [pair.but(failed) for pair in pairs]
            gradient = new_gradient
            values = [*values, value][-2 * WINDOW - 1 :]

    def product(self, point: Tensor) -> Tensor:
        """Weights and bias ``[g C F+1]`` -> logits of all rows ``[g C n]``."""
        weight, bias = point[..., :-1], point[..., -1]
        g, C, F = weight.shape
        flat = weight.reshape(g * C, F)
        if flat.device.type == "cpu":  # blocks of rows take 0.4 (10 columns) to 0.9 (60) times as long as one product
            logits = flat.new_empty(g * C, len(self.features))
            for start in range(0, len(self.features), PRODUCT_ROWS):
                rows = slice(start, start + PRODUCT_ROWS)
                logits[:, rows] = linear(self.features[rows], flat).T
        else:
            logits = flat @ self.features.T
        return logits.view(g, C, -1).add_((bias - weight @ self.mean)[:, :, None])

    def evaluate(self, logits: Tensor) -> Point:
        """Logits ``[g C n]`` -> mean loss, residual and curvature; the loss is summed in float64.

        What a row lacks of probability 1 is the sum ``q`` of the other classes, not a difference from 1: of rows that
        are nearly fitted, which is all of them if they can be separated, float32 would keep one or two digits.
        """
        log_p = logits.log_softmax(1)
        rows = self.labels.expand(len(logits), 1, -1)
        far = -log_p.gather(1, rows)
        residual = log_p.exp_().scatter_(1, rows, 0)
        q = residual.sum(1, keepdim=True)  # [g 1 n]
        loss = torch.where(q < 0.5, -torch.log1p(-q), far).sum(dim=(1, 2), dtype=torch.float64) / logits.shape[2]
        # 1 - Σ p², with p = 1 - q for the label
        spread = (q * (2 - q)).mean(dim=(1, 2)) - residual.square().sum(1).mean(1)
        residual.scatter_(1, rows, -q)
        return Point(loss, residual, (spread[:, None] / (logits.shape[1] - 1)).clamp_min(LEAST_CURVATURE))

    def penalized(self, here: Point, point: Tensor, l2: Tensor) -> tuple[Tensor, Tensor]:
        """The objective, float64 ``[g]``, and its gradient ``[g C F+1]``."""
        value = here.loss + l2.double() / 2 * point[..., :-1].double().square().sum(dim=(1, 2))
        return value, self._gathered(here.residual, point, l2)

    def hessian_product(self, here: Point, direction: Tensor, l2: Tensor) -> Tensor:
        """The Hessian at a point, times a direction ``[g C F+1]``: the same shape."""
        return self._gathered(self.changed_residual(here, self.product(direction)), direction, l2)

    def changed_residual(self, here: Point, slopes: Tensor) -> Tensor:
        """The change of the residuals, same shape, if logits change by ``slopes`` ``[g C n]``: ``p (s - Σ_c p_c s_c)``.

        Slopes count from that of the label: of rows that are nearly fitted, the difference would be rounding.
        """
        rows = self.labels.expand(len(slopes), 1, -1)
        lacking = here.residual.gather(1, rows)  # p - 1 of the label
        others = here.residual.scatter(1, rows, 0)
        apart = slopes - slopes.gather(1, rows)
        mean = (others * apart).sum(1, keepdim=True)
        return (others * (apart - mean)).scatter_(1, rows, -(1 + lacking) * mean)

    def without_shared_bias(self, direction: Tensor) -> Tensor:
        """A direction ``[g C F+1]`` without what changes no objective: the same bias for all classes."""
        bias = direction[..., -1:]
        return torch.cat([direction[..., :-1], bias - bias.mean(1, keepdim=True)], dim=2)

    def _gathered(self, residual: Tensor, point: Tensor, l2: Tensor) -> Tensor:
        """Residuals ``[g C n]`` times the features, and the penalty's slope at ``point``: ``[g C F+1]``."""
        weight = point[..., :-1]
        g, C, n = residual.shape
        total = residual.sum(2)
        gradient = (residual.view(g * C, n) @ self.features).view_as(weight) - total[:, :, None] * self.mean
        gradient = gradient / n + l2[:, None, None] * weight
        return torch.cat([gradient, total[:, :, None] / n], dim=2)

    def preconditioned(self, gradient: Tensor, curvature: Tensor, l2: Tensor) -> Tensor:
        """The inverse Hessian with its curvature averaged, times ``[g C F+1]``."""
        weight = self.preconditioner.apply(gradient[..., :-1], curvature, l2)
        return torch.cat([weight, gradient[..., -1:] / curvature[:, :, None]], dim=2)

    def _inverse_hessian(self, gradient: Tensor, curvature: Tensor, l2: Tensor, pairs: list[_Pair]) -> Tensor:
        """Two-loop recursion: L-BFGS's inverse Hessian times the gradient ``[g C F+1]``."""
        result = gradient
        factors: list[Tensor] = []
        for pair in reversed(pairs):
            factors.append(pair.weight * dot(pair.step, result))
            result = result - factors[-1][:, None, None] * pair.change
        result = self.preconditioned(result, curvature, l2)
        for pair, factor in zip(pairs, reversed(factors), strict=True):
            result = result + (factor - pair.weight * dot(pair.change, result))[:, None, None] * pair.step
        return result

    def line_search(
        self,
        logits: Tensor,
        slopes: Tensor,
        point: Tensor,
        direction: Tensor,
        value: Tensor,
        slope: Tensor,
        l2: Tensor,
    ) -> tuple[Tensor, Point, Tensor]:
        """Step lengths that meet the strong Wolfe conditions, the points they lead to, and which searches failed.

        Along a line the objective is convex and its derivative needs no product with the features. So a bracketed
        secant method searches for a zero of the derivative. The first trial is 1, which is nearly always good enough.
        A search that fails ends at the lower end of its bracket, where the objective has fallen, or where it started.
        """
        weight, along = point[..., :-1], direction[..., :-1]
        linear, square = l2 * dot(weight, along), l2 * dot(along, along)
        norm = l2.double() / 2 * weight.double().square().sum(dim=(1, 2))
        length, low, high = torch.ones_like(slope), torch.zeros_like(slope), torch.full_like(slope, torch.inf)
        low_slope, high_slope = slope.clone(), torch.zeros_like(slope)
        # with rounded logits the loss is uncertain by more than this: smaller decreases are not required
        most = value * (1 + torch.finfo(logits.dtype).eps)
        found: Point | None = None
        every = torch.arange(len(slope), device=slope.device)
        pending: Tensor | slice = slice(None)  # unlike their numbers, it copies nothing: one trial is mostly enough
        for _ in range(MOST_TRIALS):
            here = self.evaluate(logits[pending] + length[pending, None, None] * slopes[pending])
            found = here if found is None else found.replaced(pending, here)
            t = length[pending]
            slope_t = (here.residual * slopes[pending]).sum(dim=(1, 2)) / logits.shape[2]
            slope_t = slope_t + linear[pending] + t * square[pending]
            penalty = norm[pending] + (t * linear[pending] + t.square() / 2 * square[pending]).double()
            falls = here.loss + penalty <= most[pending] + (SUFFICIENT * t * slope[pending]).double()
            flat = slope_t.abs() <= -FLAT * slope[pending]
            back = ~falls | (slope_t > 0)
            width = high[pending] - low[pending]
            low[pending] = torch.where(back, low[pending], t)
            low_slope[pending] = torch.where(back, low_slope[pending], slope_t)
            high[pending] = torch.where(back, t, high[pending])
            high_slope[pending] = torch.where(back, slope_t.clamp_min(0), high_slope[pending])
            slow = high[pending] - low[pending] > width / 2
            going = ~(falls & flat)
            pending, slow = every[pending][going], slow[going]
            if not len(pending):
                break
            length[pending] = _next_trial(low[pending], low_slope[pending], high[pending], high_slope[pending], slow)
        assert found is not None
        failed = torch.zeros_like(slope, dtype=torch.bool)
        failed[pending] = True
        length = torch.where(failed, low, length)
        return length, found, failed

    def _store(
        self, active: Tensor, point: Tensor, leaving: Tensor, lower: Tensor, done: Tensor, step_index: int
    ) -> None:
        """Keep the points of the leaving problems, except where they are above their start."""
        for place, converged in zip(active[leaving].tolist(), done[leaving].tolist(), strict=True):
            self.steps[place], self.converged[place] = step_index, converged
        better = leaving & lower
        self.weight[active[better]], self.centered_bias[active[better]] = (
            point[better][..., :-1],
            point[better][..., -1],
        )


class IndependentProblems(Problems):
    """The same for labels of which a row has any number, bool ``[L n]``: a logistic regression for each.

    They share the line search, which is then a little less exact, and the products, which cost the most. Each has its
    own curvature, because that of a rare label is small: with one for all, it took up to twice as many steps.
    """

    def evaluate(self, logits: Tensor) -> Point:
        """Logits ``[g L n]`` -> loss, summed over labels, residual and curvature."""
        sign = self.labels.to(logits.dtype) * 2 - 1
        margin = logits * sign
        loss = torch.nn.functional.softplus(-margin).sum(dim=(1, 2), dtype=torch.float64) / logits.shape[2]
        q = torch.sigmoid(-margin)  # what the label lacks of probability 1
        curvature = (q * (1 - q)).mean(2)
        return Point(loss, -sign * q, curvature.clamp_min(LEAST_CURVATURE))

    def changed_residual(self, here: Point, slopes: Tensor) -> Tensor:
        """The same of independent labels: ``q (1 - q) s``."""
        q = here.residual.abs()
        return q * (1 - q) * slopes

    def without_shared_bias(self, direction: Tensor) -> Tensor:
        """All of it: each label has a bias of its own."""
        return direction


class Point(NamedTuple):
    """Loss, residual and curvature of the active problems at one point."""

    loss: Tensor  # [g], float64
    residual: Tensor  # probabilities minus one-hot labels [g C n]
    curvature: Tensor  # [g 1], or [g L] of independent labels

    def replaced(self, places: Tensor | slice, other: Point) -> Point:
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
        product = dot(step, change)
        # a pair without positive curvature can only be a rounding error: a weight of zero discards it
        usable = product > torch.finfo(product.dtype).eps * dot(change, change).sqrt() * dot(step, step).sqrt()
        return cls(step, change, torch.where(usable, 1 / product, torch.zeros_like(product)))

    def only(self, keep: Tensor) -> _Pair:
        return _Pair(*(part[keep] for part in self))

    def but(self, forgotten: Tensor) -> _Pair:
        return self._replace(weight=self.weight.masked_fill(forgotten, 0))


def dot(a: Tensor, b: Tensor) -> Tensor:
    """``[g C F] . [g C F] -> [g]``; to the last bit what ``einsum`` gives, in half the time for small problems."""
    g = len(a)
    return torch.bmm(a.reshape(g, 1, -1), b.reshape(g, -1, 1)).view(g)


def _remaining(values: list[Tensor]) -> Tensor:
    """What is left to be gained if the objective, lately ``values`` ``[g]``, keeps falling by the same factor, ``[g]``.

    A decrease D1 after a decrease D0 is followed by ``D1 (q + q² + ...)``, ``q = D1/D0``: by ``D1² / (D0 - D1)``.
    """
    window = min(WINDOW, (len(values) - 1) // 2)
    if window == 0:
        return torch.zeros_like(values[0])
    before = values[-1 - 2 * window] - values[-1 - window]
    recent = (values[-1 - window] - values[-1]).clamp_min(0)
    # convergence that is not even linear: the latest decrease itself
    return torch.where(recent < before, recent.square() / (before - recent), recent)


def _next_trial(low: Tensor, low_slope: Tensor, high: Tensor, high_slope: Tensor, slow: Tensor) -> Tensor:
    """Where the secant of the derivative crosses zero, inside the bracket; farther out without an upper end.

    Where the last trial has not halved the bracket, because the derivative is far from linear, a tenth of its upper end
    or the geometric mean of both ends: a step may be too long by many powers of ten.
    """
    width = high - low
    crossing = low + width * low_slope / (low_slope - high_slope)
    inside = torch.clamp(crossing, low + 0.1 * width, high - 0.1 * width)
    inside = torch.where(slow | inside.isnan(), torch.where(low > 0, (low * high).sqrt(), 0.1 * high), inside)
    return torch.where(high.isinf(), 4 * low.clamp_min(0.25), inside)
