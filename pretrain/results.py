"""What pretraining leaves behind, as typed facts: ``results.json`` is their dump."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from common.config import Config
from common.engine.loop import Trained


class CodeStorage(Config):
    """What the code of an image takes, on average over a sample of the training images.

    Attributes:
        code_size: entries of the encoder's output, all places of its map together.
        nonzeros: of them, per image.
        bytes_dense, bytes_sparse: per image, as float32, and as non-zeros with their indices (int32).
    """

    code_size: int
    nonzeros: float
    bytes_dense: int
    bytes_sparse: float


class PretrainResults(Config):
    """``results.json`` of a pretraining run.

    Attributes:
        method: what the encoder was learned by, such as ``denoise`` or ``pca``.
        steps, seconds: how long training took, over all resumptions.
        encoder_sha256: of the exported encoder.
        code: what a code takes.
        relative_reconstruction_error: ``Σ ‖x − x̂‖² / Σ ‖x − mean‖²`` of undamaged images, where codes give images back.
        atoms, unused_atoms: of a dictionary.
        maximum_mean_discrepancy: of two domains, by code.
    """

    schema_version: Literal[1] = 1
    method: str
    steps: int
    seconds: float
    encoder_sha256: str
    code: CodeStorage
    relative_reconstruction_error: float | None = None
    atoms: int | None = None
    unused_atoms: int | None = None
    maximum_mean_discrepancy: dict[str, float] | None = None

    @property
    def lines(self) -> list[str]:
        """What people are told."""
        code, share = self.code, self.code.nonzeros / max(self.code.code_size, 1)
        told = [] if self.atoms is None else [f"{self.atoms} atoms, {self.unused_atoms} unused"]
        return [
            *told,
            f"{code.nonzeros:,.1f} of {code.code_size:,} features per image are non-zero ({1 - share:.1%} zeros): "
            f"{code.bytes_sparse:,.0f} bytes as sparse, {code.bytes_dense:,} as dense float32",
        ]


@dataclass(frozen=True)
class Pretrained:
    """How pretraining ended. All but ``training`` is None while the run waits to be resumed."""

    training: Trained
    encoder: Path | None = None  # the exported folder
    results: PretrainResults | None = None

    @property
    def sha256(self) -> str | None:
        """Of the exported encoder."""
        return None if self.results is None else self.results.encoder_sha256
