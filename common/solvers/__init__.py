"""Sparse codes under a fixed dictionary: L1 penalty (FISTA), L0 penalty (IHT), or at most k non-zeros (OMP)."""

from common.solvers.l0 import hard_threshold, iht, l0_objective, omp, top_k
from common.solvers.lasso import fista, lasso_objective, soft_threshold

__all__ = [
    "fista",
    "hard_threshold",
    "iht",
    "l0_objective",
    "lasso_objective",
    "omp",
    "soft_threshold",
    "top_k",
]
