"""What all sparse coders share: one convention of shapes, the squared error, its curvature, and blocks of rows.

Rows ``x`` ``[B d]`` are approximated with a dictionary ``W`` ``[d h]``, whose columns are the atoms, and codes
``[B h]``: ``x ≈ W s`` for every row. The squared error has no factor 1/2.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

# Entries per block of codes. On a CPU, the few arrays of this size that a step reads should stay in the cache.
BLOCK_CPU, BLOCK_GPU = 1 << 18, 1 << 25

# The largest support solved exactly, and the rows solved per batch: together they bound the memory. Small batches need
# little padding, which matters on a CPU; a GPU needs large ones.
SOLVABLE, TOGETHER_CPU, TOGETHER_GPU = 128, 64, 4096


def check_problem(x: Tensor, dictionary: Tensor, codes: Tensor | None = None, name: str = "codes") -> None:
    """Refuse anything but rows ``[B d]``, a dictionary ``[d h]`` and codes ``[B h]`` of one dtype and device.

    Raises:
        ValueError: shapes, dtypes or devices do not match.
    """
    if x.ndim != 2 or dictionary.ndim != 2 or x.shape[1] != dictionary.shape[0]:
        raise ValueError(
            f"rows [B d] and a dictionary [d h] are needed, not {list(x.shape)} and {list(dictionary.shape)}"
        )
    if x.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"rows must be float32 or float64, not {x.dtype}")
    if codes is not None and codes.shape != (x.shape[0], dictionary.shape[1]):
        raise ValueError(f"{name} must be {[x.shape[0], dictionary.shape[1]]}, not {list(codes.shape)}")
    for other in (dictionary, codes):
        if other is not None and (other.dtype, other.device) != (x.dtype, x.device):
            raise ValueError(f"rows are {x.dtype} on {x.device}, but another tensor is {other.dtype} on {other.device}")


def check_penalty(value: float, steps: int, name: str) -> None:
    """Refuse a negative or non-finite penalty, and a negative number of steps (ValueError)."""
    if not 0 <= value < float("inf"):
        raise ValueError(f"{name} must be a finite number of at least 0, not {value}")
    if steps < 0:
        raise ValueError(f"steps must be at least 0, not {steps}")


def squared_error(x: Tensor, dictionary: Tensor, codes: Tensor) -> Tensor:
    """``‖x − W s‖²`` of every row, float64 ``[B]``; the product is computed in the rows' dtype."""
    return torch.addmm(x, codes, dictionary.T, alpha=-1).double().square_().sum(1)


def curvature(dictionary: Tensor) -> float:
    """An upper bound of λmax(WᵀW), tight to 1e-6, so that ``‖W u‖² <= bound ‖u‖²`` holds in rounded arithmetic too.

    From the exact eigenvalues of the smaller Gram matrix: power iteration converges from below, and a step that is
    slightly too long may not descend.
    """
    exact = dictionary.double()
    smaller = exact @ exact.T if exact.shape[0] <= exact.shape[1] else exact.T @ exact
    largest = float(torch.linalg.eigvalsh(smaller)[-1]) if smaller.numel() else 0.0
    return max(largest * (1 + 1e-6), torch.finfo(dictionary.dtype).tiny)


def row_blocks(x: Tensor, entries: int) -> Iterator[slice]:
    """Slices over the rows of ``x`` that bound the working memory; ``entries`` is the numbers needed per row."""
    size = max(1, (BLOCK_CPU if x.device.type == "cpu" else BLOCK_GPU) // max(1, entries))
    for start in range(0, len(x), size):
        yield slice(start, min(start + size, len(x)))


def solve_on_support(gram: Tensor, target: Tensor, codes: Tensor, ridge: float = 0.0) -> Tensor:
    """Solve ``(G_SS + ridge I) v_S = target_S`` for every row, S being the support of its code; zero elsewhere.

    Rows with more than ``SOLVABLE`` atoms, or with dependent ones and no ridge, get zeros.

    Args:
        gram: G = WᵀW, ``[h h]``.
        target: ``[B h]``.
        codes: ``[B h]``; only their support matters.
        ridge: added to the diagonal.
    """
    solution = torch.zeros_like(codes)
    used = codes != 0
    sizes, order = used.sum(1).sort(stable=True)  # rows of similar size together need little padding
    first, last = torch.searchsorted(sizes, torch.tensor([1, SOLVABLE + 1], device=sizes.device)).tolist()
    together = TOGETHER_CPU if codes.device.type == "cpu" else TOGETHER_GPU
    while first < last:
        rows = order[first : min(first + together, last)]
        size = int(sizes[first + len(rows) - 1])
        mask, atoms = used[rows].to(torch.uint8).topk(size, dim=1)  # [b k]
        real = mask.bool()
        block = gram[atoms[:, :, None], atoms[:, None, :]] * (real[:, :, None] & real[:, None, :])  # [b k k]
        block.diagonal(dim1=1, dim2=2).add_((~real).to(gram.dtype) + ridge)  # padding solves v = 0
        factor, failed = torch.linalg.cholesky_ex(block)
        right = (target[rows].gather(1, atoms) * real)[:, :, None]
        found = torch.cholesky_solve(right, factor)[:, :, 0]
        found = torch.where(real & (failed == 0)[:, None], found, 0)
        solution[rows] = torch.zeros_like(solution[rows]).scatter_(1, atoms, found)
        first += len(rows)
    return solution
