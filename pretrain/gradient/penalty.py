"""Penalties on the code and on the dictionary: ``λ ‖code‖₁`` and ``γ ‖W‖²_F``."""

from __future__ import annotations

from pydantic import Field

from common.config import Config


class PenaltyConfig(Config):
    """What is added to the distance, per image.

    Attributes:
        l1: λ of ``λ ‖code‖₁``, summed over the code of an image. Atoms (columns of the decoder) then have unit norm, or
            the code would shrink while they grow for ever.
        dictionary: γ of ``γ ‖W‖²_F`` on the atoms of a linear decoder, which closes the same freedom for the linear
            encoder under L1: atoms then have the norm they like, and the optimizer's own weight decay must be 0.
    """

    l1: float = Field(default=0.0, ge=0)
    dictionary: float = Field(default=0.0, ge=0)

    def check(self, encoder: str) -> list[str]:
        """Problems of these penalties with the encoder of this name.

        Without L1, atoms could shrink while the code grows, for ever. The codes of other encoders are written back by
        atoms of unit norm.
        """
        if not self.dictionary or (self.l1 and encoder == "linear"):
            return []
        return [
            "penalty.dictionary is for a linear code under L1: set encoder.name=linear and penalty.l1, or leave it out "
            "(the atoms of any sparse code have unit norm without it)"
        ]
