"""Atoms and patches that explain a code."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Explained(NamedTuple):
    """Atoms of a code, and how strongly some patches excite each of them."""

    atoms: Tensor  # [h 3 p p], any scale
    codes: Tensor  # [n h]
    patches: Tensor  # [n 3 p p], RGB in [0, 1]
    mirrored: bool = False  # whether the mirror image of each is an atom too, which is not listed

    @property
    def number(self) -> int:
        """The number of atoms, mirror images included."""
        return self.codes.shape[1] * (2 if self.mirrored else 1)
