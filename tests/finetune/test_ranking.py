"""Average precision and F1 against scikit-learn, and intervals against simulated samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import average_precision_score, f1_score
from torch import Tensor

from finetune import ranking
from finetune.ranking import (
    average_precision,
    compare_labels,
    f1,
    halves,
    interval,
    mean_average_precision,
    score_labels,
)


def ranked(n: int, labels: int, seed: int, digits: int = 3) -> tuple[Tensor, Tensor]:
    """Scores with ties that follow random labels a little."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.rand(n, labels, generator=generator) < 0.3
    scores = (torch.randn(n, labels, generator=generator) + truth).round(decimals=digits)
    return scores, truth


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 4), st.integers(0, 10_000), st.integers(0, 3))
def test_average_precision_is_that_of_scikit_learn_with_ties(n: int, labels: int, seed: int, digits: int) -> None:
    scores, truth = ranked(n, labels, seed, digits)
    found = average_precision(torch.stack([scores, -scores]), truth)
    assert found.shape == (2, labels)
    for label in range(labels):
        for place, sign in enumerate((1, -1)):
            if truth[:, label].any():
                expected = average_precision_score(truth[:, label], sign * scores[:, label])
                assert float(found[place, label]) == pytest.approx(expected)
            else:
                assert bool(found[place, label].isnan())


def test_labels_that_no_image_has_are_left_out_of_the_mean() -> None:
    scores = torch.tensor([[3.0, 1.0], [2.0, 2.0], [1.0, 3.0]])
    truth = torch.tensor([[False, False], [True, False], [True, False]])
    assert float(mean_average_precision(scores, truth)) == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_f1_is_that_of_scikit_learn() -> None:
    scores, truth = ranked(80, 5, 1)
    micro, macro = f1(scores, truth)
    said = (scores > 0).numpy()
    assert micro == pytest.approx(f1_score(truth.numpy(), said, average="micro"))
    assert macro == pytest.approx(f1_score(truth.numpy(), said, average="macro"))
    nothing = torch.zeros(4, 2, dtype=torch.bool)
    assert f1(torch.full((4, 2), -1.0), nothing) == (0.0, 0.0)


def test_halves_are_halves_of_the_images_and_their_complements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "DRAWS", 6)
    monkeypatch.setattr(ranking, "TOGETHER", 6)
    scores, truth = ranked(31, 3, 2, digits=1)
    random, expected = np.random.default_rng(5), []
    for _ in range(3):
        half = torch.from_numpy(random.permutation(31)[:15])
        rest = torch.from_numpy(np.setdiff1d(np.arange(31), half))
        expected += [float(mean_average_precision(scores[rows], truth[rows])) for rows in (half, rest)]
    np.testing.assert_allclose(halves(scores, truth, seed=5), expected)


@pytest.mark.parametrize(("n", "labels"), [(120, 12), (400, 2)])
def test_the_interval_holds_the_true_value_about_as_often_as_it_says(n: int, labels: int) -> None:
    """The percentiles of a bootstrap would hold it in about half of the first kind of samples."""
    whole = float(mean_average_precision(*ranked(50_000, 1, 0)))
    held = 0
    for seed in range(1, 41):
        scores, truth = ranked(n, labels, seed)
        low, high = interval(float(mean_average_precision(scores, truth)), halves(scores, truth))
        held += low <= whole <= high
    assert held >= 34  # of 40


def test_a_perfect_ranking_stays_in_bounds() -> None:
    truth = torch.rand(40, 2, generator=torch.Generator().manual_seed(0)) < 0.4
    found = score_labels(truth.float(), truth, halves(truth.float(), truth))
    assert found.mean_average_precision == 1
    assert 0.99 < found.ci95[0] <= found.ci95[1] <= 1


def test_a_score_says_what_it_was_measured_on() -> None:
    scores, truth = ranked(60, 3, 3)
    truth[:, 2] = False
    found = score_labels(scores, truth, halves(scores, truth))
    assert found.n == 60
    assert found.positives == (*truth[:, :2].sum(0).tolist(), 0)
    assert found.per_label[2] is None
    assert found.mean_average_precision == pytest.approx(float(mean_average_precision(scores, truth)))
    assert found.ci95[0] < found.mean_average_precision < found.ci95[1]
    assert found.chance == pytest.approx(float(truth[:, :2].double().mean()))
    with pytest.raises(ValueError, match="nothing to rank"):
        score_labels(scores, torch.zeros_like(truth), np.zeros(3))


def test_a_difference_is_paired() -> None:
    """A ranking and nearly the same one differ by far less than either varies."""
    scores, truth = ranked(300, 2, 4)
    other = scores + 0.05 * torch.randn(300, 2, generator=torch.Generator().manual_seed(9))
    mine, theirs = halves(scores, truth), halves(other, truth)
    ours, its = score_labels(scores, truth, mine), score_labels(other, truth, theirs)
    found = compare_labels(ours, its, mine, theirs)
    assert found.difference == pytest.approx(ours.mean_average_precision - its.mean_average_precision)
    assert found.ci95[0] < found.difference < found.ci95[1]
    assert found.ci95[1] - found.ci95[0] < 0.3 * (ours.ci95[1] - ours.ci95[0])
    assert found.p == found.p_value == pytest.approx(2 * norm.sf(abs(found.difference) / np.std(mine - theirs)))
    older = found.model_copy(update={"p_value": None})  # its interval gives it
    assert older.p == pytest.approx(found.p, abs=0.1)


def test_a_p_value_is_as_small_as_it_should_be_where_nothing_differs() -> None:
    """Two rankings that are equally good, on many samples of images: p is below 0.05 about as often."""
    found = []
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        truth = torch.rand(150, 2, generator=generator) < 0.3
        ours, theirs = truth + torch.randn(2, 150, 2, generator=generator)
        mine, others = halves(ours, truth), halves(theirs, truth)
        first, second = score_labels(ours, truth, mine), score_labels(theirs, truth, others)
        found.append(compare_labels(first, second, mine, others).p)
    assert 0.02 <= np.mean(np.array(found) < 0.05) <= 0.08
