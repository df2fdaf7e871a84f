"""Sparse coding: a dictionary that represents each image or patch with few atoms.

    minimize over W, s_1..s_N   1/N Σ_i [ ‖x_i − W s_i‖² + λ ‖s_i‖₁ ]  +  γ ‖W‖²_F        (L0: ‖s_i‖₀ instead of ‖s_i‖₁)

Online (Mairal et al. 2010): compute codes of a batch with the current dictionary, update running moments of codes and
images, and minimize over the dictionary. With γ = 0 atoms have unit norm: otherwise codes could shrink and atoms grow
without bound. With the L0 penalties this is the only choice, since they ignore the size of a code.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import normalize

from common.augment import AugmentConfig
from common.data.rows import even_rows
from common.encoders import Encoder, EncoderConfig
from common.encoders.sparse_code import SparseCode
from common.encoders.vector import Centre
from common.engine.learner import StepResult
from common.machine.distributed import World
from pretrain.linear.base import LinearMethod
from pretrain.linear.dictionary import DictionaryStatistics, worst_reconstructed
from pretrain.linear.dictionary_learner import NOTED, DictionaryLearner, unconverged_note
from pretrain.report.explained import Explained

# Codes and atoms need not be exact while the other still changes: measured in benchmarks/dictionary.py.
STEPS, GAP, SWEEPS = 30, 0.1, 2


class SparseCoding(LinearMethod):
    """A dictionary, and codes that use few of its atoms; λ is for pixels in [0, 1]."""

    kind: Literal["sparse_coding"] = "sparse_coding"
    atoms: int = Field(default=256, ge=2, le=1 << 14)
    """Columns of the dictionary."""
    penalty: Literal["l1", "l0", "atoms"] = "l1"
    """λ ‖s‖₁ (monotone FISTA), λ ‖s‖₀ (iterative hard thresholding), or at most top_k atoms (matching pursuit)."""
    strength: float = Field(default=0.1, ge=1e-12, le=1e6)
    """λ, with penalty l1 or l0."""
    top_k: int = Field(default=8, gt=0, le=1 << 16)
    """Largest number of non-zeros per code, with penalty=atoms."""
    gamma: float = Field(default=0.0, ge=0, le=1e6)
    """γ of γ ‖W‖²_F, with penalty=l1 only; 0 keeps atoms at unit norm instead."""
    centring: Centre = "own"
    """What is subtracted from an image first: its own mean level, or the mean image of the data."""
    forgetting: float = Field(default=3.0, ge=0, le=100)
    """ρ of the running moments: batch i of t has weight (i/t)^ρ."""

    @model_validator(mode="after")
    def _freedoms_are_closed(self) -> Self:
        if self.gamma and self.penalty != "l1":
            raise ValueError(f"gamma needs penalty=l1; with penalty={self.penalty} atoms have unit norm: remove it")
        if self.penalty == "atoms" and self.top_k > self.atoms:
            raise ValueError(f"top_k is {self.top_k}, but there are only {self.atoms} atoms: lower it")
        return self

    def encoder_config(self) -> EncoderConfig:
        keys = ("atoms", "penalty", "strength", "top_k", "centring")
        return EncoderConfig(name="sparse_code", model_args={key: getattr(self, key) for key in keys})

    @property
    def learner(self) -> type[SparseCodingLearner]:
        return SparseCodingLearner


class SparseCodingLearner(DictionaryLearner):
    """Learns W and its moments A, B from minibatches."""

    encoder: SparseCode
    method: SparseCoding

    def __init__(self, encoder: Encoder, method: SparseCoding, augment: AugmentConfig, world: World, seed: int) -> None:
        super().__init__(encoder, method, augment, world, seed)
        d, h = self.encoder.dictionary.shape
        self.statistics = DictionaryStatistics(d, h, forgetting=method.forgetting, device=world.device)

    def initialize(self, sample: Tensor) -> None:
        """Atoms start as images of the sample, chosen by the seed."""
        self.encoder.fit_centre(sample)
        rows = self.encoder.vectors(sample)
        self.encoder.dictionary.copy_(random_rows(rows, self.encoder.args.atoms, self.seed).T)

    def learn(self, images: Tensor, step: int, index: Tensor) -> StepResult:
        x, encoder, fit = self.encoder.vectors(images), self.encoder, self.method
        codes = encoder.solve(x, steps=STEPS, tolerance=GAP)
        restore = (x - codes @ encoder.dictionary.T).square().sum(1).mean()
        losses = {"restore": restore, "sparsity": self.penalty(codes).mean()}
        if fit.gamma:
            losses["dictionary"] = fit.gamma * encoder.dictionary.square().sum()

        def worst(count: int) -> Tensor:
            return worst_reconstructed(x, encoder.dictionary, codes, count)

        fresh, numbers = self.improved(encoder.dictionary, x, codes, step, worst, gamma=fit.gamma, sweeps=SWEEPS)
        encoder.dictionary.copy_(fresh)
        return StepResult(losses, numbers)

    def penalty(self, codes: Tensor) -> Tensor:
        """λ ‖s‖₁ or λ ‖s‖₀ of each row ``[B]``; zero for a fixed number of atoms."""
        if self.method.penalty == "l1":
            return self.method.strength * codes.abs().sum(1)
        return (self.method.strength if self.method.penalty == "l0" else 0.0) * (codes != 0).sum(1)

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> tuple[Tensor, Tensor]:
        images = images.to(self.world.device)
        rows = self.encoder.vectors(images)
        removed = images.flatten(1) - rows  # by centring
        return (removed + self.encoder.solve(rows) @ self.encoder.dictionary.T).view(images.shape), rows

    @torch.no_grad()
    def notes(self, images: Tensor) -> list[str]:
        rows = self.encoder.vectors(images[even_rows(len(images), NOTED)].to(self.world.device))
        missed = self.encoder.unconverged(rows, self.encoder.solve(rows))
        return unconverged_note(missed, self.encoder.args.steps, "raise fit.strength, or lower fit.atoms")

    @torch.no_grad()
    def explain(self, images: Tensor) -> Explained:
        atoms = self.encoder.dictionary.T.reshape(-1, *images.shape[1:])
        return Explained(atoms, self.encoder(images.to(self.world.device)).flatten(1), images)


def random_rows(rows: Tensor, count: int, seed: int) -> Tensor:
    """``count`` random rows of ``[n d]``, normalized, ``[count d]``; repeated, with noise, if there are too few."""
    generator = torch.Generator().manual_seed(seed)
    usable = rows[rows.norm(dim=1) > 1e-3 * rows.norm(dim=1).mean()]  # a flat patch has no direction
    usable = usable if len(usable) else torch.randn(1, rows.shape[1], generator=generator).to(rows)
    order = torch.randperm(len(usable), generator=generator)
    chosen = normalize(usable[order[torch.arange(count) % len(usable)].to(rows.device)], dim=1)
    noise = torch.randn(chosen.shape, generator=generator).to(chosen) * 0.01 / chosen.shape[1] ** 0.5
    return normalize(chosen + noise, dim=1)
