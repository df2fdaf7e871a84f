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
from finetune.metrics import wilson_interval
from finetune.probes import Candidates, Probe, Search, build_task
from finetune.worth import LabelEfficiency, LabelPoint, Worth

log = logging.getLogger("retouch")

RESAMPLES = 10_000  # simulated curves: the limits of five draws then vary by about a fiftieth of the interval
FEWEST = 2  # labels per class: with fewer there is nothing to choose on
PROTOCOL = (
    "the linear probe, chosen and fitted on the drawn images alone (nested, stratified); the same draws for all; "
    "ci95, of accuracies and of what labels are worth: normal over test images, Student's t over draws; of a single "
    "draw over test images alone"
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
        right: of ``encoder`` and the baselines: the same test images, and in draw d the same training images;
            ``from_scratch`` has some of the budgets, and perhaps fewer draws.
        seed: of the simulated curves that give the intervals.
    """
    simulated = _simulated(right, np.random.default_rng(seed))
    curves = {name: _curve(one, simulated[name]) for name, one in right.items()}
    found = {name: np.array([point.accuracy for point in curve]) for name, curve in curves.items()}
    worth = {}
    for name, one in right.items():
        if name != "encoder":
            budgets = np.array(list(one))
            equal = labels_for(budgets, found[name], found["encoder"]).tolist()
            again = labels_for(budgets, simulated[name][:, None], simulated["encoder"])
            low, high = np.quantile(again, [0.025, 0.975], axis=0, method="inverted_cdf").tolist()
            worth[name] = tuple(
                Worth(labels=count, equals=_whole(value), ci95=(_whole(a), _whole(b)))
                for count, value, a, b in zip(right["encoder"], equal, low, high, strict=True)
            )
    unconverged = {name: one.unconverged for name, one in right.items() if isinstance(one, Right) and one.unconverged}
    return LabelEfficiency(protocol=PROTOCOL, curves=curves, worth=worth, unconverged=unconverged)


def _curve(right: Mapping[int, Tensor], simulated: NDArray[np.float64]) -> tuple[LabelPoint, ...]:
    """The points of one subject, with intervals from its simulated curves ``[RESAMPLES budgets]``."""
    points = []
    for (count, hits), values in zip(right.items(), simulated.T, strict=True):
        if len(hits) == 1:
            ci95 = wilson_interval(int(hits.sum()), hits.shape[1])
        else:
            low, high = np.quantile(values, [0.025, 0.975]).clip(0, 1).tolist()
            ci95 = (low, high)
        points.append(LabelPoint(labels=count, draws=tuple(hits.double().mean(1).tolist()), ci95=ci95))
    return tuple(points)


def labels_for(
    budgets: NDArray[np.int64], curves: NDArray[np.float64], accuracy: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The fewest labels with which a curve reaches an accuracy, interpolated on a logarithmic scale of labels.

    0 if it is that accurate with its smallest budget, infinity if it never is. A curve that falls keeps its best.

    Args:
        budgets: numbers of labels ``[budgets]``, ascending.
        curves: accuracies ``[... budgets]``, broadcast against ``accuracy`` ``[...]``.
    """
    best, wanted = np.broadcast_arrays(np.maximum.accumulate(curves, axis=-1), accuracy[..., None])
    place = (best < wanted).sum(-1, keepdims=True)  # of the first budget that is enough
    ends = np.maximum(place - 1, 0), np.minimum(place, len(budgets) - 1)
    (low, high), (few, many) = (np.take_along_axis(best, end, -1) for end in ends), (budgets[end] for end in ends)
    wanted = wanted[..., :1]
    part = np.divide(wanted - low, high - low, out=np.zeros_like(low), where=high > low)
    found = few ** (1 - part) * many**part
    found = np.where(place == len(budgets), np.inf, np.where((place == 0) & (wanted < low), 0.0, found))
    return np.asarray(found[..., 0])


def _simulated(
    right: Mapping[str, Mapping[int, Tensor]], random: np.random.Generator
) -> dict[str, NDArray[np.float64]]:
    """Curves ``[RESAMPLES budgets]`` of each subject, as other test images and other draws might have given them.

    Test images: normal, with the covariance over images of all points of all curves (``_of_images``). Draws:
    Student's t (``_other_draws``).
    """
    points = [hits.double().numpy() for one in right.values() for hits in one.values()]
    means = np.stack([_of_images(hits) for hits in points])  # [points n]
    n = means.shape[1]
    covariance = np.atleast_2d(np.cov(means, bias=True)) / max(n - 1, 1)
    found = random.multivariate_normal(means.mean(1), covariance, RESAMPLES, method="eigh")
    normal, other = random.standard_normal((2, RESAMPLES, max(map(len, points))))
    for place, hits in enumerate(points):
        found[:, place] += _other_draws(hits.mean(1), normal, other)
    ends = np.cumsum([len(one) for one in right.values()])[:-1]
    return dict(zip(right, np.split(found, ends, axis=1), strict=True))


def _of_images(hits: NDArray[np.float64]) -> NDArray[np.float64]:
    """How often each image is right, on average over the draws of it: ``[k n]`` -> ``[n]``.

    Shrunk to the mean of all images, so that its variance is that of images alone: the mean of k draws also varies by
    what each draw does to single images, and the accuracies of the draws vary by that as well.
    """
    k, mean = len(hits), hits.mean(0)
    if k == 1:
        return np.asarray(mean)
    by_draw = hits.var(0, ddof=1).mean() - hits.mean(1).var(ddof=1)  # of single images
    kept = max(0.0, 1 - by_draw / k / max(mean.var(), 1e-12))
    return np.asarray(mean.mean() + math.sqrt(kept) * (mean - mean.mean()))


def _other_draws(
    accuracies: NDArray[np.float64], normal: NDArray[np.float64], other: NDArray[np.float64]
) -> NDArray[np.float64]:
    """How far the mean over other draws might be from that of these k: ``[RESAMPLES]``, 0 for one draw.

    Normal numbers ``[RESAMPLES draws]`` weigh the deviations of the draws, so that the variance is ``S² / k``; the root
    of a chi-square of others makes it Student's t with k - 1 degrees of freedom. A bootstrap of few draws would show
    only ``(k - 1) / k`` of the variance, and take it for known. As draws are nested and the same for all subjects,
    equal numbers for all points keep what their accuracies have in common.
    """
    k = len(accuracies)
    if k == 1:
        return np.zeros(len(normal))
    apart = normal[:, :k] @ (accuracies - accuracies.mean()) / math.sqrt(k * (k - 1))
    return np.asarray(apart * np.sqrt((k - 1) / np.square(other[:, : k - 1]).sum(1)))


def _whole(labels: float) -> int | None:
    return None if math.isinf(labels) else round(labels)
