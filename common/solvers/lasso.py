"""Codes under an L1 penalty, by monotone FISTA on all rows at once.

For rows ``x`` ``[B d]`` and a dictionary ``W`` ``[d h]``, independently for every row:

    minimize over s   F(s) = ‖x − W s‖² + λ ‖s‖₁

(scikit-learn's ``sparse_encode`` halves the squared error: its ``alpha`` is λ/2.) With curvature ``c``, a step from
``y`` is ``z = soft(y + Wᵀ(x − W y) / c, λ / 2c)``. ``y`` extrapolates beyond the best codes so far, as in MFISTA (Beck
& Teboulle 2009, "Fast gradient-based algorithms for constrained total variation image denoising"); a worse ``z`` is
rejected. Momentum restarts, row by row, after a rejection and where it points uphill (O'Donoghue & Candès 2015,
"Adaptive restart for accelerated gradient schemes", section 3.2).

``c = λmax(WᵀW)`` always descends but is pessimistic for codes of a few atoms, so each row keeps its own smaller
curvature, updated from the curvature observed along each step and raised after a rejection. Any step may be tried this
way, because one that would increase the objective is rejected.

The state is the residual ``x − W s``, not ``WᵀW s``: it is shorter than a code if the dictionary is overcomplete, it
extrapolates linearly, both its products fuse with the adjacent sums, and its squared norm does not cancel in float32.

First-order steps find which atoms a code uses long before they find their coefficients, so every ``CHECK`` steps the
signs are fixed and F, now a quadratic, is minimized exactly over those atoms: the step of feature-sign search (Lee,
Battle, Raina & Ng 2006, "Efficient sparse coding algorithms", algorithm 1), accepted where it lowers F.

A row is done when its duality gap is at most ``tolerance`` times its objective. The gap bounds the suboptimality:
``u = 2 a (x − W s)`` with ``|Wᵀu| <= λ`` is feasible for the dual ``max u·x − ‖u‖²/4``.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softshrink

from common.solvers.problem import check_penalty, check_problem, curvature, row_blocks, solve_on_support, squared_error

STEPS = 500  # at most, by default
APART = 1e-3  # relative distance of the objective from its minimum above which a code has not converged
CHECK = 20  # steps between two polishings and gap evaluations, which together cost about ten steps

RIDGE = 1e-5  # relative to the mean diagonal of WᵀW: dependent atoms need it, others are hardly affected
SHARES = (1.0, 0.2, 0.04)  # step lengths of a polishing, tried in turn where sign changes spoil the full step
# A row's curvature: its initial share of λmax, and its factors after a step that was too long and after a good one.
# On 8x8 patches of CIFAR-10 the objective after 60 steps is then closer to the optimum than with λmax after 100.
FIRST, GROW, SHRINK = 0.25, 1.1, 0.95
FLAT = 1e-3  # lower bound of a row's curvature as a share of λmax; at rest it would shrink without end


def soft_threshold(x: Tensor, t: float) -> Tensor:
    """``sign(x) max(|x| − t, 0)``: the minimizer of ``(s − x)²/2 + t |s|``, for any shape and ``t >= 0``.

    Raises:
        ValueError: ``t`` is negative.
    """
    if not t >= 0:
        raise ValueError(f"a threshold must be at least 0, not {t}")
    return softshrink(x, t)


def lasso_objective(x: Tensor, dictionary: Tensor, codes: Tensor, l1: float) -> Tensor:
    """``‖x − W s‖² + λ ‖s‖₁`` of every row, float64 ``[B]``: rows ``[B d]``, dictionary ``[d h]``, codes ``[B h]``.

    Raises:
        ValueError: shapes, dtypes or devices do not match.
    """
    check_problem(x, dictionary, codes)
    return squared_error(x, dictionary, codes) + l1 * codes.double().abs().sum(1)


def relative_gap(x: Tensor, dictionary: Tensor, codes: Tensor, l1: float) -> Tensor:
    """Duality gap over objective of every row, float64 ``[B]``: at most this share of it is above the minimum.

    Raises:
        ValueError: shapes, dtypes or devices do not match.
    """
    check_problem(x, dictionary, codes)
    block = Block(x.double(), dictionary.double(), l1, 1.0, codes.double(), nonnegative=False)
    return block.relative_gap()


def apart(x: Tensor, dictionary: Tensor, codes: Tensor, l1: float) -> Tensor:
    """The rows whose objective ``fista`` left more than ``APART`` above its minimum, bool ``[B]``.

    A gap is only a bound, and rounding alone can keep one open in float32: rows with a large one are solved again in
    float64, from their codes, to see how much can be gained.

    Raises:
        ValueError: shapes, dtypes or devices do not match.
    """
    far = relative_gap(x, dictionary, codes, l1) > APART
    if bool(far.any()):
        rows, atoms, start = x[far].double(), dictionary.double(), codes[far].double()
        better = fista(rows, atoms, l1, steps=4 * STEPS, tolerance=APART / 10, start=start)
        far[far.clone()] = lasso_objective(rows, atoms, start, l1) > (1 + APART) * lasso_objective(
            rows, atoms, better, l1
        )
    return far


def fista(
    x: Tensor,
    dictionary: Tensor,
    l1: float,
    *,
    steps: int = STEPS,
    tolerance: float = 1e-5,
    start: Tensor | None = None,
    nonnegative: bool = False,
) -> Tensor:
    """Codes ``[B h]`` that minimize ``‖x − W s‖² + λ ‖s‖₁`` for every row.

    Rows leave the batch when they are done, so the work shrinks. Rows are processed in blocks, so memory stays close to
    that of the codes.

    Args:
        x: rows ``[B d]``, float32 or float64.
        dictionary: ``[d h]``, atoms of any norm.
        l1: λ, at least 0. At 0 there is no dual bound, and all ``steps`` are taken.
        steps: maximum number of steps per row.
        tolerance: relative duality gap at which a row is done; 0 takes all ``steps``. In float32, gaps below about
            1e-6 of ``‖x‖²`` are rounding error.
        start: initial codes ``[B h]``; zero by default. The result is never worse.
        nonnegative: constrain codes to be non-negative; ``start`` must be too.

    Raises:
        ValueError: shapes, dtypes or devices do not match, or a number is out of range.
    """
    _check(x, dictionary, l1, steps, start, nonnegative)
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be at least 0, not {tolerance}")
    codes = x.new_zeros(len(x), dictionary.shape[1]) if start is None else start.clone()
    bound, gram = curvature(dictionary), dictionary.T @ dictionary
    for rows in row_blocks(x, dictionary.shape[1]):
        block = Block(x[rows], dictionary, l1, bound, codes[rows], nonnegative)
        out = codes[rows]
        remaining = torch.arange(len(out), device=x.device)
        for step in range(1, steps + 1):
            block.step()
            if step % CHECK == 0 or step == steps:
                block.polish(gram)
            if step % CHECK == 0 and step < steps:
                done = block.relative_gap() <= tolerance
                # the remaining rows are compacted only where that saves more work than it costs
                if int(done.sum()) * 8 >= len(done):
                    out[remaining[done]] = block.codes[done]
                    remaining = remaining[~done]
                    block.keep(~done)
                    if not len(remaining):
                        break
        out[remaining] = block.codes
    return codes


class Block:
    """A block of rows: the best codes so far with residual and objective, and the extrapolated point."""

    def __init__(
        self, x: Tensor, dictionary: Tensor, l1: float, bound: float, codes: Tensor, nonnegative: bool
    ) -> None:
        self.x, self.dictionary, self.l1, self.bound, self.nonnegative = x, dictionary, l1, bound, nonnegative
        self.codes = codes.clone()
        self.residual = torch.addmm(x, self.codes, dictionary.T, alpha=-1)
        self.objective = self._objective(self.residual, self.codes)
        self.ahead, self.ahead_residual = self.codes.clone(), self.residual.clone()  # y and x − W y
        self.momentum = x.new_ones(len(x))  # t of FISTA
        self.curvature = x.new_full((len(x),), bound * FIRST)

    def step(self) -> None:
        """One step of every row; no objective increases."""
        z = torch.addmm(self.ahead, self.ahead_residual / self.curvature[:, None], self.dictionary)
        threshold = (self.l1 / 2 / self.curvature)[:, None]
        z = z.sub_(threshold).clamp_min_(0) if self.nonnegative else z - z.clamp(-threshold, threshold)
        residual = torch.addmm(self.x, z, self.dictionary.T, alpha=-1)
        objective = self._objective(residual, z)

        move, fall = z - self.codes, self.ahead - z
        uphill = torch.linalg.vecdot(fall, move) > 0
        # ‖W (y − z)‖² / ‖y − z‖²: the curvature observed along this step
        met = _square(self.ahead_residual - residual) / _square(fall).clamp_min(torch.finfo(z.dtype).tiny)
        worse = objective > self.objective
        enough = torch.where(worse, 2 * self.curvature, self.curvature * SHRINK)
        self.curvature = torch.where(met > self.curvature, met * GROW, enough).clamp(FLAT * self.bound, self.bound)
        if worse.any():
            z[worse], residual[worse], objective[worse] = self.codes[worse], self.residual[worse], self.objective[worse]
        following = (1 + (1 + 4 * self.momentum.square()).sqrt()) / 2
        stop = uphill | worse
        factor = ((self.momentum - 1) / following).masked_fill_(stop, 0)[:, None]
        self.momentum = following.masked_fill_(stop, 1)
        self.ahead = torch.addcmul(z, factor, move)
        self.ahead_residual = torch.addcmul(residual, factor, residual - self.residual)
        self.codes, self.residual, self.objective = z, residual, objective

    def polish(self, gram: Tensor) -> None:
        """Minimize F exactly over the atoms in use, signs fixed; accepted where F falls. ``gram``: WᵀW ``[h h]``."""
        # the minimizer is s + (W_SᵀW_S)⁻¹ (W_Sᵀr − λ/2 sign s)
        slope = (self.residual @ self.dictionary).sub_(self.codes.sign(), alpha=self.l1 / 2)
        direction = solve_on_support(gram, slope, self.codes, ridge=RIDGE * float(gram.diagonal().mean()))
        pending = torch.arange(len(slope), device=slope.device)
        for share in SHARES:
            x, codes = self.x[pending], self.codes[pending]
            z = codes + share * direction[pending]
            z.mul_(z * codes > 0)  # a coefficient that would change sign stops at zero
            residual = torch.addmm(x, z, self.dictionary.T, alpha=-1)
            objective = self._objective(residual, z)
            better = objective < self.objective[pending]
            rows = pending[better]
            self.codes[rows], self.residual[rows], self.objective[rows] = z[better], residual[better], objective[better]
            self.ahead[rows], self.ahead_residual[rows], self.momentum[rows] = z[better], residual[better], 1
            pending = pending[~better]
            if not len(pending):
                break

    def relative_gap(self) -> Tensor:
        """Duality gap over objective ``[B]``: an upper bound of the relative suboptimality of each row."""
        tiny = torch.finfo(self.x.dtype).tiny
        correlation = self.residual @ self.dictionary
        largest = correlation.amax(1) if self.nonnegative else torch.linalg.vector_norm(correlation, torch.inf, dim=1)
        along = torch.linalg.vecdot(self.residual, self.x)
        square = _square(self.residual)
        # the best feasible multiple of the residual: 2 a |Wᵀr| <= λ
        limit = self.l1 / (2 * largest).clamp_min(tiny)
        a = torch.minimum((along / square.clamp_min(tiny)).clamp_min(0), limit)
        dual = 2 * a * along - a.square() * square
        gap: Tensor = (self.objective - dual) / self.objective.clamp_min(tiny)
        return gap

    def keep(self, rows: Tensor) -> None:
        """Keep some rows only: bool ``[B]``."""
        for name in ("x", "codes", "residual", "objective", "ahead", "ahead_residual", "momentum", "curvature"):
            setattr(self, name, getattr(self, name)[rows])

    def _objective(self, residual: Tensor, codes: Tensor) -> Tensor:
        size = torch.linalg.vector_norm(codes, 1, dim=1)
        return _square(residual).add_(size, alpha=self.l1)


def _square(rows: Tensor) -> Tensor:
    """Squared norms ``[B]`` of rows ``[B n]``."""
    squares: Tensor = torch.linalg.vecdot(rows, rows)
    return squares


def _check(x: Tensor, dictionary: Tensor, l1: float, steps: int, start: Tensor | None, nonnegative: bool) -> None:
    check_problem(x, dictionary, start, "start")
    check_penalty(l1, steps, "l1")
    if nonnegative and start is not None and bool((start < 0).any()):
        raise ValueError("start has negative codes, but nonnegative=True")
