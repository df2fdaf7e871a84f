"""Sparse codes of vectors under a fixed dictionary: an L1 penalty (FISTA), an L0 penalty (IHT), or a budget (OMP)."""

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
