"""Typed results of pretraining: ``results.json`` is their dump."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from pydantic import TypeAdapter
from torch import Tensor

from common.config import Config
from common.data.originals import Originals
from common.encoders.base import Encoder
from common.encoders.storage import ENTRY_BYTES, NONZERO_BYTES
from common.engine.loop import Trained
from common.pixels import in_chunks
from common.runs.made import Made
from common.runs.results import SCHEMA_VERSION, load_results
from common.runs.spread import Spread
from pretrain.ruler.measured import Measured


class CodeStorage(Config):
    """The storage size of the code of an image, averaged over a sample of training images.

    Attributes:
        code_size: entries of the encoder's output, over all positions of its map.
        nonzeros: non-zero entries, per image.
        bytes_dense, bytes_sparse: bytes per image as float32, and as non-zeros with int32 indices.
    """

    code_size: int
    nonzeros: float
    bytes_dense: int
    bytes_sparse: float

    @property
    def text(self) -> str:
        """``12.5 of 2,048 features per image are non-zero (99.4% zeros): 100 bytes as sparse, ...``"""
        zeros = 1 - self.nonzeros / max(self.code_size, 1)
        return (
            f"{self.nonzeros:,.1f} of {self.code_size:,} features per image are non-zero ({zeros:.1%} zeros): "
            f"{self.bytes_sparse:,.0f} bytes as sparse, {self.bytes_dense:,} as dense float32"
        )


@torch.no_grad()
def code_storage(encoder: Encoder, images: Tensor) -> CodeStorage:
    """Measured on images ``[N 3 S S]`` in [0, 1]."""
    nonzeros = size = 0
    for some in in_chunks(images):
        codes = encoder(some.to(encoder.mean.device)).flatten(1)
        nonzeros, size = nonzeros + int(codes.count_nonzero()), codes.shape[1]
    mean = nonzeros / len(images)
    return CodeStorage(
        code_size=size,
        nonzeros=round(mean, 2),
        bytes_dense=ENTRY_BYTES * size,
        bytes_sparse=round(NONZERO_BYTES * mean, 1),
    )


class PretrainResults(Config):
    """``results.json`` of a pretraining run.

    Attributes:
        method: the method that trained the encoder, such as ``denoise`` or ``pca``.
        steps, seconds: length of training, over all resumptions.
        encoder_sha256: the sha256 of the exported encoder.
        code: the storage size of a code.
        relative_reconstruction_error: ``Σ ‖x − x̂‖² / Σ ‖x − mean‖²`` of undamaged images, if codes can be decoded.
        atoms, unused_atoms: numbers of atoms, with mirror images (without in older files), if there is a dictionary.
        maximum_mean_discrepancy: between two domains, by code.
        ruler: what the losses mean, for methods that restore damaged images.
        originals: the images that it learned from, as they are stored; None for generated ones and in older files.
        notes: what a reader must know, such as what did not converge.
        made: versions, machine and images; None in older files.
    """

    schema_version: Literal[1, 2] = SCHEMA_VERSION
    stage: Literal["pretrain"] = "pretrain"
    method: str
    steps: int
    seconds: float
    encoder_sha256: str
    code: CodeStorage
    relative_reconstruction_error: float | None = None
    atoms: int | None = None
    unused_atoms: int | None = None
    maximum_mean_discrepancy: dict[str, float] | None = None
    ruler: Measured | None = None
    originals: Originals | None = None
    notes: tuple[str, ...] = ()
    made: Made | None = None

    @property
    def numbers(self) -> dict[str, float]:
        """The numbers by which several runs of a method can be summarized."""
        optional = {
            "relative_reconstruction_error": self.relative_reconstruction_error,
            "unused_atoms": self.unused_atoms,
        }
        return {
            **({} if self.ruler is None else self.ruler.numbers),
            **{name: value for name, value in optional.items() if value is not None},
            **{f"discrepancy/{code}": value for code, value in (self.maximum_mean_discrepancy or {}).items()},
            "nonzeros": self.code.nonzeros,
            "seconds": self.seconds,
        }


def read_results(path: str | Path) -> PretrainResults:
    """Read the results of ``retouch pretrain``: a ``results.json``, or the run folder around it.

    Raises:
        UserError: there is no such file, it is damaged, or another stage or version of Retouch wrote it.
    """
    return load_results(path, TypeAdapter(PretrainResults), ("pretrain",))


class PretrainSeeds(Config):
    """``results.json`` of pretraining with several seeds.

    Attributes:
        seeds: seeds of the runs, in order.
        spreads: each number over the seeds, by its name.
        runs: the results of each run, in the same order.
    """

    schema_version: Literal[2] = SCHEMA_VERSION
    stage: Literal["pretrain_seeds"] = "pretrain_seeds"
    seeds: tuple[int, ...]
    spreads: dict[str, Spread]
    runs: tuple[PretrainResults, ...]

    @classmethod
    def of(cls, seeds: Sequence[int], runs: Sequence[PretrainResults]) -> PretrainSeeds:
        """Summarize runs that differ in their seed alone, by the numbers that all of them have."""
        numbers = [run.numbers for run in runs]
        names = [name for name in numbers[0] if all(name in one for one in numbers)]
        spreads = {name: Spread.of([one[name] for one in numbers]) for name in names}
        return cls(seeds=tuple(seeds), spreads=spreads, runs=tuple(runs))


def read_seeds(path: str | Path) -> PretrainSeeds:
    """Read the results of ``retouch pretrain`` with ``seeds``: a ``results.json``, or the folder around it.

    Raises:
        UserError: there is no such file, it is damaged, or another stage or version of Retouch wrote it.
    """
    return load_results(path, TypeAdapter(PretrainSeeds), ("pretrain_seeds",))


@dataclass(frozen=True)
class Pretrained:
    """How pretraining ended. Everything but ``training`` is None if the run was stopped and can be resumed.

    With several seeds, ``encoder`` is the folder of all runs, of which a probe measures each; ``training`` is that of
    the last one.
    """

    training: Trained
    encoder: Path | None = None  # the exported folder
    results: PretrainResults | None = None
    seeds: PretrainSeeds | None = None  # in place of ``results``, if there are several seeds

    @property
    def sha256(self) -> str | None:
        """The sha256 of the exported encoder."""
        return None if self.results is None else self.results.encoder_sha256
