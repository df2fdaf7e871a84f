"""Accuracy, intervals, confusion and paired comparisons, against numbers computed by hand, published or by scipy."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binom, bootstrap
from sklearn.metrics import balanced_accuracy_score, f1_score
from torch import Tensor

from finetune.metrics import (
    Bin,
    accuracy,
    calibration_error,
    chance_calibration_error,
    compare,
    compare_seeds,
    confusion_matrix,
    per_class_accuracy,
    reliability,
    score,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [
        # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3: the score interval without correction
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_equals_the_published_table(right: int, total: int, low: float, high: float) -> None:
    assert wilson_interval(right, total) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 10**6).flatmap(lambda total: st.tuples(st.integers(0, total), st.just(total))))
def test_wilson_interval_contains_the_proportion_and_is_symmetric(case: tuple[int, int]) -> None:
    right, total = case
    low, high = wilson_interval(right, total)
    assert 0 <= low <= right / total <= high <= 1
    mirrored = wilson_interval(total - right, total)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-9)


@pytest.mark.parametrize(("right", "total"), [(0, 0), (3, 2), (-1, 5)])
def test_wilson_interval_refuses_what_is_not_a_proportion(right: int, total: int) -> None:
    with pytest.raises(ValueError, match="not a proportion"):
        wilson_interval(right, total)


def test_accuracy_is_the_share_of_equal_labels() -> None:
    labels = torch.tensor([0, 1, 2, 2])
    predictions = torch.tensor([[0, 1, 2, 2], [0, 0, 0, 2], [1, 0, 0, 0]])
    assert accuracy(predictions, labels).tolist() == [1.0, 0.5, 0.0]


def test_confusion_counts_true_by_predicted() -> None:
    labels = torch.tensor([0, 0, 1, 2, 2, 2])
    predictions = torch.tensor([0, 1, 1, 2, 2, 0])
    confusion = confusion_matrix(predictions, labels, 4)
    assert confusion.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 2, 0], [0, 0, 0, 0]]
    assert per_class_accuracy(confusion) == [0.5, 1.0, pytest.approx(2 / 3), None]


@given(
    st.integers(2, 6).flatmap(
        lambda classes: st.lists(st.tuples(*[st.integers(0, classes - 1)] * 2), min_size=1, max_size=60)
    )
)
def test_every_class_counts_the_same_as_in_sklearn(pairs: list[tuple[int, int]]) -> None:
    labels, predictions = torch.tensor(pairs).T
    found = score(predictions, labels, 7)  # some classes have neither images nor predictions
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # predicted classes without images
        assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, predictions))
    assert found.macro_f1 == pytest.approx(f1_score(labels, predictions, average="macro"))


def test_a_score_holds_all_metrics() -> None:
    labels = torch.tensor([0, 0, 1, 2, 2, 2])
    predictions = torch.tensor([0, 1, 1, 2, 2, 0])
    found = score(predictions, labels, 4)
    assert (found.accuracy, found.n) == (4 / 6, 6)
    assert found.ci95 == wilson_interval(4, 6)
    assert list(found.per_class) == [0.5, 1.0, pytest.approx(2 / 3), None]
    assert found.confusion == ((1, 1, 0, 0), (0, 1, 0, 0), (1, 0, 2, 0), (0, 0, 0, 0))
    with pytest.raises(ValueError, match="not a proportion"):
        score(labels[:0], labels[:0], 4)


# ---- paired comparisons


def answers(both: int, only_ours: int, only_theirs: int, neither: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two lists of right (0) and wrong (1) answers with these counts; every label is 0."""
    kinds = torch.tensor([both, only_ours, only_theirs, neither])
    ours, theirs = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    return ours.repeat_interleave(kinds), theirs.repeat_interleave(kinds)


def compared(*counts: int) -> tuple[float, tuple[float, float], float]:
    ours, theirs = answers(*counts)
    found = compare(ours, theirs, torch.zeros_like(ours))
    assert (found.n10, found.n01) == counts[1:3]
    return found.difference, found.ci95, found.p_value


def test_mcnemars_test_is_exact() -> None:
    # 2 (C(10,0) + C(10,1)) / 2^10, by hand
    assert compared(5, 9, 1, 3)[2] == pytest.approx(22 / 1024)
    # of 21 + 9 discordant pairs: twice the lower tail
    assert compared(100, 21, 9, 80)[2] == pytest.approx(2 * binom.cdf(9, 30, 0.5))


def test_a_comparison_does_not_depend_on_what_both_get_right_or_wrong_but_for_the_scale() -> None:
    few, many = compared(10, 30, 10, 50), compared(1000, 30, 10, 960)
    assert few[2] == many[2]
    assert few[0] == pytest.approx(0.2)
    assert many[0] == pytest.approx(0.01)


@pytest.mark.parametrize("counts", [(60, 30, 10, 100), (500, 40, 38, 1422), (10, 12, 0, 8)])
def test_the_interval_is_the_bootstrap_over_images(counts: tuple[int, int, int, int]) -> None:
    ours, theirs = answers(*counts)
    gains = (theirs - ours).numpy().astype(float)  # of each image
    expected = bootstrap((gains,), np.mean, method="percentile", n_resamples=10_000, rng=1).confidence_interval
    step = 2 / len(gains)  # two neighboring values of the mean
    low, high = compared(*counts)[1]
    assert low == pytest.approx(expected.low, abs=step)
    assert high == pytest.approx(expected.high, abs=step)
    # and about 1.96 standard errors of the mean on each side
    assert high - low == pytest.approx(2 * 1.96 * gains.std() / math.sqrt(len(gains)), rel=0.1)


@given(st.tuples(*[st.integers(0, 60)] * 4).filter(any))
@settings(deadline=None)
def test_exchanging_the_two_changes_the_sign_alone(counts: tuple[int, int, int, int]) -> None:
    both, ours, theirs, neither = counts
    difference, (low, high), p = compared(*counts)
    other, (other_low, other_high), other_p = compared(both, theirs, ours, neither)
    assert other == -difference
    assert other_p == pytest.approx(p)
    assert low <= difference <= high
    step = 2 / sum(counts)
    assert (-other_high, -other_low) == pytest.approx((low, high), abs=2 * step)


def test_equal_answers_are_no_evidence_of_a_difference() -> None:
    assert compared(7, 0, 0, 5) == (0.0, (0.0, 0.0), 1.0)


def test_predictions_of_different_images_are_not_compared() -> None:
    with pytest.raises(ValueError, match="not predictions of the same images"):
        compare(torch.zeros(4), torch.zeros(5), torch.zeros(5))


# ---- confidence


def test_answers_are_counted_by_confidence_and_the_error_is_weighted_by_them() -> None:
    confidence = torch.tensor([0.0, 0.25, 0.35, 0.95, 1.0])
    bins = reliability(confidence, torch.tensor([True, False, True, True, True]), bins=4)
    assert [(one.n, one.accuracy) for one in bins] == [(1, 1.0), (2, 0.5), (2, 1.0)]
    assert [one.confidence for one in bins] == pytest.approx([0.0, 0.3, 0.975])
    assert calibration_error(bins) == pytest.approx((1 * 1.0 + 2 * 0.2 + 2 * 0.025) / 5)


def test_by_chance_alone_the_error_is_about_as_large_as_said() -> None:
    generator = np.random.default_rng(0)
    found, expected = [], []
    for _ in range(200):
        confidence = torch.from_numpy(generator.uniform(0.3, 1.0, 400))
        bins = reliability(confidence, torch.from_numpy(generator.random(400)) < confidence)
        found.append(calibration_error(bins))
        expected.append(chance_calibration_error(bins))
    assert np.mean(found) == pytest.approx(np.mean(expected), rel=0.05)
    assert chance_calibration_error([Bin(100, 1.0, 0.9)]) == 0.0


# ---- several seeds


def test_difference_over_seeds_is_that_of_the_means_with_the_t_interval_of_its_parts() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (200,), generator=generator)
    ours, theirs = (torch.randint(4, (seeds, 200), generator=generator) for seeds in (3, 5))
    ours[:, :100] = labels[:100]
    found = compare_seeds(ours, theirs, labels)
    right, other = ((one == labels).double().numpy() for one in (ours, theirs))
    paired = right.mean(0) - other.mean(0)
    parts = np.array([paired.var(ddof=1) / 200, right.mean(1).var(ddof=1) / 3, other.mean(1).var(ddof=1) / 5])
    freedom = parts.sum() ** 2 / (parts**2 / np.array([199, 2, 4])).sum()
    low, high = scipy.stats.t.interval(0.95, freedom, paired.mean(), parts.sum() ** 0.5)
    assert found.difference == pytest.approx(paired.mean())
    assert found.ci95 == pytest.approx((low, high))
    assert found.p_value == pytest.approx(2 * scipy.stats.t.sf(abs(paired.mean()) / parts.sum() ** 0.5, freedom))
    assert found.images == 200


def test_interval_over_seeds_holds_the_true_difference_of_simulated_methods() -> None:
    """Methods whose accuracy moves with the seed, and images that are hard for all: at least 95%, about."""
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        hardness = generator.normal(size=300)
        labels = torch.zeros(300, dtype=torch.int64)

        def answers(hardness: NDArray[np.float64] = hardness) -> Tensor:
            skill = 0.5 + 0.1 * generator.normal(size=(4, 1))
            return torch.from_numpy((skill + generator.normal(size=(4, 300)) * 0.5 < hardness).astype(np.int64))

        low, high = compare_seeds(answers(), answers(), labels).ci95
        held += low <= 0 <= high
    assert held >= 0.93 * 200


def test_comparison_over_seeds_needs_two_of_the_same_images() -> None:
    labels = torch.zeros(5, dtype=torch.int64)
    two = torch.zeros(2, 5, dtype=torch.int64)
    same = compare_seeds(two, two, labels)
    assert (same.difference, same.ci95, same.p_value) == (0.0, (0.0, 0.0), 1.0)
    for wrong in (two[:1], two[:, :4], two[0]):
        with pytest.raises(ValueError, match="not predictions of the same"):
            compare_seeds(two, wrong, labels)
