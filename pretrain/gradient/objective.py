"""The objective of an autoencoder: augment, corrupt, encode, decode and score, in one module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from pydantic import Field
from torch import Tensor, nn

from common.augment import AugmentConfig
from common.config import Config
from common.encoders.base import Encoder, TokenEncoder
from common.encoders.linear import Linear
from common.encoders.vector import VectorEncoder
from common.errors import UserError
from common.pixels import in_chunks
from pretrain.gradient.decoders import DecoderConfig, LinearDecoder, TransformerDecoder, build_decoder, check_decoder
from pretrain.gradient.example import Example, Trial
from pretrain.gradient.pretexts.base import Pretext
from pretrain.gradient.pretexts.restore import Restore
from pretrain.linear.diagonal import diagonal_autoencoder
from pretrain.report.explained import Explained
from pretrain.ruler.restorers import Damaged


class PenaltyConfig(Config):
    """Penalties that are added to the distance, per image.

    With ``l1``, atoms (columns of the decoder) have unit norm: otherwise the code would shrink while they grow without
    bound. ``dictionary`` fixes the scale for the linear encoder instead: atoms can have any norm.
    """

    l1: float = Field(default=0.0, ge=0, le=1e6)
    """λ of λ ‖code‖₁, summed over the code of an image."""
    dictionary: float = Field(default=0.0, ge=0, le=1e6)
    """γ of γ ‖W‖²_F on the atoms of a linear decoder; the optimizer's weight decay must then be 0."""

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


def has_sparse_code(encoder: Encoder, penalty: PenaltyConfig) -> bool:
    """Whether the code is penalized or top-k."""
    return bool(penalty.l1) or encoder.code_kept is not None


def check_objective(encoder: Encoder, decoder: DecoderConfig, pretext: Pretext, penalty: PenaltyConfig) -> list[str]:
    """All problems of a decoder and penalties with an encoder and a pretext."""
    masked, sparse = pretext.drops_tokens(encoder), has_sparse_code(encoder, penalty)
    problems = penalty.check(encoder.name)
    if pretext.narrow_code and decoder.kind == "unet" and not sparse:
        problems.append(
            f"decoder.kind=unet has skips that bypass the narrow code of pretext.kind={pretext.kind}: use upsampler"
        )
    problems += check_decoder(decoder, encoder, pretext.output(encoder.image_size)[1], masked=masked, sparse=sparse)
    if penalty.dictionary and decoder.resolved(masked=masked, sparse=sparse).kind != "linear":
        problems.append("penalty.dictionary needs the atoms of decoder.kind=linear: set it, or remove the penalty")
    return problems


class Objective(nn.Module):
    """``d(f(g(c(x))), t(x)) + λ ‖g(c(x))‖₁ + γ ‖W‖²_F`` of images ``x``, as named losses.

    What the pretext learns from data (``fit``) is kept in buffers ``state_<name>``: saved with the weights, moved with
    the module. All randomness comes from torch's global generators.

    Raises:
        UserError: the decoder does not fit this encoder and pretext, or the penalties do not fit the encoder.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: DecoderConfig,
        pretext: Pretext,
        penalty: PenaltyConfig | None = None,
        augment: AugmentConfig | None = None,
    ) -> None:
        super().__init__()
        self.penalty, self.augment = penalty or PenaltyConfig(), augment or AugmentConfig(crop=None, flip=False)
        if problems := check_objective(encoder, decoder, pretext, self.penalty):
            raise UserError(*problems)
        channels, side = pretext.output(encoder.image_size)
        masked, sparse = pretext.drops_tokens(encoder), has_sparse_code(encoder, self.penalty)
        self.encoder, self.pretext = encoder, pretext
        unit_norm = sparse and not self.penalty.dictionary
        self.decoder = build_decoder(
            decoder, encoder, channels, side, masked=masked, sparse=sparse, unit_norm=unit_norm
        )
        blank = pretext.blank_state(encoder.image_size)
        self._state_names = tuple(blank)
        for name, value in blank.items():
            self.register_buffer(f"state_{name}", value)

    # ---- images to losses

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Images ``[B 3 S S]``, uint8 0..255 or float 0..1 -> named losses, each a scalar; their sum is minimized."""
        example = self.corrupt(images)
        return self.losses(example, *self.predict(example))

    def losses(self, example: Example, prediction: Tensor, code: Tensor) -> dict[str, Tensor]:
        """The named losses of what ``predict`` gives for a damaged batch: means over its images."""
        return {name: each.mean() for name, each in self.each_loss(example, prediction, code).items()}

    def each_loss(self, example: Example, prediction: Tensor, code: Tensor) -> dict[str, Tensor]:
        """The named losses of each image, ``[B]``; a scalar where it is the same for all."""
        losses = {"restore": self.pretext.loss(prediction, example, self.state)}
        if self.penalty.l1:
            losses["sparsity"] = self.penalty.l1 * code.float().abs().flatten(1).sum(1)
        if self.penalty.dictionary:
            assert isinstance(self.decoder, LinearDecoder)
            losses["dictionary"] = self.penalty.dictionary * self.decoder.weight.square().sum()
        return losses

    def corrupt(self, images: Tensor) -> Example:
        """Images ``[B 3 S S]``, uint8 0..255 or float 0..1 -> augmented and damaged, float32 also under autocast."""
        with torch.autocast(images.device.type, enabled=False):
            return self.pretext.corrupt(self.augment(images), self.encoder)

    def predict(self, example: Example) -> tuple[Tensor, Tensor]:
        """The decoder's prediction ``[B K h' w']`` from the damaged input, and the code: the last map, or tokens."""
        if isinstance(self.decoder, TransformerDecoder):
            if example.visible is None:
                tokens = self.encoder(example.input).flatten(2).transpose(1, 2)
            else:
                assert isinstance(self.encoder, TokenEncoder), "only a token encoder can drop tokens"
                tokens = self.encoder.tokens(example.input, example.visible)
            return self.decoder(tokens, example.visible), tokens
        maps = self.encoder.layers(example.input)
        return self.decoder(maps), maps[-1]

    # ---- what is learned from a sample, before the first step

    @property
    def state(self) -> dict[str, Tensor]:
        """What the pretext learned from data."""
        return {name: self.get_buffer(f"state_{name}") for name in self._state_names}

    @property
    def fits(self) -> bool:
        """Whether there is anything to fit."""
        return bool(self._state_names) or isinstance(self.encoder, VectorEncoder) or self._dictionary is not None

    @property
    def _dictionary(self) -> LinearDecoder | None:
        """The decoder, if it reconstructs the image itself as a sum of atoms."""
        decoder = self.decoder
        return decoder if isinstance(decoder, LinearDecoder) and isinstance(self.pretext, Restore) else None

    @torch.no_grad()
    def fit(self, images: Tensor, *, learned: bool = False) -> None:
        """Fit what the first step needs on a sample of training images ``[N 3 S S]`` in [0, 1].

        The pretext fits its statistics. Encoders of image vectors fit their centre, and atoms start as cells of images.
        A linear encoder with a linear decoder starts at the best separate code of each principal component, which
        stochastic gradient descent alone does not reach in thousands of steps.

        Args:
            learned: the encoder has been trained before, and stays as it is.
        """
        for name, value in self.pretext.fit(images).items():
            self.get_buffer(f"state_{name}").copy_(value)
        if isinstance(self.encoder, VectorEncoder) and not learned:
            self.encoder.fit_centre(images)
        if self._dictionary is not None:
            self._dictionary.fit(images)
            if isinstance(self.encoder, Linear) and not learned:
                self._start_diagonal(self.encoder, self._dictionary, images)

    def _start_diagonal(self, encoder: Linear, decoder: LinearDecoder, images: Tensor) -> None:
        assert isinstance(self.pretext, Restore)
        # penalties are relative to an error summed over an image; if it is averaged, they weigh this much more
        share = 1 if self.pretext.distance == "squared" else encoder.dimension
        l1, gamma = self.penalty.l1 * share, self.penalty.dictionary * share
        weight, atoms = diagonal_autoencoder(encoder.vectors(images), l1, gamma or None)
        kept = min(len(weight), len(encoder.code.weight))
        # the remaining entries are not used yet, and keep their atoms
        encoder.code.weight.zero_()[:kept] = weight[:kept].to(encoder.code.weight)
        decoder.weight[:kept] = atoms.T[:kept].to(decoder.weight).view_as(decoder.weight[:kept])

    # ---- pictures and reports

    @torch.no_grad()
    def restore(self, images: Tensor) -> tuple[Example, Tensor]:
        """Clean images ``[B 3 S S]`` in [0, 1] -> the damaged example, and restored RGB in [0, 1], same shape.

        The images are not augmented.
        """
        example = self.damage(images)
        restored = self.trial(example, pictured=True).restored
        assert restored is not None
        return example, restored

    @torch.no_grad()
    def damage(self, images: Tensor) -> Example:
        """Clean images ``[B 3 S S]`` in [0, 1] -> damaged, and not augmented."""
        return self.pretext.corrupt(images, self.encoder)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Eval mode inside, and the mode of before after it."""
        training = self.training
        if training:  # going through all modules takes as long as a small network
            self.eval()
        try:
            yield
        finally:
            if training:
                self.train()

    @torch.no_grad()
    def trial(self, example: Example, *, pictured: bool) -> Trial:
        """A damaged batch -> scored and, if it is to be ``pictured``, restored, in eval mode."""
        with self.evaluating():
            prediction, code = self.predict(example)
        each = self.each_loss(example, prediction, code).values()
        losses = torch.stack([loss.expand(len(prediction)) for loss in each]).sum(0)
        restored = self.pretext.picture(prediction, example, self.state) if pictured else None
        return Trial(example, restored, losses)

    @torch.no_grad()
    def restore_damaged(self, damaged: Damaged) -> Tensor:
        """Images ``[B 3 S S]`` that are damaged already -> restored RGB in [0, 1], same shape.

        NaN where the decoder's output for an image is not finite, which a picture alone would not show.
        """
        if len(damaged.images) > 1 and self.pretext.drops_tokens(self.encoder):  # the number of tokens differs
            parts = zip(*(torch.split(part, 1) for part in damaged), strict=True)
            return torch.cat([self.restore_damaged(Damaged(*one)) for one in parts])
        with torch.autocast(damaged.images.device.type, enabled=False):
            example = self.pretext.given(damaged, self.encoder)
        prediction = self.predict(example)[0]
        whole = prediction.isfinite().flatten(1).all(1).view(-1, 1, 1, 1)
        return self.pretext.picture(prediction, example, self.state).where(whole, torch.nan)

    @torch.no_grad()
    def explain(self, images: Tensor) -> Explained | None:
        """Atoms of a linear decoder, and how strongly the cells of images ``[N 3 S S]`` in [0, 1] excite each."""
        decoder = self.decoder
        if not isinstance(decoder, LinearDecoder) or decoder.atoms.shape[1] != 3:
            return None
        device = decoder.weight.device
        codes = [self.encoder(some.to(device)).float().permute(0, 2, 3, 1).cpu() for some in in_chunks(images)]
        cells = images.cpu().unfold(2, decoder.cell, decoder.cell).unfold(3, decoder.cell, decoder.cell)
        patches = cells.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
        return Explained(decoder.atoms.cpu(), torch.cat(codes).flatten(0, 2), patches)  # codes [N*h*w D]

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> Tensor | None:
        """Reconstruct undamaged images ``[N 3 S S]`` in [0, 1]; None if the decoder does not give images."""
        if not isinstance(self.pretext, Restore):
            return None
        device = self.encoder.mean.device
        parts = [self.predict(Example(*[some.to(device)] * 3))[0] for some in in_chunks(images)]
        return torch.cat([part.float().cpu() for part in parts])
