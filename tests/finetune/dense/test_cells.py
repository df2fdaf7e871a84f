"""Counts of pixels in cells, overlaps, IoU and its bootstrap, against scikit-learn and hand computation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import jaccard_score
from torch.nn.functional import avg_pool2d, one_hot

from finetune.dense.cells import cell_counts, enlarge, fewer_pixels, in_parts, mean_iou, overlaps
from finetune.dense.scores import bootstrap, compare_masks, score_masks


def drawn(n: int, side: int, classes: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-1, classes, (n, side, side), generator=generator)


def test_counts_are_those_of_average_pooling() -> None:
    truth = drawn(3, 12, 4)
    shares = avg_pool2d(one_hot(truth + 1, 5)[..., 1:].permute(0, 3, 1, 2).double(), (3, 4))
    assert torch.equal(cell_counts(truth, 4, 3, 4), (shares * 12).round().long().permute(0, 2, 3, 1))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 20), st.integers(1, 25), st.integers(1, 25), st.integers(1, 5))
def test_every_pixel_that_counts_is_in_one_cell(side: int, height: int, width: int, classes: int) -> None:
    truth = drawn(2, side, classes)
    counts = cell_counts(truth, height, width, classes)
    assert counts.shape == (2, height, width, classes)
    for number in range(classes):
        assert torch.equal(counts[..., number].sum((1, 2)), (truth == number).sum((1, 2)))


def test_iou_is_that_of_scikit_learn_over_all_pixels_together() -> None:
    truth, answers = drawn(5, 8, 3), drawn(5, 8, 3, seed=1).clamp_min(0)
    counts = overlaps(answers, truth, 4)  # the last class has no pixel, and is left out
    kept = truth >= 0
    expected = jaccard_score(truth[kept], answers[kept], average=None)
    found = score_masks(counts, bootstrap(counts))
    assert found.per_class[:3] == pytest.approx(tuple(expected))
    assert found.per_class[3] is None
    assert found.mean_iou == pytest.approx(expected.mean())
    assert found.pixel_accuracy == pytest.approx(float((truth == answers)[kept].double().mean()))
    assert found.pixels == tuple(int((truth == number).sum()) for number in range(4))
    assert found.images == (5, 5, 5, 0)
    assert found.n == 5


def test_what_is_said_where_nothing_counts_is_no_error() -> None:
    truth = torch.tensor([[[0, 0], [1, -1]]])
    right = overlaps(torch.tensor([[[0, 0], [1, 0]]]), truth, 2)
    assert right.tolist() == [[[2, 1], [2, 1], [2, 1]]]
    assert float(mean_iou(right.sum(0))) == 1
    # one of three pixels wrong: IoU 1/2 and 1/2
    assert float(mean_iou(overlaps(torch.tensor([[[0, 1], [1, 1]]]), truth, 2).sum(0))) == pytest.approx(0.5)


def test_a_class_that_is_said_but_has_no_pixel_is_left_out_of_the_mean() -> None:
    counts = overlaps(torch.tensor([[[0, 2], [1, 1]]]), torch.tensor([[[0, 0], [1, 1]]]), 3)
    assert float(mean_iou(counts.sum(0))) == pytest.approx((0.5 + 1) / 2)


def test_the_bootstrap_draws_images_not_pixels() -> None:
    counts = overlaps(drawn(40, 6, 2, seed=1).clamp_min(0), drawn(40, 6, 2), 2)
    random = np.random.default_rng(5)
    by_hand = [float(mean_iou(counts[random.integers(0, 40, 40)].sum(0))) for _ in range(2000)]
    found = bootstrap(counts)
    assert np.std(found) == pytest.approx(np.std(by_hand), rel=0.1)
    assert np.mean(found) == pytest.approx(np.mean(by_hand), abs=0.005)
    alike = counts[:1].expand(40, -1, -1)
    assert np.ptp(bootstrap(alike)) < 1e-12  # equal images have nothing to draw


def test_differences_are_paired() -> None:
    truth = drawn(30, 6, 2)
    better, worse = truth.clamp_min(0), truth.clamp_min(0).clone()
    worse[:, 0] = 0
    first, second = overlaps(better, truth, 2), overlaps(worse, truth, 2)
    found = compare_masks(first, second, bootstrap(first), bootstrap(second))
    assert found.difference == pytest.approx(1 - float(mean_iou(second.sum(0))))
    assert found.ci95[0] < found.difference < found.ci95[1]
    assert found.ci95[0] > 0
    assert found.p < 1e-6
    same = compare_masks(second, second, bootstrap(second), bootstrap(second))
    assert (same.difference, same.ci95, same.p) == (0, (0, 0), 1)


def test_scores_are_enlarged_between_the_middles_of_cells() -> None:
    row = enlarge(torch.tensor([[[[0.0, 1.0]]]]), 4)[0, 0, 0]
    assert row.tolist() == [0, 0.25, 0.75, 1]


def test_fewer_pixels_are_those_in_the_middle() -> None:
    truth = torch.arange(36).view(1, 6, 6)
    assert fewer_pixels(truth, 2).tolist() == [[[7, 10], [25, 28]]]
    assert fewer_pixels(truth, 6) is truth


def test_parts_hold_every_image_once() -> None:
    assert [list(range(7))[some] for some in in_parts(7, 1 << 23)] == [[0, 1], [2, 3], [4, 5], [6]]
    assert len(list(in_parts(3, 1 << 30))) == 3


def test_images_of_which_no_pixel_counts_are_not_drawn() -> None:
    """One of two images is entirely ignored: a draw of only that image would have no mean."""
    counts = torch.tensor([[[6, 4], [5, 5], [4, 3]], [[0, 0], [0, 0], [0, 0]]])
    drawn = bootstrap(counts)
    assert drawn.tolist() == [float(mean_iou(counts[0]))] * len(drawn)
    assert score_masks(counts, drawn).ci95 == (float(mean_iou(counts[0])),) * 2
