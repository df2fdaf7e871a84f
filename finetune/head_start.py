"""A classifier that starts at the linear probe of what it sees, so that its first steps do not spoil the encoder.

Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution": gradients
through a random classifier change features at random; through one that is right already, they change little.
"""

from __future__ import annotations

import copy
import logging

import torch
from torch import Tensor, nn

from common.data import Images, Labels, in_order
from common.encoders import Classifier
from common.encoders.base import Encoder
from common.errors import UserError
from common.pixels import to_float
from finetune.config import FinetuneConfig, LinearConfig
from finetune.features import Features, check_finite
from finetune.heads import folded
from finetune.pooling import Part, Space
from finetune.probes.search import Candidates, build_task

log = logging.getLogger("retouch")

SEEN = Part(-1, "seen")  # the input of the classifier


def check_start(encoder: Encoder, config: FinetuneConfig) -> None:
    """Check that the encoder has the layers to freeze, and a classifier that a linear probe can set.

    Raises:
        UserError: it does not.
    """
    if not config.frozen_groups and config.head_start == "random":
        return
    trial = Classifier(copy.deepcopy(encoder), ("one", "other"))
    if config.frozen_groups:
        trial.freeze_first(config.frozen_groups)
    if config.head_start == "probe":
        image = torch.zeros(1, 3, encoder.image_size, encoder.image_size)
        with torch.no_grad():
            seen = _input(trial.eval(), _head(trial), image)
        if seen.ndim != 2:
            raise UserError(
                f"head_start=probe: the classifier of {encoder.name} sees a tensor of shape {list(seen.shape[1:])} per "
                "image, not one vector: use head_start=random"
            )


def start_at_probe(
    classifier: Classifier, images: Images, labels: Labels, config: FinetuneConfig, device: torch.device
) -> bool:
    """Set weight and bias of the classifier to the linear probe of its own input, on images as they are.

    It is the probe of ``retouch probe``: multinomial logistic regression on standardized features, with the strength
    chosen on held-out images. The standardization is folded into the weights.

    Args:
        images, labels: to learn from, row by row.

    Returns:
        Whether its fit converged.

    Raises:
        UserError: the classifier is not one linear layer, or the features are not finite.
    """
    head = _head(classifier)
    features = _seen(classifier, head, images, config, device)
    labels = labels._replace(values=labels.values[features.index])
    space = Space((SEEN.layer,), (SEEN.pooling,), (SEEN,), head.in_features)
    probe = LinearConfig()
    candidates, task = Candidates(features, [space], device), build_task(labels, probe, config.seed)
    chosen = probe.choose(candidates, task)
    fitted = probe.refit(candidates, task, chosen)
    weight, bias = folded(fitted)
    with torch.no_grad():
        head.weight.copy_(weight.T)
        head.bias.copy_(bias)
    accuracy = 100 * chosen.val_accuracy
    log.info("the classifier starts at the linear probe of what it sees: accuracy %.1f%%, %s", accuracy, task.how)
    return fitted.converged


def _head(classifier: Classifier) -> nn.Linear:
    head = classifier.encoder.linear_classifier
    if head is None or head.bias is None:
        raise UserError(
            f"head_start=probe: the classifier of {classifier.encoder.name} is not one linear layer with a bias: use "
            "head_start=random"
        )
    return head


@torch.no_grad()
def _seen(
    classifier: Classifier, head: nn.Linear, images: Images, config: FinetuneConfig, device: torch.device
) -> Features:
    """The input of the classifier's linear layer, image by image, in eval mode and float32."""
    training = classifier.training
    classifier.eval()
    vectors, index = [], []
    for batch in in_order(images, config.batch_size, config.data.workers):
        vectors.append(_input(classifier, head, to_float(batch.images.to(device))).cpu())  # uint8 0..255 -> float 0..1
        index.append(batch.index)
    classifier.train(training)
    features = Features({SEEN: torch.cat(vectors)}, torch.cat(index))
    check_finite(features, images, classifier.encoder.name)
    return features


def _input(classifier: Classifier, head: nn.Linear, images: Tensor) -> Tensor:
    """Images ``[B 3 S S]``, RGB in [0, 1] -> what ``head`` is given for them, float32 ``[B F]``."""
    caught: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda module, given: caught.append(given[0].float()))
    try:
        classifier(images)
    finally:
        hook.remove()
    return caught[0]
