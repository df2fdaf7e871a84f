"""What a pretext makes of a batch of images."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Example(NamedTuple):
    """One damaged batch and what should be restored.

    ``C`` is 3, or 4 with a mask channel (1 where hidden). Images are RGB in [0, 1]; noisy inputs are not clipped.
    """

    input: Tensor  # what the encoder sees                     [B C H W]
    clean: Tensor  # the undamaged image, for pictures         [B 3 H W]
    target: Tensor  # what should be restored                   [B K h' w']
    weight: Tensor | None = None  # where error counts, >= 0                  [B 1 h' w']
    visible: Tensor | None = None  # kept patches, where tokens are dropped    [B n]
    # a normalised target is (image - shift) / scale, and only these bring a prediction back to an image
    shift: Tensor | None = None  # [B 1 h' w']
    scale: Tensor | None = None  # [B 1 h' w']
