"""The network that is fine-tuned: its loss, its learning rates, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.augment import AugmentConfig
from common.data import Images, Labels, in_order
from common.data.source import class_name
from common.encoders import Classifier, layer_decay_groups
from common.engine.gradient import GradientLearner, ParameterGroup, decayed_names
from common.errors import UserError
from common.machine.distributed import World
from common.machine.precision import autocast, resolve_precision
from common.pixels import to_float
from finetune.calibration import UNFITTED, confidence, fit_temperature
from finetune.config import FinetuneConfig
from finetune.head_start import start_at_probe

Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # images, labels [B] -> images, shares of the classes [B C]


class Supervised(nn.Module):
    """The objective of fine-tuning: augment, mix, classify, and score by cross-entropy.

    Of an image with shares ``t_c`` of the classes (a label is a share of 1), smoothed to ``(1 - ε) t_c + ε / C``, the
    loss is ``-Σ_c w_c t_c log p_c``; that of a batch is the mean over its images. The weights ``w`` are not divided by
    their sum over the batch, so that micro-batches and processes give the gradient of the whole; mixed, images have
    their partners in the same micro-batch.

    Args:
        mixup: α of mixup (Zhang et al. 2018); 0 is never. With both, either is drawn for each batch, as often.
        cutmix: α of CutMix (Yun et al. 2019); 0 is never. Both draw from torch's global generators.
        weights: of the classes, float32 ``[C]``; ``None``: all 1.
    """

    weights: Tensor | None

    def __init__(
        self,
        classifier: Classifier,
        label_smoothing: float,
        augment: AugmentConfig,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.classifier, self.label_smoothing, self.augment = classifier, label_smoothing, augment
        self.mix = _mix(mixup, cutmix, len(classifier.class_names))
        self.register_buffer("weights", weights, persistent=False)  # a function of settings and labels

    def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Images uint8 ``[B 3 S S]`` and labels ``[B]`` -> the named loss."""
        pixels, target = self.shown(images, labels)
        logits = self.classifier(pixels).float()
        loss = F.cross_entropy(logits, target, weight=self.weights, label_smoothing=self.label_smoothing)
        return {"cross_entropy": loss}

    # compiling would not speed this up, and eager random numbers stay reproducible
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def shown(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 0..255 and labels ``[B]`` -> float32 0..1, augmented and mixed, and the target of cross-entropy.

        The target are the labels, or float32 shares ``[B C]`` where images are mixed or classes weighted: for labels,
        torch would divide by the sum of their weights.
        """
        with torch.autocast(images.device.type, enabled=False):
            augmented = self.augment(images)
            if self.mix is not None:
                return self.mix(augmented, labels)
        if self.weights is None:
            return augmented, labels
        return augmented, F.one_hot(labels, len(self.weights)).float()


def check_mixing(config: FinetuneConfig, here: World) -> None:
    """Check that images have others to be mixed with: they are, within a micro-batch of a process.

    Raises:
        UserError: each has one image, and so would be mixed with itself.
    """
    if (config.mixup or config.cutmix) and config.batch_size <= here.size * config.accumulate:
        raise UserError(
            "mixup and cutmix pair images, but a process has one at a time: raise batch_size, or lower accumulate"
        )


def _mix(mixup: float, cutmix: float, classes: int) -> Mix | None:
    """What mixes each image of a float batch with its neighbor, and their labels alike; ``None`` if nothing does."""
    if not mixup and not cutmix:
        return None
    from torchvision.transforms import v2  # takes seconds to import

    kinds = [(v2.MixUp, mixup), (v2.CutMix, cutmix)]
    chosen = [kind(alpha=alpha, num_classes=classes) for kind, alpha in kinds if alpha]
    mix: Mix = chosen[0] if len(chosen) == 1 else v2.RandomChoice(chosen)
    return mix


def class_weights(setting: str | Mapping[str, float], labels: Labels) -> Tensor | None:
    """The weight of each class, float32 ``[C]``, by the setting ``class_weights``; ``None`` if it is "none".

    Balanced is ``n / (K n_c)`` of ``n`` labels in ``K`` classes, with ``n_c`` in this one, as scikit-learn's: the mean
    over the images is 1. A class without an image gets 1.

    Raises:
        UserError: a name is not a class.
    """
    if setting == "none":
        return None
    if isinstance(setting, str):
        counts = labels.values.bincount(minlength=len(labels.names)).double()
        balanced = len(labels.values) / ((counts > 0).sum() * counts)
        return torch.where(counts > 0, balanced, 1.0).float()
    named = {class_name(name): weight for name, weight in setting.items()}
    unknown = [name for name in named if name not in labels.names]
    if unknown:
        raise UserError(
            f"class_weights: {labels.task} has no class {', '.join(map(repr, unknown))}; it has "
            f"{', '.join(labels.names)}"
        )
    return torch.tensor([named.get(name, 1.0) for name in labels.names])


class FineTuner(GradientLearner):
    """Trains a ``Supervised`` by AdamW with layer-wise rates.

    Args:
        images, labels: those that it learns from, for a classifier that starts at their linear probe.

    Attributes:
        start_converged: whether the fit of that probe did.
    """

    def __init__(self, model: Supervised, config: FinetuneConfig, world: World, images: Images, labels: Labels) -> None:
        super().__init__(model, config, world, groups=decayed_groups(model, config))
        self.settings, self.classifier, self.images, self.labels = config, model.classifier, images, labels
        self.start_converged = True

    def start(self) -> None:
        if self.settings.head_start == "random":
            return
        self.start_converged = start_at_probe(
            self.classifier, self.images, self.labels, self.settings, self.world.device
        )
        if self.ema:
            self.ema.reset()

    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        start = {"start": {"converged": torch.tensor(self.start_converged)}}
        return super().tensors() | (start if self.settings.head_start == "probe" else {})

    def restore(self, groups: Mapping[str, Mapping[str, Tensor]]) -> None:
        super().restore(groups)
        if "start" in groups:  # not in older checkpoints
            self.start_converged = bool(groups["start"]["converged"])


def decayed_groups(model: Supervised, config: FinetuneConfig) -> list[ParameterGroup]:
    """AdamW groups with layer-wise learning-rate decay (Bao et al. 2022): ``layer_decay ** (deepest - depth)``."""
    named = {name: p for name, p in model.classifier.named_parameters() if p.requires_grad}
    depths = dict(layer_decay_groups(model.classifier))
    deepest, decayed = max(depths.values()), decayed_names(model.classifier)
    groups: dict[tuple[int, bool], ParameterGroup] = {}
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
    """The temperature fitted on images that it was not trained on."""
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
