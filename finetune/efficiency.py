"""Label efficiency: the linear probe's accuracy from few labels to all, and how many labels an encoder saves.

The probe is run again from the start on nested, stratified draws of the training images: its features, strength and fit
all come from the drawn images, so nothing has seen more labels than the budget allows. Encoder and baselines get the
same draws. The last budget is the whole training set, which is the probe itself.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.data import Labels
from finetune.config import LabelEfficiencyConfig, ProbeConfig
from finetune.features import Features
from finetune.probes import Candidates, Probe, Search, build_task
from finetune.worth import LabelEfficiency, LabelPoint, Worth

log = logging.getLogger("retouch")

RESAMPLES = 1000  # of the bootstrap: its limits then vary by about a twentieth of the interval
TOGETHER = 100  # resamples that are in memory at once
FEWEST = 2  # labels per class: with fewer there is nothing to choose on
PROTOCOL = (
    "the linear probe, chosen and fitted on the drawn images alone (nested, stratified); the same draws for all; "
    "ci95, of accuracies and of what labels are worth: bootstrap over draws and test images"
)


class Right(dict[int, Tensor]):
    """Whether each test image is right, bool ``[draws n]``, by number of labels.

    Attributes:
        unconverged: fits, compared or tested, that did not converge.
    """

    unconverged: int = 0


# ---- draws


def draw_rows(labels: Labels, config: LabelEfficiencyConfig, seed: int) -> dict[int, list[Tensor]]:
    """Nested, stratified draws of the training images: by their number, the rows of each draw, int64, ascending.

    In draw d, the images of each class are in an order of their own, a function of ``(seed, d)``, and every budget
    takes the first of them: a share, or a number. A class with fewer gives all. Budgets below two labels per class are
    left out, and so is the whole training set.
    """
    least = FEWEST * len(torch.unique(labels.values))
    found: dict[int, list[Tensor]] = {}
    for draw in range(config.draws):
        for rows in _nested(labels.values, config, np.random.default_rng([seed, draw])):
            if least <= len(rows) < len(labels.values):
                found.setdefault(len(rows), []).append(rows)
    if not found:
        log.warning(
            "task %s: label_efficiency has no budget between %d labels, %d per class, and all %d: add images, or "
            "larger shares",
            *(labels.task, least, FEWEST, len(labels.values)),
        )
    return dict(sorted(found.items()))


def _nested(labels: Tensor, config: LabelEfficiencyConfig, random: np.random.Generator) -> list[Tensor]:
    """The rows of each budget, in one draw."""
    values = labels.numpy()
    shuffled = random.permutation(len(values))
    _, inverse, sizes = np.unique(values[shuffled], return_inverse=True, return_counts=True)
    rank = np.empty(len(values), np.int64)  # place in its class
    rank[np.argsort(inverse, kind="stable")] = np.arange(len(values)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    if config.per_class is not None:
        taken = [shuffled[rank < count] for count in sorted(set(config.per_class))]
    else:
        # the first of every class, then the others so that every class keeps its share
        order = shuffled[np.argsort(rank / sizes[inverse], kind="stable")]
        taken = [order[: round(share * len(values))] for share in sorted(set(config.shares_or_default))]
    return [torch.from_numpy(np.sort(rows)) for rows in taken]


# ---- accuracies


def measure_efficiency(
    config: ProbeConfig, candidates: Candidates, train: Labels, test: Features, test_labels: Tensor, whole: Tensor
) -> Right | None:
    """Run the linear probe on every draw, from the choice of its features on; ``None`` if that is not asked for.

    Args:
        train: labels of the training images.
        test_labels, whole: int64 ``[n]``: the labels of ``test``, and the predictions of the probe with all labels.
    """
    if config.label_efficiency is None:
        return None
    draws = draw_rows(train, config.label_efficiency, config.seed)
    right = right_answers(config.probe, config.probe, candidates, train, test, test_labels, draws, config.seed)
    right[len(train.values)] = (whole == test_labels)[None]
    return right


def right_answers(
    probe: Probe,
    search: Search,
    candidates: Candidates,
    train: Labels,
    test: Features,
    test_labels: Tensor,
    draws: Mapping[int, Sequence[Tensor]],
    seed: int,
) -> Right:
    """Choose and fit a probe on each draw of the training images, and see which test images it gets right."""
    right = Right()
    for count, some in draws.items():
        answers = []
        for rows in some:
            drawn = candidates.of(rows)
            task = build_task(train._replace(values=train.values[rows]), search, seed)
            fitted, failed = probe.choose_and_fit(drawn, task)
            right.unconverged += failed
            answers.append(fitted.predict(test) == test_labels)
        right[count] = torch.stack(answers)
    return right


# ---- what labels are worth


def label_efficiency(right: Mapping[str, Mapping[int, Tensor]], seed: int = 0) -> LabelEfficiency:
    """The curve of each subject, and what the encoder's labels are worth to each baseline, with intervals.

    Args:
        right: for ``encoder`` and the baselines, on the same test images and draws; ``from_scratch`` has some of the
            budgets, and one draw of each.
        seed: for the bootstrap, which resamples test images and draws, the same for all subjects.
    """
    resampled = _bootstrap(right, np.random.default_rng(seed))
    curves = {name: _curve(one, resampled[name]) for name, one in right.items()}
    budgets = list(right["encoder"])
    found = {name: np.array([point.accuracy for point in curve]) for name, curve in curves.items()}
    worth = {}
    for name in right:
        if name != "encoder":
            theirs_at = list(right[name])
            equal = [labels_for(theirs_at, found[name], accuracy) for accuracy in found["encoder"]]
            again = [
                [labels_for(theirs_at, theirs, accuracy) for accuracy in ours]
                for ours, theirs in zip(resampled["encoder"], resampled[name], strict=True)
            ]
            low, high = np.quantile(np.array(again), [0.025, 0.975], axis=0, method="inverted_cdf").tolist()
            worth[name] = tuple(
                Worth(labels=count, equals=_whole(value), ci95=(_whole(a), _whole(b)))
                for count, value, a, b in zip(budgets, equal, low, high, strict=True)
            )
    unconverged = {name: one.unconverged for name, one in right.items() if isinstance(one, Right) and one.unconverged}
    return LabelEfficiency(protocol=PROTOCOL, curves=curves, worth=worth, unconverged=unconverged)


def _curve(right: Mapping[int, Tensor], resampled: NDArray[np.float64]) -> tuple[LabelPoint, ...]:
    """The points of one subject, with the percentiles of its curves ``[RESAMPLES budgets]``."""
    low, high = np.quantile(resampled, [0.025, 0.975], axis=0).tolist()
    return tuple(
        LabelPoint(labels=count, draws=tuple(hits.double().mean(1).tolist()), ci95=(a, b))
        for (count, hits), a, b in zip(right.items(), low, high, strict=True)
    )


def labels_for(budgets: Sequence[int], accuracies: NDArray[np.float64], accuracy: float) -> float:
    """The fewest labels with which a curve reaches an accuracy, interpolated on a logarithmic scale of labels.

    0 if it is that accurate with its smallest budget, infinity if it never is. A curve that falls keeps its best.
    """
    best = np.maximum.accumulate(accuracies)
    place = int(np.searchsorted(best, accuracy))
    if place == len(budgets):
        return math.inf
    if place == 0:
        return float(budgets[0]) if best[0] == accuracy else 0.0
    part = (accuracy - best[place - 1]) / (best[place] - best[place - 1])
    return math.exp((1 - part) * math.log(budgets[place - 1]) + part * math.log(budgets[place]))


def _bootstrap(
    right: Mapping[str, Mapping[int, Tensor]], random: np.random.Generator
) -> dict[str, NDArray[np.float64]]:
    """Curves ``[RESAMPLES budgets]`` of each subject, on resampled test images and draws, the same for all."""
    draws = max(len(hits) for hits in right["encoder"].values())
    # [budgets draws n]; the whole training set is every draw
    hits = {name: torch.stack([some.expand(draws, -1) for some in one.values()]).float() for name, one in right.items()}
    n = hits["encoder"].shape[2]
    found: dict[str, list[NDArray[np.float64]]] = {name: [] for name in right}
    for _ in range(0, RESAMPLES, TOGETHER):
        drawn = random.integers(n, size=(TOGETHER, n)) + n * np.arange(TOGETHER)[:, None]
        images = np.bincount(drawn.ravel(), minlength=TOGETHER * n).reshape(TOGETHER, n).T / n
        times = torch.from_numpy(random.multinomial(draws, np.full(draws, 1 / draws), TOGETHER).T / draws)
        for name, of in hits.items():
            accuracies = (of @ torch.from_numpy(images).float()).double()  # [budgets draws resamples]
            found[name].append((accuracies * times).sum(1).T.numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _whole(labels: float) -> int | None:
    return None if math.isinf(labels) else round(labels)
