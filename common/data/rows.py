"""Which rows stand for all of them."""

from __future__ import annotations

import torch
from torch import Tensor


def even_rows(length: int, count: int) -> Tensor:
    """At most ``count`` of ``length`` rows, evenly spread from the first to the last: int64, ascending.

    Computed in float64: float32 cannot tell rows beyond 2**24 apart.
    """
    return torch.linspace(0, length - 1, min(length, count), dtype=torch.float64).round().long()
