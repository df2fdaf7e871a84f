"""Sparse codes of whole small images or patches under a dictionary: ``s(x) = argmin_s ‖x - W s‖² + penalty(s)``."""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import normalize

from common.config import MANY, Config, validate
from common.encoders.base import View
from common.encoders.config import EncoderConfig
from common.encoders.vector import Centre, VectorEncoder
from common.solvers import STEPS, apart, fista, iht, moving, omp

L0_START = 0.01  # relative duality gap of the L1 codes from which hard thresholding starts


class SparseCodeArgs(Config):
    """Settings of ``sparse_code``, given as ``encoder.model_args``.

    Attributes:
        atoms: columns of the dictionary.
        penalty: ``l1`` (``λ ‖s‖₁``, by FISTA), ``l0`` (``λ ‖s‖₀``, by iterative hard thresholding) or ``atoms`` (at
            most ``top_k`` non-zeros, by orthogonal matching pursuit).
        strength: λ, for pixels in [0, 1].
        top_k: non-zeros, with ``penalty: atoms``.
        centring: subtracted from an image first: its ``own`` mean level, or the mean image of the training ``data``.
        steps: maximum number of steps per code. Most codes converge much earlier; if λ is small relative to the
            images' contrast, some need more, since the smaller λ, the longer the search for the active atoms.
    """

    atoms: int = Field(default=256, ge=1, le=1 << 16)
    penalty: Literal["l1", "l0", "atoms"] = "l1"
    strength: float = Field(default=0.1, ge=1e-12, le=1e6)
    top_k: int = Field(default=8, gt=0, le=1 << 16)
    centring: Centre = "own"
    steps: int = Field(default=STEPS, gt=0, le=MANY)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.penalty == "atoms" and self.top_k > self.atoms:
            raise ValueError(f"top_k {self.top_k} exceeds the number of atoms ({self.atoms})")
        return self


class SparseCode(VectorEncoder):
    """``dictionary`` is ``W`` ``[d h]``, ``d = 3 S²``."""

    dictionary: Tensor

    def __init__(self, config: EncoderConfig, image_size: int, view: View, mask_channel: bool) -> None:
        args = validate(SparseCodeArgs, config.model_args, "encoder.model_args")
        super().__init__(config, image_size, view, mask_channel, args.centring)
        self.args = args
        self.config = self.config.model_copy(update={"model_args": args.model_dump()})
        self.register_buffer("dictionary", normalize(torch.randn(self.dimension, args.atoms), dim=0))
        self.settle()

    @property
    def iterates(self) -> bool:
        return True

    def codes(self, rows: Tensor) -> list[Tensor]:
        with torch.autocast(rows.device.type, enabled=False):  # bfloat16 cannot resolve a gap of 1e-5
            return [self.solve(rows.float())]

    def unconverged(self, rows: Tensor, codes: Tensor) -> Tensor:
        """The codes ``[B h]`` of centered rows ``[B d]`` that ``steps`` were too few for, bool ``[B]``.

        They are far from the minimum, or hard thresholding would still move them. Matching pursuit always ends.
        """
        args = self.args
        match args.penalty:
            case "l1":
                return apart(rows, self.dictionary, codes, args.strength)
            case "l0":
                return moving(rows, self.dictionary, codes, args.strength)
            case "atoms":
                return torch.zeros(len(rows), dtype=torch.bool, device=rows.device)

    def solve(self, rows: Tensor, *, steps: int | None = None, tolerance: float = 1e-5) -> Tensor:
        """Centered rows ``[B d]``, float32 -> codes ``[B h]``.

        Args:
            steps: maximum number of steps per code; by default the encoder's.
            tolerance: relative duality gap at which an L1 code is done.
        """
        args = self.args
        steps = steps or args.steps
        match args.penalty:
            case "l1":
                return fista(rows, self.dictionary, args.strength, steps=steps, tolerance=tolerance)
            case "l0":
                # not convex: start at the L1 code, whose threshold is the same for an orthonormal dictionary
                start = fista(rows, self.dictionary, 2 * args.strength**0.5, steps=steps, tolerance=L0_START)
                return iht(rows, self.dictionary, args.strength, steps=steps, start=start)
            case "atoms":
                return omp(rows, self.dictionary, min(args.top_k, self.dimension))
