"""The training example that a pretext makes from a batch of images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

HIDDEN = 0.5  # gray value for pixels that the encoder cannot see


class Example(NamedTuple):
    """A damaged batch and its target.

    ``C`` is 3, or 4 with a mask channel (1 where hidden). Images are RGB in [0, 1]; noisy inputs are not clipped.
    """

    input: Tensor  # what the encoder sees                     [B C H W]
    clean: Tensor  # the undamaged image, for panels           [B 3 H W]
    target: Tensor  # what should be restored                   [B K h' w']
    weight: Tensor | None = None  # weight of the error, >= 0                 [B 1 h' w']
    visible: Tensor | None = None  # visible patches, if tokens are dropped   [B n]
    # a normalized target is (image - shift) / scale; these turn a prediction back into an image
    shift: Tensor | None = None  # [B 1 h' w']
    scale: Tensor | None = None  # [B 1 h' w']

    @property
    def hidden(self) -> Tensor:
        """Where the encoder knows that a pixel is hidden: ``[B 1 H W]``, 1 there and 0 elsewhere."""
        if self.visible is not None and self.weight is not None:
            return self.weight
        return self.input[:, 3:4] if self.input.shape[1] > 3 else torch.zeros_like(self.input[:, :1])

    @property
    def seen(self) -> Tensor:
        """What the encoder sees, as RGB ``[B 3 H W]``: hidden pixels gray, noise not clipped."""
        return torch.where(self.hidden > 0, HIDDEN, self.input[:, :3].float())


def joined(examples: Sequence[Example]) -> Example:
    """Damaged batches of one pretext as a single one, in order."""
    if len(examples) == 1:
        return examples[0]
    columns = zip(*examples, strict=True)  # each part of all examples: tensors, or None in all of them
    return Example._make(None if parts[0] is None else torch.cat(parts) for parts in columns)


class Trial(NamedTuple):
    """A damaged batch, and how the network restores and scores it."""

    example: Example
    restored: Tensor | None  # RGB in [0, 1]; None if it was not asked for  [B 3 H W]
    losses: Tensor  # the sum of the objective's losses, of each image        [B]
