"""Weighted nearest neighbors against a loop, row by row."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.solvers.knn import knn_confident, knn_predict


def by_hand(query: list[float], bank: list[list[float]], labels: list[int], classes: int, k: int, T: float) -> int:
    def cosine(a: list[float], b: list[float]) -> float:
        norms = math.hypot(*a) * math.hypot(*b)
        return sum(x * y for x, y in zip(a, b, strict=True)) / norms if norms else 0.0

    nearest = sorted(range(len(bank)), key=lambda row: -cosine(query, bank[row]))[:k]
    votes = [0.0] * classes
    for row in nearest:
        votes[labels[row]] += math.exp(cosine(query, bank[row]) / T)
    return votes.index(max(votes))


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_votes_equal_a_plain_loop(temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    bank = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 3, (40,), generator=generator)
    queries = torch.randn(25, 5, generator=generator, dtype=torch.float64)
    monkeypatch.setattr("finetune.solvers.knn.SIMILARITIES", 40 * 7)  # chunks of 7 queries, the last one shorter
    answers = knn_predict(queries, bank, labels, 3, [1, 5, 40], temperature)
    for index, k in enumerate([1, 5, 40]):
        expected = [by_hand(q, bank.tolist(), labels.tolist(), 3, k, temperature) for q in queries.tolist()]
        assert answers[index].tolist() == expected


def test_confidence_is_the_share_of_the_votes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.solvers.knn.SIMILARITIES", 3)  # one query at a time
    bank, labels = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]), torch.tensor([0, 1, 1])
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    answers, confidence = knn_confident(queries, bank, labels, 2, 3, 0.5)
    assert torch.equal(answers[None], knn_predict(queries, bank, labels, 2, [3], 0.5))
    first, second, third = (math.exp(cosine / 0.5) for cosine in (1.0, 0.8, 0.0))
    assert confidence[0].item() == pytest.approx(first / (first + second + third))
    first, second, third = (math.exp(cosine / 0.5) for cosine in (0.0, 0.6, 1.0))
    assert confidence[1].item() == pytest.approx((second + third) / (first + second + third))


def test_scale_of_features_does_not_matter() -> None:
    generator = torch.Generator().manual_seed(0)
    bank, labels = torch.randn(50, 4, generator=generator), torch.arange(50) % 2
    queries = torch.randn(20, 4, generator=generator)
    scales = torch.rand(50, 1, generator=generator) + 0.5
    plain = knn_predict(queries, bank, labels, 2, [3])
    assert torch.equal(plain, knn_predict(queries * 1000, bank * scales, labels, 2, [3]))


def test_more_neighbors_than_rows_means_all_rows() -> None:
    bank, labels = torch.eye(3), torch.tensor([0, 1, 1])
    assert knn_predict(torch.tensor([[1.0, 0.0, 0.0]]), bank, labels, 2, [3, 200]).tolist() == [[0], [0]]


def test_a_low_temperature_follows_the_nearest_row_and_a_high_one_the_majority() -> None:
    bank = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.8, -0.6]])
    labels = torch.tensor([0, 1, 1])
    query = torch.tensor([[1.0, 0.0]])
    assert knn_predict(query, bank, labels, 2, [3], 0.07).item() == 0
    assert knn_predict(query, bank, labels, 2, [3], 10.0).item() == 1


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_rows_of_zeros_are_like_no_row_and_equal_rows_come_in_order(data: st.DataObject) -> None:
    """Directions along the axes, so that many similarities are equal, and exactly so in any arithmetic."""
    rows = st.lists(st.sampled_from([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]]), min_size=1, max_size=12)
    bank, queries = data.draw(rows), data.draw(rows)
    labels = data.draw(st.lists(st.integers(0, 2), min_size=len(bank), max_size=len(bank)))
    k = data.draw(st.lists(st.integers(1, 14), min_size=1, max_size=3))
    for dtype in (torch.float32, torch.float64):
        for chunk in (1, 3, 100):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("finetune.solvers.knn.SIMILARITIES", chunk * len(bank))
                found = knn_predict(
                    torch.tensor(queries, dtype=dtype), torch.tensor(bank, dtype=dtype), torch.tensor(labels), 3, k, 1.0
                )
            expected = [[by_hand(query, bank, labels, 3, count, 1.0) for query in queries] for count in k]
            assert found.tolist() == expected


def test_features_of_zeros_alone_give_a_class_and_no_nan() -> None:
    labels = torch.arange(9) // 3
    found = knn_predict(torch.zeros(5, 4), torch.zeros(9, 4), labels, 3, [2, 9])
    assert found.tolist() == [[0] * 5, [0] * 5]
