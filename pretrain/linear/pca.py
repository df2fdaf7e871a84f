"""Principal component analysis from moments: the linear code of least squared error.

    minimise over V [d h] with VᵀV = I   E ‖ (x - m) - V Vᵀ (x - m) ‖²     =>     C V = V Λ,   C = cov(x)

with the h largest eigenvalues λ (Pearson 1901; Hotelling 1933). Whitened codes are divided by √λ, so that each has
variance 1, and multiplied by it on the way back: the reconstruction is the same.
"""

from __future__ import annotations

import torch

from pretrain.linear.moments import Moments
from pretrain.linear.projection import Projection, check_components, signs


def pca(moments: Moments, components: int, *, whiten: bool = False) -> Projection:
    """Fit the ``components`` directions of largest variance, largest first.

    Each direction's loading of largest magnitude is positive. ``whiten``: codes of variance 1 (sample variance,
    divided by count - 1), for which the rows must vary in every direction asked for.

    Raises:
        ValueError: more components than ``min(count - 1, d)``; rows that do not vary, or, with ``whiten``, vary in
            fewer directions than asked.
    """
    n, d = moments.count, moments.columns
    check_components(components, min(n - 1, d), f"{n} rows of {d} columns")
    values, basis = torch.linalg.eigh(moments.covariance())
    values, directions = values.flip(0).clamp_min(0), basis.T.flip(0)[:components]
    floor = d * torch.finfo(values.dtype).eps * values[0]  # below it an eigenvalue is the rounding of larger ones
    rank = int((values > floor).sum())
    if rank == 0:
        raise ValueError(f"all {n} rows are the same: there is no variance to keep")
    directions = directions * signs(directions)[:, None]
    scale = torch.ones_like(values[:components])
    if whiten:
        if components > rank:
            raise ValueError(f"components is {components}, but the rows vary in {rank} directions only: cannot whiten")
        scale = values[:components].sqrt()
    return Projection(
        mean=moments.mean,
        weight=(directions / scale[:, None]).contiguous(),
        back=(directions.T * scale).contiguous(),
        explained=values[:components] / values.sum(),
    )
