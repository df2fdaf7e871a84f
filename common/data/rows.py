"""Which rows to look at where not all are needed."""

from __future__ import annotations

import torch
from torch import Tensor


def even_rows(length: int, count: int) -> Tensor:
    """At most ``count`` of the rows 0..length-1, evenly spread, int64: of a folder sorted by class, some of each."""
    return torch.linspace(0, length - 1, min(length, count), dtype=torch.float64).round().long()
