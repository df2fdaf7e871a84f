"""Checks of the measurement itself: labels at random give chance, and what was frozen has not changed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from common.data import Labels
from common.data.rows import even_rows
from finetune.features import Features
from finetune.metrics import confusion_matrix
from finetune.pooling import Space
from finetune.probes import Candidates, Probe, Search, build_task
from finetune.records import Checks, NullCheck

NULL_IMAGES, NULL_TESTS = 500, 2000  # images at most; more would only narrow an interval that is narrow enough
FREEDOM = 9  # numbers that the interval is estimated from, at least: (classes - 1)² per repetition
ROUNDING = 1e-9  # smaller errors of an accuracy are rounding


# ---- labels at random


def check_null(
    probe: Probe,
    search: Search,
    seed: int,
    candidates: Candidates,
    space: Space,
    train: Labels,
    test: Features,
    test_labels: Tensor,
) -> NullCheck | None:
    """Choose, fit and test a linear probe with training labels at random; ``None`` if there are too few images.

    Args:
        space: the features that the probe itself chose; its strength is chosen again.
        train: labels of the training images; only their classes are used.
        test_labels: int64 ``[n]``, those of ``test``.
    """
    if len(train.values) < 2 * len(train.names):
        return None
    some = even_rows(len(test), NULL_TESTS)
    test, test_labels = test.only(some), test_labels[some]
    once = math.ceil(FREEDOM / (len(train.names) - 1) ** 2)
    among = candidates.among([space])
    return random_answers(probe, search, seed, among, train, test, test_labels, range(once)).check


class RandomAnswers(NamedTuple):
    """The answers of R classifiers that learned random labels."""

    confusions: Tensor  # int64 [R C C]
    images: int  # that each learned from
    unconverged: int  # fits that did not converge

    @property
    def check(self) -> NullCheck:
        """Whether their mean accuracy is chance."""
        return null_check(self.confusions, self.images).model_copy(update={"unconverged": self.unconverged})


def random_answers(
    probe: Probe,
    search: Search,
    seed: int,
    candidates: Candidates,
    train: Labels,
    test: Features,
    test_labels: Tensor,
    numbers: Sequence[int],
) -> RandomAnswers:
    """One repetition for each number: a draw of training images with labels at random, each class as often."""
    classes = len(train.names)
    images = min(max(NULL_IMAGES, 2 * classes), len(train.values)) // classes * classes
    confusions, unconverged = [], 0
    for number in numbers:
        random = np.random.default_rng([seed, number])
        rows = torch.from_numpy(np.sort(random.permutation(len(train.values))[:images]))
        labels = train._replace(values=torch.from_numpy(random.permutation(images) % classes))
        drawn, task = candidates.of(rows), build_task(labels, search, seed)
        fitted, failed = probe.choose_and_fit(drawn, task)
        unconverged += failed
        confusions.append(confusion_matrix(fitted.predict(test), test_labels, classes))
    return RandomAnswers(torch.stack(confusions), images, unconverged)


def null_check(confusions: Tensor, images: int) -> NullCheck:
    """The accuracy of R classifiers that learned random labels, with its interval, from counts ``[R C C]``.

    Test images of a class look alike, so their answers are alike: a binomial interval would be far too narrow. But as
    the labels meant nothing, the names of the answers may be exchanged, and each of the C! orders was as likely. The
    variance of the accuracy over these orders (Hoeffding 1951) is ``|D|² / (C - 1)``, where D is the matrix of shares
    minus the means of its rows and columns. The accuracy minus 1/C is the trace of D, one direction of (C - 1)²; the
    others estimate the variance, for Student's interval.
    """
    repetitions, classes = confusions.shape[:2]
    shares = confusions.double() / confusions.sum((1, 2), keepdim=True)
    rows, columns = shares.mean(2, keepdim=True), shares.mean(1, keepdim=True)
    centered = shares - rows - columns + shares.mean((1, 2), keepdim=True)
    excess = centered.diagonal(dim1=1, dim2=2).sum(1)  # accuracy minus chance, of each repetition
    freedom = repetitions * (classes - 1) ** 2 - 1
    rest = centered.square().sum() - repetitions * excess.mean().square() / (classes - 1)
    error = float((rest.clamp_min(0) / freedom * (classes - 1) / repetitions).sqrt())
    return _tested(float(excess.mean()), error, freedom, 1 / classes, images, repetitions)


def null_of_repetitions(found: Sequence[float], chance: Sequence[float], images: int) -> NullCheck:
    """The same from the scores of R classifiers that learned labels at random, each with its score by chance.

    This is for answers whose names cannot be exchanged. Each repetition has labels of its own, so Student's interval of
    the mean excess holds, whatever test images have in common.
    """
    excess = np.subtract(found, chance)
    error = float(excess.std(ddof=1)) / math.sqrt(len(excess))
    return _tested(float(excess.mean()), error, len(excess) - 1, float(np.mean(chance)), images, len(excess))


def _tested(excess: float, error: float, freedom: int, chance: float, images: int, repetitions: int) -> NullCheck:
    """Student's interval and one-sided test of a mean excess over chance, by its standard error."""
    from scipy.stats import t  # takes a second to import

    accuracy, reach = chance + excess, float(t.ppf(0.975, freedom)) * error
    # nothing varies, up to rounding: only an excess of zero is by chance
    p_value = float(t.sf(excess / error, freedom)) if error > ROUNDING else float(excess <= ROUNDING)
    return NullCheck(
        accuracy=accuracy,
        chance=chance,
        ci95=(max(0.0, accuracy - reach), min(1.0, accuracy + reach)),
        p_value=p_value,
        images=images,
        repetitions=repetitions,
    )


def why_no_null(null: NullCheck | None, asked: bool) -> dict[str, str]:
    """Why there is no null check, as ``Checks.missing``."""
    if null is not None:
        return {}
    return {"null": "too few training images" if asked else "switched off (null_check)"}


def tuned_checks(probed: Checks | None) -> Checks:
    """The checks of fine-tuning, from those of its linear probe if it ran."""
    trained = {"frozen": "the network is trained"}
    if probed is None:
        return Checks(frozen=None, null=None, missing={**trained, "null": "no linear probe was run"})
    if probed.frozen is False:  # the probe's encoder should have been
        return probed
    return probed.model_copy(update={"frozen": None, "sha256": {}, "missing": {**trained, **probed.missing}})


# ---- frozen


def state_digests(modules: Iterable[nn.Module]) -> list[str]:
    """For each, the sha256 of all its tensors: parameters and buffers, including those that are not saved."""
    return [_digest(module) for module in modules]


def before_and_after(names: Iterable[str], before: Sequence[str], after: Sequence[str]) -> dict[str, tuple[str, str]]:
    """By name, both digests, as ``Checks.sha256``; what has no tensors is left out."""
    nothing = hashlib.sha256().hexdigest()
    return {name: (then, now) for name, then, now in zip(names, before, after, strict=True) if then != nothing}


def _digest(module: nn.Module) -> str:
    found = hashlib.sha256()
    for name, tensor in chain(module.named_parameters(), module.named_buffers()):
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
