"""A counter-based random generator for generated data: numbers are a function of their position.

Any row can be drawn directly, and many rows at once. All steps are integer arithmetic and one exact scaling, so the
numbers are the same on every machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

SPLITS = ("train", "test")  # their order determines every number
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def keys(seed: int, split: str, rows: Ints) -> NDArray[np.uint64]:
    """One 64-bit key per row ``[n]``, a function of (seed, split, row)."""
    stream = np.array([seed * len(SPLITS) + SPLITS.index(split)], np.uint64)
    return _mix(_mix(stream * GOLDEN + GOLDEN) + rows.astype(np.uint64) * GOLDEN)


def uniform(seed: int, split: str, rows: Ints, count: int, first: int = 0) -> Floats:
    """Numbers ``first .. first + count - 1`` of each row ``[n]``, uniform in [0, 1), ``[n count]``."""
    lanes = np.arange(first + 1, first + count + 1, dtype=np.uint64) * GOLDEN
    bits = _mix(keys(seed, split, rows)[:, None] + lanes) >> np.uint64(40)
    return bits.astype(np.float32) * np.float32(2.0**-24)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64 (Steele, Lea and Flood 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
