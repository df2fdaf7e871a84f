"""Atoms and patches that explain a code."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Explained(NamedTuple):
    """Atoms of a code, and how strongly some patches excite each of them."""

    atoms: Tensor  # [h 3 p p], any scale
    codes: Tensor  # [n h]
    patches: Tensor  # [n 3 p p], RGB in [0, 1]
