"""Accuracy, Wilson's interval and confusion, against numbers computed by hand."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from finetune.metrics import accuracy, confusion_matrix, per_class_accuracy, score, wilson_interval


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
