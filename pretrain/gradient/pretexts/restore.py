"""The base of all pretexts whose target is the whole clean image."""

from __future__ import annotations

from abc import ABC

import torch
from torch import Tensor

from pretrain.gradient.example import Example
from pretrain.gradient.pretexts.base import Pretext, State
from pretrain.gradient.pretexts.distance import Distance, error, fit_spectrum


class Restore(Pretext, ABC):
    """Target: the clean image ``[B 3 H W]`` in [0, 1]; subclasses choose the damage."""

    distance: Distance = "l2"
    """l2, l1, squared (l2 summed over an image), or whitened: every frequency counts equally, not only the low
    ones that have most of the variance."""

    def blank_state(self, image_size: int) -> dict[str, Tensor]:
        return {"spectrum": torch.ones(3, image_size, image_size)} if self.distance == "whitened" else {}

    def fit(self, images: Tensor) -> dict[str, Tensor]:
        return {"spectrum": fit_spectrum(images)} if self.distance == "whitened" else {}

    def score(self, prediction: Tensor, example: Example, state: State) -> Tensor:
        return error(self.distance, prediction, example.target.float(), state.get("spectrum")).mean()

    def picture(self, prediction: Tensor, example: Example, state: State) -> Tensor:
        return prediction.float().clamp(0, 1)
