"""Codes with few non-zeros: a penalty on their number (IHT), or at most k of them (OMP), for all rows at once.

For rows ``x`` ``[B d]`` and a dictionary ``W`` ``[d h]``, independently for every row:

    iht:  minimize over s   ‖x − W s‖² + λ ‖s‖₀
    omp:  minimize over s   ‖x − W s‖²   with  ‖s‖₀ <= k,   greedily

Both problems are NP-hard; the solutions are good, not optimal.
"""

from __future__ import annotations

import torch
from torch import Tensor

from common.solvers.problem import (
    check_penalty,
    check_problem,
    curvature,
    row_blocks,
    solve_on_support,
    squared_error,
)

POLISH = 10  # steps between two least-squares fits on the support
UNIT = 1e-3  # tolerance of the norm of a unit atom


def hard_threshold(x: Tensor, t: float) -> Tensor:
    """``x`` where ``|x| > t``, else 0: the minimizer of ``(s − x)² + t² ‖s‖₀``, for any shape and ``t >= 0``.

    Raises:
        ValueError: ``t`` is negative.
    """
    if not t >= 0:
        raise ValueError(f"a threshold must be at least 0, not {t}")
    return x.masked_fill(x.abs() <= t, 0)


def top_k(codes: Tensor, k: int, dim: int = -1) -> Tensor:
    """Codes ``[... h]`` with all but the ``k`` of largest magnitude set to zero; with ties, exactly k remain.

    Args:
        dim: the dimension of size ``h``.

    Raises:
        ValueError: ``k`` is not in ``0..h``.
    """
    h = codes.shape[dim]
    if not 0 <= k <= h:
        raise ValueError(f"k must be in 0..{h}, the size of a code, not {k}")
    kept = codes.abs().topk(k, dim=dim, sorted=False).indices
    return torch.zeros_like(codes).scatter_(dim, kept, codes.gather(dim, kept))


def l0_objective(x: Tensor, dictionary: Tensor, codes: Tensor, l0: float) -> Tensor:
    """``‖x − W s‖² + λ ‖s‖₀`` of every row, float64 ``[B]``: rows ``[B d]``, dictionary ``[d h]``, codes ``[B h]``.

    Raises:
        ValueError: shapes, dtypes or devices do not match.
    """
    check_problem(x, dictionary, codes)
    return squared_error(x, dictionary, codes) + l0 * (codes != 0).sum(1)


def iht(x: Tensor, dictionary: Tensor, l0: float, *, steps: int = 200, start: Tensor | None = None) -> Tensor:
    """Codes ``[B h]`` by iterative hard thresholding of ``‖x − W s‖² + λ ‖s‖₀``.

    With ``c >= λmax(WᵀW)`` a step is ``s <- hard(s + Wᵀ(x − W s) / c, √(λ / c))``, the minimizer of an upper bound that
    is tight at ``s`` (Blumensath & Davies 2008, "Iterative thresholding for sparse approximations", section 2), so the
    objective never increases. Every ``POLISH`` steps the codes are refitted by least squares on their support where
    that lowers the objective (as in Foucart 2011, "Hard thresholding pursuit"): plain steps converge slowly there.
    A row is done when the step after a refit does not move it: it is then a fixed point.

    Args:
        x: rows ``[B d]``, float32 or float64.
        dictionary: ``[d h]``, atoms of any norm.
        l0: λ, the cost per non-zero; at least 0.
        steps: maximum number of steps per row.
        start: initial codes ``[B h]``; zero by default. A start from ``omp`` often reaches a lower objective.

    Raises:
        ValueError: shapes, dtypes or devices do not match, or a number is out of range.
    """
    check_problem(x, dictionary, start, "start")
    check_penalty(l0, steps, "l0")
    codes = x.new_zeros(len(x), dictionary.shape[1]) if start is None else start.clone()
    bound, gram = curvature(dictionary), dictionary.T @ dictionary
    threshold = (l0 / bound) ** 0.5
    for rows in row_blocks(x, dictionary.shape[1]):
        X, s, out = x[rows], codes[rows], codes[rows]
        remaining = torch.arange(len(out), device=x.device)
        for step in range(1, steps + 1):
            s = _thresholded(X, dictionary, s, bound, threshold)
            if step % POLISH and step < steps:
                continue
            s = _debiased(X, dictionary, gram, s)
            out[remaining] = s
            moving = _moving(X, dictionary, s, bound, threshold)
            remaining, X, s = remaining[moving], X[moving], s[moving]
            if not len(remaining):
                break
    return codes


def moving(x: Tensor, dictionary: Tensor, codes: Tensor, l0: float) -> Tensor:
    """The rows whose code a step of ``iht`` would still change, bool ``[B]``: those that have not converged.

    Raises:
        ValueError: shapes, dtypes or devices do not match.
    """
    check_problem(x, dictionary, codes)
    bound = curvature(dictionary)
    return _moving(x, dictionary, codes, bound, (l0 / bound) ** 0.5)


def omp(x: Tensor, dictionary: Tensor, atoms: int) -> Tensor:
    """Codes ``[B h]`` with at most ``atoms`` non-zeros by orthogonal matching pursuit, all rows at once.

    Each iteration selects the atom that correlates most with the residual, then refits all selected atoms by least
    squares. The Cholesky factor of their Gram matrix grows by one row per iteration (Rubinstein, Zibulevsky & Elad
    2008, "Efficient implementation of the K-SVD algorithm using batch orthogonal matching pursuit", section 2). A row
    stops early when its residual is zero, or when the next atom depends linearly on the selected ones.

    Args:
        x: rows ``[B d]``, float32 or float64.
        dictionary: ``[d h]``, atoms of unit norm.
        atoms: the maximum number of non-zeros k, in ``0..min(d, h)``.

    Raises:
        ValueError: shapes, dtypes or devices do not match, an atom is not of unit norm, or ``atoms`` is out of range.
    """
    check_problem(x, dictionary)
    check_unit_norm(dictionary)
    if not 0 <= atoms <= min(dictionary.shape):
        raise ValueError(f"atoms must be in 0..{min(dictionary.shape)}, not {atoms}")
    gram = dictionary.T @ dictionary
    codes = x.new_zeros(len(x), dictionary.shape[1])
    if atoms:
        for rows in row_blocks(x, dictionary.shape[1] + atoms * atoms):
            codes[rows] = _pursue(x[rows], dictionary, gram, atoms)
    return codes


def check_unit_norm(dictionary: Tensor) -> None:
    """Refuse a dictionary ``[d h]`` with an atom whose norm is not 1 (ValueError)."""
    norms = dictionary.norm(dim=0)
    if not bool(((norms - 1).abs() <= UNIT).all()):
        raise ValueError(f"atoms must have unit norm; norms are {float(norms.min()):.3g} to {float(norms.max()):.3g}")


def _thresholded(x: Tensor, dictionary: Tensor, codes: Tensor, bound: float, threshold: float) -> Tensor:
    residual = torch.addmm(x, codes, dictionary.T, alpha=-1)
    return hard_threshold(torch.addmm(codes, residual, dictionary, alpha=1 / bound), threshold)


def _moving(x: Tensor, dictionary: Tensor, codes: Tensor, bound: float, threshold: float) -> Tensor:
    change = torch.linalg.vector_norm(_thresholded(x, dictionary, codes, bound, threshold) - codes, dim=1)
    still: Tensor = change > 0.1 * torch.finfo(x.dtype).eps ** 0.5 * torch.linalg.vector_norm(codes, dim=1)
    return still


def _debiased(x: Tensor, dictionary: Tensor, gram: Tensor, codes: Tensor) -> Tensor:
    """Least-squares codes on the same support, for rows whose error they lower."""
    residual = torch.addmm(x, codes, dictionary.T, alpha=-1)
    # dependent atoms need a ridge; with a smaller one, rounding would choose among them. The next fit removes its bias
    ridge = torch.finfo(x.dtype).eps ** 0.5 * float(gram.diagonal().mean())
    fitted = codes + solve_on_support(gram, residual @ dictionary, codes, ridge)
    better = squared_error(x, dictionary, fitted) < residual.double().square().sum(1)
    return torch.where(better[:, None], fitted, codes)


def _pursue(x: Tensor, dictionary: Tensor, gram: Tensor, atoms: int) -> Tensor:
    """``omp`` of one block of rows."""
    B, eps = len(x), torch.finfo(x.dtype).eps
    correlation = x @ dictionary  # [B h]
    nothing = (10 * eps * x.norm(dim=1)).clamp_min(torch.finfo(x.dtype).tiny)
    left = correlation.clone()
    factor = torch.eye(atoms, dtype=x.dtype, device=x.device).expand(B, -1, -1).contiguous()  # L; identity where unused
    taken = torch.zeros(B, atoms, dtype=torch.long, device=x.device)
    right = x.new_zeros(B, atoms, 1)
    codes = torch.zeros_like(correlation)
    active = torch.ones(B, dtype=torch.bool, device=x.device)
    for k in range(atoms):
        strength, chosen = left.abs().max(dim=1)
        new = x.new_zeros(B, k, 1)
        if k:  # L w = G[taken, chosen] gives the factor's next row
            new = torch.linalg.solve_triangular(
                factor[:, :k, :k], gram[taken[:, :k], chosen[:, None]][..., None], upper=False
            )
        corner = gram.diagonal()[chosen] - new.square().sum(dim=(1, 2))
        active = active & (strength > nothing) & (corner > 10 * eps)
        if not active.any():
            break
        # a stopped row keeps the identity and a zero right-hand side, so its further codes are zero
        factor[:, k, :k] = new[:, :, 0] * active[:, None]
        factor[:, k, k] = torch.where(active, corner, 1).sqrt()
        taken[:, k] = chosen
        right[:, k, 0] = correlation.gather(1, chosen[:, None])[:, 0] * active
        found = torch.cholesky_solve(right[:, : k + 1], factor[:, : k + 1, : k + 1])[:, :, 0]
        codes = torch.zeros_like(codes).scatter_add_(1, taken[:, : k + 1], found)
        left = torch.addmm(x, codes, dictionary.T, alpha=-1) @ dictionary
        # exact least squares leaves no correlation with selected atoms; rounding must not select one twice
        left = left.masked_fill(codes != 0, 0)
    return codes
