"""The network that is fine-tuned: its loss, its learning rates, and what it answers."""

from __future__ import annotations

from collections.abc import Iterator
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
from finetune.calibration import UNFITTED, confidence, fit_temperature
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
    calibrated: Tensor  # float32 [n]: the same of logits divided by the temperature
    labels: Tensor  # int64 [n]
    index: Tensor  # type: ignore[assignment]  # int64 [n]: places in the split


def predict(
    classifier: Classifier, split: Split, config: FinetuneConfig, here: World, temperature: float = UNFITTED
) -> Predicted:
    """What the classifier answers for each readable row of the split, on the CPU."""
    answers, sure, calibrated, index = [], [], [], []
    for logits, places in _logits(classifier, split, config, here):
        answers.append(logits.argmax(1))
        sure.append(confidence(logits, UNFITTED))
        calibrated.append(confidence(logits, temperature))
        index.append(places)
    at = torch.cat(index)
    return Predicted(torch.cat(answers), torch.cat(sure), torch.cat(calibrated), split.labels[at], at)


def temperature_of(classifier: Classifier, held: Split, config: FinetuneConfig, here: World) -> float:
    """The temperature that suits its answers to images which it was not trained on."""
    found = list(_logits(classifier, held, config, here))
    places = torch.cat([index for _, index in found])
    return fit_temperature(torch.cat([logits for logits, _ in found]), held.labels[places])


def _logits(
    classifier: Classifier, split: Split, config: FinetuneConfig, here: World
) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits float32 ``[b C]`` of each batch of readable rows, on the CPU, and their places in the split."""
    training = classifier.training
    classifier.eval()
    dtype = resolve_precision(config.precision, here.device)
    for batch in in_order(split.images.only(split.rows), config.batch_size, config.data.workers):
        with torch.inference_mode():
            with autocast(here.device, dtype):
                logits = classifier(to_float(batch.images.to(here.device)))
            found = logits.float().cpu()
        yield found, batch.index
    classifier.train(training)
