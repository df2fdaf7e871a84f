"""The pretext contract: a frozen config that defines the damage, the target and the loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from common.config import Config
from common.encoders.base import Encoder, MaskChannel, View
from pretrain.gradient.example import Example
from pretrain.ruler.restorers import MEAN_IMAGE, NOTHING, Damaged, Restorer

State = Mapping[str, Tensor]


class Pretext(Config, ABC):
    """``minimize E_x d(f(g(c(x))), t(x))``: this object defines ``c`` (corrupt), ``t`` (target) and ``d`` (loss).

    A pretext has settings but no state: what it learns from data (color bins) is returned by ``fit`` and kept as
    buffers of the ``Objective``. All randomness comes from torch's global generators, which the loop seeds from
    (seed, step, rank) before each call.
    """

    kind: str
    view: ClassVar[View] = "rgb"  # what the encoder sees, in pretraining and transfer
    narrow_code: ClassVar[bool] = False  # nothing is damaged: a narrow code without a bypass is needed

    @property
    def mask_channel(self) -> MaskChannel:
        """Whether the encoder needs a fourth channel that marks hidden pixels."""
        return False

    @property
    def needs_color(self) -> bool:
        """Whether gray images have nothing to teach."""
        return False

    @property
    def spared(self) -> str:
        """The images in which nothing is lost, as in "without color"; empty if its damage takes something from all.

        Only with such a word do ``anything_lost`` and what uses it leave images out.
        """
        return ""

    @property
    def noise(self) -> float:
        """Largest standard deviation of the noise that its damage adds; infinite where it has no limit."""
        return 0.0

    def drops_tokens(self, encoder: Encoder) -> bool:
        """Whether the encoder drops hidden patches, so that the decoder must insert tokens in their place."""
        return False

    def check(self, encoder: Encoder) -> list[str]:
        """Problems of this pretext with this encoder, as plain lines; empty if they fit."""
        return []

    def output(self, image_size: int) -> tuple[int, int]:
        """``(K, h')``: channels and side of the decoder's output."""
        return 3, image_size

    def blank_state(self, image_size: int) -> dict[str, Tensor]:
        """Unfitted buffers for what ``fit`` learns from images of this side, by name; often none.

        Their shapes do not depend on the images, so a checkpoint can be loaded into them.
        """
        return {}

    def fit(self, images: Tensor) -> dict[str, Tensor]:
        """The values of ``blank_state``, from a sample of training images ``[N 3 S S]`` in [0, 1]."""
        return {}

    @abstractmethod
    def corrupt(self, images: Tensor, encoder: Encoder) -> Example:
        """Clean images ``[B 3 H W]``, RGB in [0, 1] -> the damaged example."""

    def loss(self, prediction: Tensor, example: Example, state: State) -> Tensor:
        """Prediction ``[B K h' w']`` (any dtype) -> the loss of each image, ``[B]``, always float32."""
        with torch.autocast(prediction.device.type, enabled=False):
            return self.score(prediction.float(), example, state)

    @abstractmethod
    def score(self, prediction: Tensor, example: Example, state: State) -> Tensor:
        """The loss of each image of a float32 prediction ``[B K h' w']``, ``[B]``: the mean over its scored entries.

        It does not depend on other images: the mean over micro-batches and processes then equals the loss of the whole
        batch, and so does its gradient. So weights are never divided by their sum over the batch.
        """

    def restorers(self, encoder: Encoder) -> tuple[Restorer, ...]:
        """The trivial restorers that the network is compared with."""
        return (NOTHING, MEAN_IMAGE)

    def aided(self, restored: Tensor, example: Example, encoder: Encoder) -> Tensor:
        """RGB of a trivial restorer ``[B 3 H W]``, with the help that ``picture`` takes from the true image."""
        return restored

    @abstractmethod
    def picture(self, prediction: Tensor, example: Example, state: State) -> Tensor:
        """Prediction -> the restored image for display, RGB ``[B 3 H W]`` in [0, 1]."""

    # ---- use: pictures of any size, however they were damaged

    @property
    def fills_holes(self) -> bool:
        """Whether the network knows which pixels are hidden, and restores them."""
        return False

    def damage(self, images: Tensor, encoder: Encoder) -> Damaged:
        """Clean pictures ``[B 3 H W]`` of any size, in [0, 1] -> damaged as in training, same shape."""
        example = self.corrupt(images, encoder)
        return Damaged(example.input[:, :3], example.hidden)

    def given(self, damaged: Damaged, encoder: Encoder) -> Example:
        """Images ``[B 3 S S]`` that are damaged already -> an example for the network.

        No clean image is used: ``clean`` and ``target`` are placeholders.
        """
        return Example(input=damaged.images, clean=damaged.images, target=damaged.images)

    def kept(self, restored: Tensor, damaged: Damaged) -> Tensor:
        """Restored pictures ``[B 3 H W]`` in [0, 1], with all of the originals that the damaged ones preserve."""
        return restored
