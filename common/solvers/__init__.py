"""Sparse codes under a fixed dictionary: L1 penalty (FISTA), L0 penalty (IHT), or at most k non-zeros (OMP)."""

from common.solvers.l0 import hard_threshold, iht, l0_objective, moving, omp, top_k
from common.solvers.lasso import STEPS, apart, fista, lasso_objective, relative_gap, soft_threshold

__all__ = [
    "STEPS",
    "apart",
    "fista",
    "hard_threshold",
    "iht",
    "l0_objective",
    "lasso_objective",
    "moving",
    "omp",
    "relative_gap",
    "soft_threshold",
    "top_k",
]
