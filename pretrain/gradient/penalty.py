"""Penalties on the code and on the dictionary: ``λ ‖code‖₁`` and ``γ ‖W‖²_F``."""

from __future__ import annotations

from pydantic import Field

from common.config import Config


class PenaltyConfig(Config):
    """Penalties that are added to the distance, per image.

    Attributes:
        l1: λ of ``λ ‖code‖₁``, summed over the code of an image. Atoms (columns of the decoder) then have unit
            norm: otherwise the code would shrink while they grow without bound.
        dictionary: γ of ``γ ‖W‖²_F`` on the atoms of a linear decoder. It fixes the scale for the linear encoder under
            L1 instead of unit norm: atoms can have any norm, and the optimizer's weight decay must be 0.
    """

    l1: float = Field(default=0.0, ge=0)
    dictionary: float = Field(default=0.0, ge=0)

    def check(self, encoder: str) -> list[str]:
        """Problems of these penalties with the encoder of this name.

        Without L1, atoms could shrink while the code grows without bound. The codes of other encoders are decoded with
        atoms of unit norm.
        """
        if not self.dictionary or (self.l1 and encoder == "linear"):
            return []
        return [
            "penalty.dictionary needs a linear code with L1: set encoder.name=linear and penalty.l1, or remove it "
            "(without it, the atoms of a sparse code have unit norm)"
        ]
