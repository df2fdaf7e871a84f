"""Checks of the measurement itself: labels at random give chance, and what was frozen has not changed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np
import torch
from torch import Tensor, nn

from common.data import Labels
from common.data.rows import even_rows
from finetune.config import ProbeConfig
from finetune.features import Features
from finetune.metrics import confusion_matrix
from finetune.pooling import Space
from finetune.probes import Candidates, build_task
from finetune.results import NullCheck

NULL_IMAGES, NULL_TESTS = 500, 2000  # images at most; more would only narrow an interval that is narrow enough
FREEDOM = 9  # numbers that the interval is estimated from, at least: (classes - 1)² per repetition


# ---- labels at random


def check_null(
    config: ProbeConfig, candidates: Candidates, space: Space, train: Labels, test: Features, test_labels: Tensor
) -> NullCheck | None:
    """Choose, fit and test the linear probe with training labels at random; ``None`` if there are too few images.

    Args:
        space: the features that the probe itself chose; its strength is chosen again.
        train: labels of the training images, of which only the classes are used.
        test_labels: int64 ``[n]``, of ``test``.
    """
    if len(train.values) < 2 * len(train.names):
        return None
    some = even_rows(len(test), NULL_TESTS)
    test, test_labels = test.only(some), test_labels[some]
    once = math.ceil(FREEDOM / (len(train.names) - 1) ** 2)
    return random_labels(config, candidates, space, train, test, test_labels, range(once))


def random_labels(
    config: ProbeConfig,
    candidates: Candidates,
    space: Space,
    train: Labels,
    test: Features,
    test_labels: Tensor,
    numbers: Sequence[int],
) -> NullCheck:
    """One repetition for each number: a draw of training images with labels at random, each class as often."""
    classes = len(train.names)
    images = min(max(NULL_IMAGES, 2 * classes), len(train.values)) // classes * classes
    confusions = []
    for number in numbers:
        random = np.random.default_rng([config.seed, number])
        rows = torch.from_numpy(np.sort(random.permutation(len(train.values))[:images]))
        labels = train._replace(values=torch.from_numpy(random.permutation(images) % classes))
        drawn, task = candidates.of(rows, [space]), build_task(labels, config.probe, config.seed)
        answers = config.probe.refit(drawn, task, config.probe.choose(drawn, task)).predict(test)
        confusions.append(confusion_matrix(answers, test_labels, classes))
    return null_check(torch.stack(confusions), images)


def null_check(confusions: Tensor, images: int) -> NullCheck:
    """The accuracy of R classifiers that learned random labels, with its interval, from counts ``[R C C]``.

    Test images of a class look alike, so their answers are alike: a binomial interval would be far too narrow. But as
    no label meant anything, the names of the answers may be exchanged, and each of the C! orders was as likely. The
    variance of the accuracy over these orders (Hoeffding 1951) is ``|D|² / (C - 1)``, where D is the matrix of shares
    minus the means of its rows and columns. The accuracy minus 1/C is the trace of D, one direction of (C - 1)²; the
    others estimate the variance, for Student's interval.
    """
    from scipy.stats import t  # takes a second to import

    repetitions, classes = confusions.shape[:2]
    shares = confusions.double() / confusions.sum((1, 2), keepdim=True)
    rows, columns = shares.mean(2, keepdim=True), shares.mean(1, keepdim=True)
    centered = shares - rows - columns + shares.mean((1, 2), keepdim=True)
    excess = centered.diagonal(dim1=1, dim2=2).sum(1)  # accuracy minus chance, of each repetition
    freedom = repetitions * (classes - 1) ** 2 - 1
    rest = centered.square().sum() - repetitions * excess.mean().square() / (classes - 1)
    error = float((rest.clamp_min(0) / freedom * (classes - 1) / repetitions).sqrt())
    accuracy, reach = float(excess.mean()) + 1 / classes, float(t.ppf(0.975, freedom)) * error
    # all names of the answers are equally right: nothing varies, and only an excess of zero is by chance
    p_value = float(t.sf(float(excess.mean()) / error, freedom)) if error > 0 else float(excess.mean() <= 0)
    return NullCheck(
        accuracy=accuracy,
        chance=1 / classes,
        ci95=(max(0.0, accuracy - reach), min(1.0, accuracy + reach)),
        p_value=p_value,
        images=images,
        repetitions=repetitions,
    )


# ---- frozen


def state_digests(modules: Iterable[nn.Module]) -> list[str]:
    """For each, the sha256 of all its tensors: parameters and buffers, those that are not saved included."""
    return [_digest(module) for module in modules]


def _digest(module: nn.Module) -> str:
    found = hashlib.sha256()
    for name, tensor in chain(module.named_parameters(), module.named_buffers()):
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
