"""The pretext contract: a frozen config that knows how to damage, what to restore and how to score it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from common.config import Config
from common.encoders.base import Encoder, View
from pretrain.gradient.example import Example

State = Mapping[str, Tensor]


class Pretext(Config, ABC):
    """``minimise E_x d(f(g(c(x))), t(x))``: this object holds ``c`` (corrupt), ``t`` (target) and ``d`` (loss).

    A pretext has settings but no state: what it learns from data (colour bins) is returned by ``fit`` and kept as
    buffers of the ``Objective``. All randomness comes from torch's global generators, which the loop seeds from
    (seed, step, rank) before each call.
    """

    kind: str
    view: ClassVar[View] = "rgb"  # what the encoder may see, at pretraining and at transfer
    narrow_code: ClassVar[bool] = False  # nothing is damaged: only a code with no way round it teaches anything

    def needs_mask_channel(self, token_encoder: bool) -> bool:
        """Whether the encoder must be told which pixels are hidden, by a fourth channel."""
        return False

    def drops_tokens(self, encoder: Encoder) -> bool:
        """Whether hidden patches are not shown at all, so that the decoder must put tokens in their place."""
        return False

    def check(self, encoder: Encoder) -> list[str]:
        """Problems of this pretext with this encoder, as plain lines; empty when they fit."""
        return []

    def output(self, image_size: int) -> tuple[int, int]:
        """``(K, h')``: channels and side of what the decoder must give."""
        return 3, image_size

    def blank_state(self, image_size: int) -> dict[str, Tensor]:
        """Buffers for what ``fit`` learns from images of this side, by name, not yet fitted; often none.

        Their shapes do not depend on the images, so that a checkpoint can be read back into them.
        """
        return {}

    def fit(self, images: Tensor) -> dict[str, Tensor]:
        """What ``blank_state`` names, from a sample of training images ``[N 3 S S]`` in [0, 1]."""
        return {}

    @abstractmethod
    def corrupt(self, images: Tensor, encoder: Encoder) -> Example:
        """Clean images ``[B 3 H W]``, RGB in [0, 1] -> the damaged example."""

    def loss(self, prediction: Tensor, example: Example, state: State) -> Tensor:
        """Prediction ``[B K h' w']`` (any dtype) -> scalar, mean over what counts; float32 whatever the autocast."""
        with torch.autocast(prediction.device.type, enabled=False):
            return self.score(prediction.float(), example, state)

    @abstractmethod
    def score(self, prediction: Tensor, example: Example, state: State) -> Tensor:
        """The loss of a float32 prediction ``[B K h' w']``, a scalar.

        A mean over images that looks at no other image: then the mean over micro-batches and processes is that of the
        whole batch, and so is its gradient. Weights therefore are never divided by their sum in the batch.
        """

    @abstractmethod
    def picture(self, prediction: Tensor, example: Example, state: State) -> Tensor:
        """Prediction -> the restored image for people to look at, RGB ``[B 3 H W]`` in [0, 1]."""
