"""Autoencoders as a method: an encoder, a decoder, a pretext and penalties, trained by gradient descent."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from common.augment import AugmentConfig
from common.config import ProblemsError
from common.data import Images
from common.data.held_out import FEWEST, hold_out
from common.encoders.base import Encoder
from common.encoders.config import StartConfig
from common.encoders.provenance import Provenance
from common.encoders.start import start_encoder
from common.engine.gradient import GradientLearner, check_shares
from common.engine.schedule import seed_step
from common.engine.settings import GradientConfig, StopConfig
from common.errors import UserError, check_all
from common.machine.distributed import World
from common.machine.precision import autocast
from pretrain.gradient.decoders import DecoderConfig
from pretrain.gradient.example import Example, Trial
from pretrain.gradient.kept import keep_decoder
from pretrain.gradient.objective import Objective, PenaltyConfig, check_objective, has_sparse_code
from pretrain.gradient.pretexts import AnyPretext, Denoise
from pretrain.method import Method, MethodLearner
from pretrain.report.explained import Explained
from pretrain.ruler.restorers import Restorer
from pretrain.sample import SAMPLE_IMAGES, sample

log = logging.getLogger("retouch")

FEW_IMAGES = 64
GRAY = (
    1 / 255
)  # an image is gray if the largest and the smallest of red, green and blue differ by less than this on average
SMALL_BYTES = 24 << 20  # size of 2,048 float images of 32 px; the sample has more images if they are smaller


class Gradient(GradientConfig, Method):
    """Settings of an autoencoder, and of the optimizer that trains it."""

    encoder: StartConfig = StartConfig()
    decoder: DecoderConfig = DecoderConfig()
    pretext: AnyPretext = Denoise()
    penalty: PenaltyConfig = PenaltyConfig()
    held_out: float = Field(default=0.02, ge=0, le=0.5)
    """Share of the images held out to measure on: 32 to 2,048, at most a tenth of a small data set; 0 disables it."""
    stop: StopConfig = StopConfig()

    @model_validator(mode="after")
    def _penalties_fit(self) -> Gradient:
        problems = (
            [] if self.encoder.path else self.penalty.check(self.encoder.name)
        )  # the encoder of a path has not been read yet
        if self.stop.when == "flat" and not self.held_out:
            problems.append("stop.when=flat follows the loss on held-out images: set held_out, or stop.when=never")
        if self.penalty.dictionary and self.optim.weight_decay:
            problems.insert(0, "penalty.dictionary already decays the atoms: set optim.weight_decay=0")
        if problems:
            raise ProblemsError(problems)
        return self

    @property
    def title(self) -> str:
        return self.pretext.kind

    @property
    def key(self) -> str:
        return f"pretext.kind={self.pretext.kind}"

    @property
    def provenance(self) -> Provenance:
        found = Provenance(pretext=self.pretext.model_dump(mode="json"), base_lr=self.base_lr)
        return found.starting_pretrained(self.encoder.name) if self.encoder.pretrained else found

    def build(self, image_size: int, augment: AugmentConfig, world: World, seed: int) -> AutoencoderLearner:
        encoder, _ = check_all(lambda: self._encoder(image_size, seed), lambda: check_shares(self, world))
        objective = Objective(encoder, self.decoder, self.pretext, self.penalty, augment)
        return AutoencoderLearner(objective, self, world)

    def _encoder(self, image_size: int, seed: int) -> Encoder:
        """Build the encoder from the seed or from a file, and check that pretext, decoder and penalties can use it."""
        pretext = self.pretext
        seed_step(seed, 0)
        try:
            encoder = start_encoder(
                self.encoder, image_size=image_size, view=pretext.view, mask_channel=pretext.mask_channel
            )
        except UserError as error:
            raise UserError(*error.lines, *self.decoder.check()) from None
        if self.encoder.path is not None and not any(one.requires_grad for one in encoder.parameters()):
            raise UserError(
                f"encoder: {encoder.name} has no weights that learn by gradient descent, so only a decoder would be "
                "trained: start from another encoder"
            )
        # if nothing is damaged, the code must be narrow or sparse
        free = pretext.narrow_code and has_sparse_code(encoder, self.penalty)
        problems = [] if free else pretext.check(encoder)
        if problems := problems + check_objective(encoder, self.decoder, pretext, self.penalty):
            raise UserError(*problems, title=f"{encoder.name} cannot be pretrained with {pretext.kind}:")
        return encoder


class AutoencoderLearner(GradientLearner, MethodLearner):
    """Trains an ``Objective``."""

    def __init__(self, objective: Objective, config: Gradient, world: World) -> None:
        super().__init__(objective, config, world)
        self.title, self.objective, self.encoder = config.title, objective, objective.encoder
        self.decoder, self.held_out, self.stop = config.decoder, config.held_out, config.stop
        self.learned = config.encoder.path is not None  # what it has learned about its data is kept

    def attach(self, images: Images, other: Images | None = None) -> None:
        training, self.held = hold_out(images, self.held_out, self.config.seed)
        super().attach(training, other)
        if self.stop.when == "flat" and self.held is None:
            raise UserError(
                f"stop.when=flat follows the loss on held-out images, but {len(images)} are too few to hold any out: "
                f"use at least {FEWEST}, or stop.when=never"
            )
        if self.objective.pretext.needs_color:
            _refuse_gray(images, self.objective.pretext.kind)

    def begin(self, steps: int) -> None:
        if self.config.compile:
            # compiling would not speed up random numbers and color tables, and eager random numbers stay reproducible
            # not as a decorator, which takes a second to import
            eager = torch.compiler.disable(self.objective.corrupt)  # type: ignore[no-untyped-call]
            self.objective.corrupt = eager  # type: ignore[method-assign]
        super().begin(steps)

    @property
    def description(self) -> str:
        channels, height, width = self.encoder.map_shape
        return (
            f"encoder {self.encoder.name}: {_millions(self.encoder):.2f}M parameters, last map "
            f"{channels}x{height}x{width}; decoder: {_millions(self.objective.decoder):.2f}M parameters"
        )

    def start(self) -> None:
        if self.objective.fits:
            count = max(SAMPLE_IMAGES, SMALL_BYTES // (4 * 3 * self.images.size**2))
            self.objective.fit(sample(self.images, count).to(self.world.device), learned=self.learned)
        if self.ema:
            self.ema.reset()

    def restored(self, images: Tensor) -> tuple[Example, Tensor]:
        seed_step(self.config.seed, 0)
        return self.objective.restore(images)

    @property
    def spared(self) -> str:
        return self.objective.pretext.spared

    @property
    def restorers(self) -> tuple[Restorer, ...]:
        return self.objective.pretext.restorers(self.encoder)

    def damaged(self, chunks: Iterable[Tensor]) -> Iterator[Example]:
        seed_step(self.config.seed, 0)
        for images in chunks:
            yield self.objective.damage(images.to(self.world.device))

    def trials(self, chunks: Iterable[Tensor], shown: int) -> Iterator[Trial]:
        seed_step(self.config.seed, 0)
        with self.objective.evaluating():  # once for all chunks
            for images in chunks:
                example = self.objective.damage(images.to(self.world.device))
                with autocast(self.world.device, self.dtype):  # as in training
                    trial = self.objective.trial(example, pictured=shown > 0)
                yield trial
                shown -= len(images)

    def aided(self, restored: Tensor, example: Example) -> Tensor:
        return self.objective.pretext.aided(restored, example, self.encoder)

    def keep(self, folder: Path, *, source: str, encoder_sha256: str) -> bool:
        keep_decoder(self.objective, self.decoder, folder, source=source, encoder_sha256=encoder_sha256)
        return True

    def reconstruct(self, images: Tensor) -> tuple[Tensor, Tensor] | None:
        restored = self.objective.reconstruct(images)
        return None if restored is None else (restored, images - images.mean(0))

    def explain(self, images: Tensor) -> Explained | None:
        return self.objective.explain(images)


def _refuse_gray(images: Images, pretext: str) -> None:
    """Refuse images that are all gray: if a few are, more are checked."""
    for count in (FEW_IMAGES, SAMPLE_IMAGES):
        pixels = sample(images, count)
        colors = pixels.amax(1) - pixels.amin(1)  # 0 where red, green and blue are equal
        if (colors.mean((1, 2)) > GRAY).any():
            return
    raise UserError(
        f"pretext.kind={pretext} learns from colors, but {images.source.spec} has only gray images (of {len(pixels):,} "
        "that were checked): use color images, or a recipe that needs no color, such as mask or denoise"
    )


def _millions(module: nn.Module) -> float:
    return sum(parameter.numel() for parameter in module.parameters()) / 1e6
