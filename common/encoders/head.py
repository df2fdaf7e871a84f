"""An encoder with a classifier on top, for fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

from torch import Tensor, nn

from common.encoders.base import Encoder, refuse_other_ranges
from common.errors import UserError

Answers = Literal["class", "labels", "mask"]  # one class per image; any number of labels; or the class of each pixel


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
        self._still: list[nn.Module] = []  # wholly frozen: they stay in eval mode
        if encoder.num_classes != len(self.class_names):
            encoder.add_classifier(len(self.class_names))

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[B 3 H W]``, RGB in [0, 1] -> logits ``[B classes]``.

        Raises:
            ValueError: the encoder is frozen, and values are far outside [0, 1].
        """
        if self.encoder.frozen:  # in use; in training, the check would make a GPU wait
            refuse_other_ranges(images)
        return self.encoder.logits(images)

    def freeze_first(self, count: int) -> None:
        """Keep the first ``count`` groups of layers as they are, by the depths of ``layer_decay_groups``.

        They get no gradient, and stay in eval mode whatever ``train()`` says: statistics of BatchNorm do not move.

        Raises:
            UserError: there are not so many groups below the last, to which the classifier belongs.
        """
        depths = dict(layer_decay_groups(self))
        *groups, last = sorted(set(depths.values()))
        if not groups:
            raise UserError(
                f"freeze: the layers of {self.encoder.name} are one group, with the classifier, so none can be frozen: "
                "remove it, or use retouch probe, which freezes the whole encoder"
            )
        if count > len(groups):
            raise UserError(
                f"freeze={count}: {self.encoder.name} has {len(groups)} groups of layers below the classifier's: use "
                f"stem{'' if len(groups) == 1 else f', or 1 to {len(groups)}'}"
            )
        for name, parameter in self.named_parameters():
            if depths.get(name, last) in groups[:count]:
                parameter.requires_grad_(False)
        self._still = [module for module in self.encoder.modules() if _is_still(module)]
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Like torch's, except that frozen parts stay in eval mode."""
        super().train(mode)
        for module in self._still:
            module.eval()
        return self


def _is_still(module: nn.Module) -> bool:
    """Whether a module has parameters, and none of them learns."""
    learns = [parameter.requires_grad for parameter in module.parameters()]
    return bool(learns) and not any(learns)


def layer_decay_groups(model: Encoder | Classifier) -> list[tuple[str, int]]:
    """``(name, depth)`` of every trainable parameter, depth 0 closest to the image and the classifier deepest.

    For layer-wise learning-rate decay (Bao et al. 2022, "BEiT"): the rate of depth i is ``decay ** (deepest - i)``
    times the base rate. Names are those of ``model.named_parameters()``.
    """
    encoder, prefix = (model.encoder, "encoder.") if isinstance(model, Classifier) else (model, "")
    depths = encoder.depths()
    return [(prefix + name, depths[name]) for name, p in encoder.named_parameters() if p.requires_grad]
