"""The training example that a pretext makes from a batch of images."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Example(NamedTuple):
    """A damaged batch and its target.

    ``C`` is 3, or 4 with a mask channel (1 where hidden). Images are RGB in [0, 1]; noisy inputs are not clipped.
    """

    input: Tensor  # what the encoder sees                     [B C H W]
    clean: Tensor  # the undamaged image, for panels           [B 3 H W]
    target: Tensor  # what should be restored                   [B K h' w']
    weight: Tensor | None = None  # weight of the error, >= 0                 [B 1 h' w']
    visible: Tensor | None = None  # visible patches, if tokens are dropped   [B n]
    # a normalised target is (image - shift) / scale; these turn a prediction back into an image
    shift: Tensor | None = None  # [B 1 h' w']
    scale: Tensor | None = None  # [B 1 h' w']
