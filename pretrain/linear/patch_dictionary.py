"""Learns the dictionary of a ``patch_dictionary``: whitening from a sample, atoms from a stream of patches.

Each step cuts patches at random positions of a batch, normalizes their mean and contrast, whitens them, and updates the
atoms: by k-means (one atom per patch, the gain-shape vector quantizer of Coates & Ng 2012, *Learning feature
representations with k-means*) or by sparse coding. PCA, ICA and random patches serve for comparison.
"""

from __future__ import annotations

from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import normalize

from common.augment import AugmentConfig
from common.config import ProblemsError
from common.data.rows import even_rows
from common.encoders import Encoder, EncoderConfig
from common.encoders.patch_dictionary import PatchDictionary, PatchDictionaryArgs, mirrored
from common.engine.learner import StepResult
from common.machine.distributed import World
from common.solvers import STEPS as LASSO_STEPS
from common.solvers import apart, fista
from pretrain.linear.base import LinearMethod, user_errors
from pretrain.linear.dictionary import DictionaryStatistics
from pretrain.linear.dictionary_learner import NOTED, DictionaryLearner, unconverged_note
from pretrain.linear.ica import ica
from pretrain.linear.sparse_coding import random_rows
from pretrain.report.explained import Explained

SAMPLE_PATCHES = 200_000  # patches used to estimate the whitening
ICA_PATCHES = 50_000
EXPLAINED_PATCHES = 4096

Basis = Literal["random", "kmeans", "sparse_coding", "pca", "ica"]


class PatchDictionaryFit(LinearMethod):
    """Settings of a patch dictionary."""

    kind: Literal["patch_dictionary"] = "patch_dictionary"
    learn: Basis = "kmeans"
    """How atoms are found."""
    network: PatchDictionaryArgs = PatchDictionaryArgs()
    whitening: float = Field(default=0.3, ge=1e-12, le=1e6)
    """Added to the eigenvalues of the covariance of patches of variance 1 before they are equalized; small values
    amplify noise."""
    patches: int = Field(default=8, ge=1, le=4096)
    """Patches per image of a batch."""
    strength: float = Field(default=1.0, ge=1e-12, le=1e6)
    """λ of sparse coding, on whitened patches."""
    forgetting: float = Field(default=1.0, ge=0, le=100)
    """ρ of the running moments: batch i of t has weight (i/t)^ρ."""

    @model_validator(mode="after")
    def _serves_as_a_basis(self) -> Self:
        if self.learn not in ("pca", "ica"):
            return self
        problems = []
        if self.network.mirror:
            # components of mirrored and unmirrored patches together are even, odd, or come in mirrored pairs: all of
            # PCA's, and nearly half of ICA's on photographs
            problems.append(
                f"learn={self.learn} finds atoms that are mirror images of themselves or of each other, so mirroring "
                "adds none: set fit.network.mirror=false"
            )
        if self.network.atoms > (most := 3 * self.network.patch**2):
            problems.append(
                f"learn={self.learn} finds at most {most} atoms of {self.network.patch} px patches: lower "
                "fit.network.atoms"
            )
        if problems:
            raise ProblemsError(problems)
        return self

    @property
    def streams(self) -> bool:
        return self.learn in ("kmeans", "sparse_coding")

    @property
    def key(self) -> str:
        return f"{super().key} with learn={self.learn}"

    def encoder_config(self) -> EncoderConfig:
        return EncoderConfig(name="patch_dictionary", model_args=self.network.model_dump())

    @property
    def learner(self) -> type[PatchDictionaryLearner]:
        return PatchDictionaryLearner


class PatchDictionaryLearner(DictionaryLearner):
    """Fits whitening and a first dictionary in ``start``; k-means and sparse coding then stream."""

    encoder: PatchDictionary
    method: PatchDictionaryFit

    def __init__(
        self, encoder: Encoder, method: PatchDictionaryFit, augment: AugmentConfig, world: World, seed: int
    ) -> None:
        super().__init__(encoder, method, augment, world, seed)
        h, d = self.encoder.dictionary.shape
        self.statistics = DictionaryStatistics(d, h, forgetting=method.forgetting, device=world.device)
        self.shortfall = ""

    @torch.no_grad()
    def notes(self, images: Tensor) -> list[str]:
        notes, args = [self.shortfall] if self.shortfall else [], self.encoder.args
        if args.code != "lasso":
            return notes
        some = images[even_rows(len(images), NOTED)].to(self.world.device)
        y = self.whitened(self.cut(some, 1, torch.Generator().manual_seed(self.seed)))
        dictionary = self.encoder.full_dictionary().T.contiguous()
        missed = apart(y, dictionary, fista(y, dictionary, args.l1), args.l1)
        return notes + unconverged_note(missed, LASSO_STEPS, "raise fit.network.l1, or lower fit.network.atoms")

    def initialize(self, sample: Tensor) -> None:
        encoder, fit = self.encoder, self.method
        generator = torch.Generator().manual_seed(self.seed)
        rows = self.cut(sample, max(1, SAMPLE_PATCHES // len(sample)), generator)
        if encoder.args.mirror:
            rows = torch.cat([rows, mirrored(rows)])  # makes the statistics symmetric
        mean = rows.double().mean(0)
        covariance = (rows.double() - mean).T @ (rows.double() - mean) / len(rows)
        values, vectors = torch.linalg.eigh(covariance)
        encoder.patch_mean.copy_(mean)
        encoder.whiten.copy_(vectors @ torch.diag((values.clamp_min(0) + fit.whitening).rsqrt()) @ vectors.T)
        white, learned = self.whitened(rows), encoder.args.learned
        match fit.learn:
            case "pca":
                atoms = vectors.T.flip(0)[:learned]  # the largest first; whitening keeps directions
            case "ica":
                some = white[:: -(-len(white) // ICA_PATCHES)]
                with user_errors(fit):
                    projection = ica(some, learned, seed=self.seed)
                # the mixing directions, comparable with other atoms: the filters that extract components from whitened
                # patches are mostly noise, since ICA whitens them again, and fully
                atoms, self.shortfall = projection.back.T, projection.shortfall
            case _:
                atoms = random_rows(white, learned, self.seed)
        encoder.dictionary.copy_(normalize(atoms.to(white), dim=1))

    def learn(self, images: Tensor, step: int, index: Tensor) -> StepResult:
        encoder = self.encoder
        y = self.whitened(self.cut(images, self.method.patches, None))
        dictionary = encoder.dictionary.T.contiguous()  # [d h]
        if self.method.learn == "kmeans":
            y, codes = self._nearest(y)
            losses = {"restore": (y - codes @ encoder.dictionary).square().sum(1).mean()}
        else:
            codes = fista(y, dictionary, self.method.strength, tolerance=1e-3)
            restore = (y - codes @ encoder.dictionary).square().sum(1)
            losses = {"restore": restore.mean(), "sparsity": self.method.strength * codes.abs().sum(1).mean()}
        fresh, numbers = self.improved(dictionary, y, codes, step, lambda count: y[:count])
        encoder.dictionary.copy_(fresh.T)
        if encoder.args.mirror:
            numbers["unused_atoms"] = 2 * numbers["unused_atoms"]  # with their mirror images
        return StepResult(losses, numbers)

    def _nearest(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """One atom per patch, by magnitude: patches ``[n d]``, mirrored if the mirrored atom fits better, and codes.

        A patch under a mirrored atom is the mirrored patch under the atom itself.
        """
        own = self.encoder.dictionary
        responses = y @ own.T
        if self.encoder.args.mirror:
            flipped = mirrored(y)
            other = flipped @ own.T
            better = other.abs().amax(1) > responses.abs().amax(1)
            y = torch.where(better[:, None], flipped, y)
            responses = torch.where(better[:, None], other, responses)
        best = responses.abs().argmax(1, keepdim=True)
        return y, torch.zeros_like(responses).scatter_(1, best, responses.gather(1, best))

    def cut(self, images: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
        """``count`` normalized patches per image ``[B 3 S S]``, at random positions -> ``[B*count d]``."""
        p, side = self.encoder.args.patch, images.shape[2]
        places = torch.randint(0, side - p + 1, (2, len(images), count), generator=generator).to(images.device)
        offsets = torch.arange(p, device=images.device)
        rows = places[0][..., None, None] + offsets[:, None]  # [B count p 1]
        columns = places[1][..., None, None] + offsets  # [B count 1 p]
        which = torch.arange(len(images), device=images.device)[:, None, None, None]
        patches = images.permute(0, 2, 3, 1)[which, rows, columns]  # [B count p p 3]
        patches = patches.permute(0, 1, 4, 2, 3).flatten(0, 1)
        return self.encoder.patches(patches).flatten(0, 1)

    def whitened(self, rows: Tensor) -> Tensor:
        """Normalized patches ``[n d]`` -> whitened ones."""
        return (rows - self.encoder.patch_mean) @ self.encoder.whiten

    @torch.no_grad()
    def explain(self, images: Tensor) -> Explained:
        images = images.to(self.world.device)
        encoder, p = self.encoder, self.encoder.args.patch
        windows = images.unfold(2, p, p).unfold(3, p, p).permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, p, p)
        windows = windows[even_rows(len(windows), EXPLAINED_PATCHES).to(windows.device)]
        codes = encoder.signed(windows)
        if encoder.args.mirror:
            # a patch under the mirrored atom is the mirrored patch under the atom itself, and is shown so
            windows = torch.cat([windows, windows.flip(3)])
            codes = torch.cat(torch.split(codes, encoder.args.learned, dim=1))
        return Explained(encoder.atoms(), codes, windows, mirrored=encoder.args.mirror)
