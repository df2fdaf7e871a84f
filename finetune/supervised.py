"""The network that is fine-tuned: its loss, its learning rates, and what it answers."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.augment import AugmentConfig
from common.data import Images, in_order
from common.encoders import Classifier, layer_decay_groups
from common.engine.gradient import decayed_names
from common.machine.distributed import World
from common.machine.precision import autocast, resolve_precision
from common.pixels import to_float
from finetune.config import FinetuneConfig


class Supervised(nn.Module):
    """The objective of fine-tuning: augment, classify, and score by cross-entropy."""

    def __init__(self, classifier: Classifier, label_smoothing: float, augment: AugmentConfig) -> None:
        super().__init__()
        self.classifier, self.label_smoothing, self.augment = classifier, label_smoothing, augment

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Images uint8 ``[B 3 S S]`` and labels ``[B]`` -> the named loss."""
        logits = self.classifier(self.augmented(images)).float()
        return {"cross_entropy": F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)}

    # compiling would not speed this up, and eager random numbers stay reproducible
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def augmented(self, images: Tensor) -> Tensor:
        """uint8 0..255 -> float32 0..1, with autocast off."""
        with torch.autocast(images.device.type, enabled=False):
            return self.augment(images)


def decayed_groups(model: Supervised, config: FinetuneConfig) -> list[dict[str, Any]]:
    """AdamW groups with layer-wise learning-rate decay (Bao et al. 2022): ``layer_decay ** (deepest - depth)``."""
    named = {name: p for name, p in model.classifier.named_parameters() if p.requires_grad}
    depths = dict(layer_decay_groups(model.classifier))
    deepest, decayed = max(depths.values()), decayed_names(model.classifier)
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in named.items():
        decays = name in decayed
        group = groups.setdefault(
            (depths[name], decays),
            {
                "params": [],
                "lr_scale": config.layer_decay ** (deepest - depths[name]),
                "weight_decay": config.optim.weight_decay if decays else 0.0,
            },
        )
        group["params"].append(parameter)
    return list(groups.values())


class Split(NamedTuple):
    """Some rows of the images, with their labels."""

    images: Images
    rows: Tensor  # int64 [n]
    labels: Tensor  # int64 [n]


class Predicted(NamedTuple):
    answers: Tensor  # int64 [n]
    confidence: Tensor  # float32 [n]: the softmax of each answer
    labels: Tensor  # int64 [n]
    index: Tensor  # type: ignore[assignment]  # int64 [n]: places in the split


def predict(classifier: Classifier, split: Split, config: FinetuneConfig, here: World) -> Predicted:
    """What the classifier answers for each readable row of the split, on the CPU."""
    training = classifier.training
    classifier.eval()
    dtype = resolve_precision(config.precision, here.device)
    answers, confidence, index = [], [], []
    with torch.inference_mode(), autocast(here.device, dtype):
        for batch in in_order(split.images.only(split.rows), config.batch_size, config.data.workers):
            logits = classifier(to_float(batch.images.to(here.device)))
            answers.append(logits.argmax(1).cpu())
            confidence.append(logits.float().softmax(1).amax(1).cpu())
            index.append(batch.index)
    classifier.train(training)
    places = torch.cat(index)
    return Predicted(torch.cat(answers), torch.cat(confidence), split.labels[places], places)
