"""Which rows stand for many."""

from __future__ import annotations

import torch
from torch import Tensor


def even_rows(length: int, count: int) -> Tensor:
    """At most ``count`` of the rows 0..length-1, evenly spread, int64: some of each class in a sorted folder."""
    return torch.linspace(0, length - 1, min(length, count), dtype=torch.float64).round().long()
