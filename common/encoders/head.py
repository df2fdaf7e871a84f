"""An encoder with a classifier on top, for fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from common.encoders.base import Encoder


class Classifier(nn.Module):
    """The whole encoder and a new classifier, both trained.

    A timm model gets timm's own pooling and classifier, so that plain timm opens its export; any other encoder gets a
    linear layer on the average of its last map.

    Args:
        encoder: used in place and unfrozen; an existing classifier for the same number of classes is kept.
        class_names: one per class, in the order of the labels.
    """

    def __init__(self, encoder: Encoder, class_names: Sequence[str]) -> None:
        super().__init__()
        self.encoder = encoder.unfreeze()
        self.class_names = tuple(class_names)
        if encoder.num_classes != len(self.class_names):
            encoder.add_classifier(len(self.class_names))

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[B 3 H W]``, RGB in [0, 1] -> logits ``[B classes]``."""
        return self.encoder.logits(images)


def layer_decay_groups(model: Encoder | Classifier) -> list[tuple[str, int]]:
    """``(name, depth)`` of every trainable parameter, depth 0 closest to the image and the classifier deepest.

    For layer-wise learning-rate decay (Bao et al. 2022, "BEiT"): the rate of depth i is ``decay ** (deepest - i)``
    times the base rate. Names are those of ``model.named_parameters()``.
    """
    encoder, prefix = (model.encoder, "encoder.") if isinstance(model, Classifier) else (model, "")
    depths = encoder.depths()
    return [(prefix + name, depths[name]) for name, p in encoder.named_parameters() if p.requires_grad]
