"""Networks to apply to new images: a probe's linear classifier on its encoder, or a fine-tuned network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from common.data.levels import Levels
from common.encoders.base import Encoder, refuse_other_ranges
from common.encoders.head import Answers
from common.encoders.provenance import Provenance
from finetune.dense.cells import enlarge
from finetune.pooling import Part, concatenate, pool


class Applied(nn.Module):
    """A classifier to apply: frozen, in eval mode.

    Attributes:
        network: images to logits: the fine-tuned network, ``Probed``, or ``Masked``.
        answers: ``class``: one class per image; ``labels``: any number of labels per image, a logit each; ``mask``: the
            class of each pixel.
        class_names: one per class or label, all different, in the order of the logits.
        task: the column that names the classes or labels, or the masks.
        class_numbers: the number of each class in a mask; empty without masks.
        temperature: logits divided by it are calibrated; 1 if no temperature was fitted, as for masks.
        image_size: side in px of the images it learned from.
        levels: black and white of training images of more than 8 bits; ``None`` for 8 bits.
        sha256: of everything that decides its answers, including the encoder but not the temperature.
        provenance: that of its encoder.
    """

    def __init__(
        self,
        network: nn.Module,
        answers: Answers,
        class_names: Sequence[str],
        class_numbers: Sequence[int],
        task: str,
        temperature: float,
        image_size: int,
        levels: Levels | None,
        sha256: str,
        provenance: Provenance,
    ) -> None:
        super().__init__()
        self.network, self.answers, self.task = network, answers, task
        self.class_names, self.class_numbers = tuple(class_names), tuple(class_numbers)
        self.temperature, self.image_size, self.levels = temperature, image_size, levels
        self.sha256, self.provenance = sha256, provenance
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[B 3 S S]``, RGB in [0, 1] -> logits float32 ``[B classes]``; for masks ``[B classes S S]``.

        Raises:
            ValueError: not floating-point images ``[B 3 H W]``, or their values are far outside [0, 1].
        """
        refuse_other_ranges(images)
        logits: Tensor = self.network(images)
        return logits.float()

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits -> calibrated probabilities, of the same shape: for each class, or each label by itself.

        Probabilities of masks are not calibrated.

        Raises:
            ValueError: not ``[B classes]``, or for masks ``[B classes S S]``.
        """
        count, dimensions = len(self.class_names), 4 if self.answers == "mask" else 2
        if logits.ndim != dimensions or logits.shape[1] != count:
            wanted = f"[B {count} S S]" if dimensions == 4 else f"[B {count}]"
            raise ValueError(
                f"expected the logits that this classifier gives for images, {wanted}, got {list(logits.shape)}"
            )
        return likely(logits, self.answers, self.temperature)

    @property
    def encoder(self) -> Encoder:
        """The network without its classifier on top."""
        encoder = self.network.encoder
        assert isinstance(encoder, Encoder)
        return encoder


def likely(logits: Tensor, answers: Answers, temperature: float) -> Tensor:
    """Logits ``[B classes ...]`` -> probabilities: of the classes, summing to one, or of each label."""
    logits = logits / temperature
    return logits.sigmoid() if answers == "labels" else logits.softmax(1)


class Probed(nn.Module):
    """A frozen encoder, the pooled maps that a probe chose, and its linear classifier."""

    def __init__(self, encoder: Encoder, parts: Sequence[Part], weight: Tensor, bias: Tensor) -> None:
        """``weight`` ``[F C]`` and ``bias`` ``[C]`` are for features that are not standardized."""
        super().__init__()
        self.encoder, self.parts = encoder, tuple(parts)
        self.linear = nn.Linear(*weight.shape)
        self.linear.load_state_dict({"weight": weight.T.contiguous(), "bias": bias})
        self.linear.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[B 3 S S]``, RGB in [0, 1] -> logits ``[B C]``; the features, and what follows, in float32."""
        maps = self.encoder.layers(images)
        features = concatenate([pool(maps[part.layer], part.pooling) for part in self.parts])
        return in_float32(self.linear, features)


class Masked(nn.Module):
    """A frozen encoder, the map that a probe of masks chose, and its linear classifier of cells."""

    def __init__(self, encoder: Encoder, layer: int, weight: Tensor, bias: Tensor) -> None:
        """``weight`` ``[D C]`` and ``bias`` ``[C]`` are for the features of a cell, which are not standardized."""
        super().__init__()
        self.encoder, self.layer = encoder, layer
        self.linear = nn.Conv2d(weight.shape[0], weight.shape[1], kernel_size=1)
        self.linear.load_state_dict({"weight": weight.T[:, :, None, None].contiguous(), "bias": bias})
        self.linear.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[B 3 S S]``, RGB in [0, 1] -> logits of their pixels ``[B C S S]``, bilinear between cells."""
        maps = self.encoder.layers(images)[self.layer]
        return enlarge(in_float32(self.linear, maps.float()), images.shape[-1])


def in_float32(layer: nn.Module, features: Tensor) -> Tensor:
    """The output of a layer for float32 features, even under autocast."""
    if not torch.is_autocast_enabled(features.device.type):
        return layer(features)  # type: ignore[no-any-return]
    with torch.autocast(features.device.type, enabled=False):
        return layer(features)  # type: ignore[no-any-return]
