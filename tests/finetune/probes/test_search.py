"""Choosing among spaces: splits, finalists, ties, standardized features."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from common.data import Labels
from finetune.data import Fold
from finetune.features import Features
from finetune.pooling import Part, Space
from finetune.probes import Candidates, Linear, Nearest, Search, Standardizer, build_task
from finetune.probes.search import FEW_IMAGES, Validated, choose_best
from finetune.records import Setting
from finetune.solvers.logistic import LogisticFit, fit_logistic
from tests.finetune.probes.features import BAD, CPU, GOOD, GOOD_SPACE, informative, task_of

LINEAR = Linear(l2=(1e-4, 1e-2, 1.0))


def test_many_images_are_split_into_a_tenth_and_the_rest() -> None:
    labels = torch.arange(FEW_IMAGES) % 3
    task = build_task(Labels(labels, ("a", "b", "c"), "t"), Search(), 0)
    [fold] = task.folds
    assert (len(fold.fit), len(fold.held), task.how) == (4500, 500, "held-out 10%")
    assert torch.bincount(labels[fold.held]).tolist() == [167, 167, 166]
    assert sorted(torch.cat(list(fold)).tolist()) == list(range(FEW_IMAGES))
    assert not task.subsampled
    assert torch.equal(task.first[0].fit, fold.fit)


def test_few_images_are_cross_validated() -> None:
    labels = torch.arange(FEW_IMAGES - 1) % 3
    task = build_task(Labels(labels, ("a", "b", "c"), "t"), Search(), 0)
    assert (len(task.folds), task.how, task.held) == (5, "5-fold cross-validation", FEW_IMAGES - 1)
    assert sorted(torch.cat([fold.held for fold in task.folds]).tolist()) == list(range(FEW_IMAGES - 1))
    for fold in task.folds:
        assert sorted(torch.cat(list(fold)).tolist()) == list(range(FEW_IMAGES - 1))
        assert torch.bincount(labels[fold.held]).tolist() == [333, 333, 333] or len(fold.held) == 1000


@pytest.mark.parametrize("folds", [0, 1])
def test_cross_validation_can_be_turned_off(folds: int) -> None:
    task = build_task(Labels(torch.arange(300) % 3, ("a", "b", "c"), "t"), Search(folds=folds, validation=0.2), 0)
    assert (len(task.folds), task.held, task.how) == (1, 60, "held-out 20%")


def test_there_are_no_more_folds_than_images_of_the_largest_class() -> None:
    task = build_task(Labels(torch.tensor([0, 0, 0, 1, 2]), ("a", "b", "c"), "t"), Search(), 0)
    assert task.how == "3-fold cross-validation"
    assert all(len(fold.held) and len(fold.fit) for fold in task.folds)


@pytest.mark.parametrize("folds", [0, 4])
def test_search_rows_are_a_stratified_part_of_the_fit_rows(folds: int) -> None:
    labels = torch.arange(300) % 3
    task = task_of(labels, search=90, folds=folds)
    assert task.subsampled
    for few, fold in zip(task.first, task.folds, strict=True):
        assert torch.bincount(labels[few.fit]).tolist() == [30, 30, 30]
        assert set(few.fit.tolist()) <= set(fold.fit.tolist())
        assert torch.equal(few.held, fold.held)


def test_spaces_are_compared_on_few_rows_and_the_finalists_again_on_all() -> None:
    _, labels = informative(300, 0)
    spaces = [Space((layer,), ("avg",), (Part(layer, "avg"),), 4 + layer) for layer in range(3)]
    task = task_of(labels, search=60)
    on_few, on_all = dict(zip(spaces, (0.5, 0.7, 0.6), strict=True)), dict(zip(spaces, (0.9, 0.4, 0.5), strict=True))
    compared: list[tuple[Space, bool]] = []

    def validate(space: Space, folds: Sequence[Fold]) -> Validated:
        whole = folds is task.folds
        compared.append((space, whole))
        return Validated([(on_all if whole else on_few)[space]], [None], 0)

    candidates = Candidates(Features({}, torch.arange(300)), spaces, CPU, finalists=2)
    chosen = choose_best(candidates, task, [{"l2": 1.0}], validate)
    assert compared == [(space, False) for space in spaces] + [(spaces[1], True), (spaces[2], True)]
    assert (chosen.space, chosen.val_accuracy) == (spaces[2], 0.5)


def test_the_widest_space_is_compared_on_all_rows_even_if_it_does_badly_on_few_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(900) % 3
    signal = torch.nn.functional.one_hot(labels, 3).float()
    parts, spaces = {}, []
    # the widest space has more signal, spread over so many features that 24 rows do not find it
    for layer, (width, strength) in enumerate([(3, 1.5), (6, 0.5), (120, 0.4)]):
        part = Part(layer, "avg")
        parts[part] = strength * signal.repeat(1, width // 3) + torch.randn(900, width, generator=generator)
        spaces.append(Space((layer,), ("avg",), (part,), width))
    candidates = Candidates(Features(parts, torch.arange(900)), spaces, CPU, finalists=1)
    few = task_of(labels, search=24)

    class Unbiased(Linear):
        prefers_widest: ClassVar[bool] = False

    assert Unbiased(l2=(1e-2,)).choose(candidates, few).space != spaces[-1]
    assert Linear(l2=(1e-2,)).choose(candidates, few).space == spaces[-1]


def test_every_comparison_is_kept_with_what_it_was_fitted_on() -> None:
    _, labels = informative(300, 0)
    spaces = [Space((layer,), ("avg",), (Part(layer, "avg"),), 10 * (layer + 1)) for layer in range(3)]
    candidates = Candidates(Features({}, torch.arange(300)), spaces, CPU, finalists=1)
    task = task_of(labels, search=90)
    found = {(0, 90): [0.5, 0.6], (1, 90): [0.7, 0.7], (1, 270): [0.72, 0.71], (2, 270): [0.4, 0.8]}

    def validate(space: Space, folds: Sequence[Fold]) -> Validated:
        return Validated(found[space.layers[0], len(folds[0].fit)], [None, None], 0)

    grid: list[Setting] = [{"l2": 0.1}, {"l2": 1.0}]
    facts = choose_best(candidates, task, grid, validate, preferred=spaces[2:]).facts
    kept = [(one.layer, one.features, one.fitted_on, one.val_accuracy, one.setting["l2"]) for one in facts.spaces]
    assert kept == [
        ("0", 10, 90, 0.6, 1.0),
        ("1", 20, 90, 0.7, 1.0),
        ("1", 20, None, 0.72, 0.1),
        ("2", 30, None, 0.8, 1.0),
    ]
    assert facts.layer == "2"


def test_on_a_tie_the_stronger_penalty_wins() -> None:
    features, labels = informative(300, 0)
    features.parts[GOOD][:, :3] += 100.0 * torch.nn.functional.one_hot(labels, 3)  # every strength is perfect
    candidates, task = Candidates(features, [GOOD_SPACE], CPU), task_of(labels)
    for linear in (LINEAR, Linear(l2=(1.0, 1e-4, 1e-2))):  # whatever the order of the grid
        chosen = linear.choose(candidates, task)
        assert (chosen.setting, chosen.at_end_of_grid) == ({"l2": 1.0}, True)


@pytest.mark.parametrize(
    ("narrow", "wide", "prefers", "expected"),
    [
        (0.80, 0.80, True, "wide"),
        (0.82, 0.80, True, "wide"),  # the standard error of 0.82 on 300 images is 0.022
        (0.86, 0.80, True, "narrow"),
        (0.80, 0.86, True, "wide"),
        (0.83, 0.80, False, "narrow"),
        (0.80, 0.80, False, "narrow"),
        (0.80, 0.83, False, "wide"),
    ],
)
def test_the_preferred_space_is_chosen_unless_another_is_clearly_better(
    narrow: float, wide: float, prefers: bool, expected: str
) -> None:
    _, labels = informative(300, 0)
    wide_space = Space((0, 1), ("avg",), (GOOD, BAD), 6)
    candidates = Candidates(Features({}, torch.arange(300)), [wide_space, GOOD_SPACE], CPU)
    task = task_of(labels, folds=5)
    assert task.held == 300

    def validate(space: Space, folds: Sequence[Fold]) -> Validated:
        return Validated([wide - 0.01, wide] if space is wide_space else [narrow, narrow - 0.01], [None, None], 0)

    grid: list[Setting] = [{"l2": 0.1}, {"l2": 1.0}]
    chosen = choose_best(candidates, task, grid, validate, preferred=[wide_space] if prefers else [])
    assert chosen.space == {"narrow": GOOD_SPACE, "wide": wide_space}[expected]
    assert chosen.setting == grid[chosen.space is wide_space]
    assert chosen.val_accuracy == {"narrow": narrow, "wide": wide}[expected]


def test_a_setting_inside_its_grid_is_not_at_the_end() -> None:
    features, labels = informative(300, 0)
    candidates, task = Candidates(features, [GOOD_SPACE], CPU), task_of(labels)
    chosen = Linear(l2=(1e-4, 1e-1, 1e6)).choose(candidates, task)  # the strongest leaves only class shares
    assert (chosen.setting, chosen.at_end_of_grid) == ({"l2": 1e-1}, False)
    alone = Linear(l2=(1e-1,)).choose(candidates, task)
    assert not alone.at_end_of_grid  # a grid of one has no end to widen


def test_a_part_of_the_grid_that_is_clearly_worse_ends_the_search_of_weaker_strengths() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    features = torch.randn(300, 100, generator=generator)
    features[:, :3] += 1.5 * torch.nn.functional.one_hot(labels, 3)
    part = Part(0, "avg")
    space = Space((0,), ("avg",), (part,), 100)
    candidates = Candidates(Features({part: features}, torch.arange(300)), [space], CPU)
    grid = tuple(10.0**exponent for exponent in range(-9, 0))
    task = task_of(labels, folds=5)
    linear = Linear(l2=grid)
    tried: list[float] = []
    real = fit_logistic

    def spy(features: Tensor, labels: Tensor, classes: int, l2: Sequence[float], **rest: Any) -> LogisticFit:
        tried.extend(l2)
        return real(features, labels, classes, l2, **rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("finetune.probes.linear.fit_logistic", spy)
        chosen = linear.choose(candidates, task)
    assert set(tried) >= set(grid[-4:])
    assert 1e-9 not in tried  # overfitted by then
    assert chosen.setting["l2"] in (1e-2, 1e-1)


def test_a_weak_strength_is_found_where_the_strong_ones_do_no_better() -> None:
    features, labels = informative(300, 0)
    candidates, task = Candidates(features, [GOOD_SPACE], CPU), task_of(labels)
    strong = (1e6, 1e7, 1e8, 1e9)  # leave only class shares
    assert Linear(l2=(1e-3, *strong)).choose(candidates, task).setting == {"l2": 1e-3}


def test_the_refit_solves_the_problem_of_all_training_rows() -> None:
    features, labels = informative(300, 0)
    candidates, task = Candidates(features, [GOOD_SPACE], CPU), task_of(labels)
    chosen = LINEAR.choose(candidates, task)
    fitted = LINEAR.refit(candidates, task, chosen)
    matrix = features.matrix(GOOD_SPACE)
    standardized = (matrix - matrix.mean(0)) / matrix.std(0, correction=0)
    expected = fit_logistic(standardized, labels, 3, [chosen.setting["l2"]], tolerance=1e-8)
    found = fitted.classifiers.fit  # type: ignore[attr-defined]
    torch.testing.assert_close(found.objective, expected.objective, rtol=1e-5, atol=0)
    torch.testing.assert_close(found.weight, expected.weight, rtol=0.02, atol=0.01)
    assert (fitted.predict(features) == labels).float().mean() > 0.85


def test_nearest_neighbors_come_from_all_training_rows() -> None:
    features, labels = informative(300, 0)
    candidates, task, nearest = Candidates(features, [GOOD_SPACE], CPU), task_of(labels), Nearest(k=(1,))
    # each training row is its own nearest neighbor, also in the validation split
    fitted = nearest.refit(candidates, task, nearest.choose(candidates, task))
    assert torch.equal(fitted.predict(features), labels)


def test_k_is_at_most_the_number_of_rows() -> None:
    features, labels = informative(60, seed=3)
    candidates, task = Candidates(features, [GOOD_SPACE], CPU), task_of(labels)
    chosen = Nearest(k=(500,)).choose(candidates, task)
    assert chosen.setting == {"k": 54}  # the number of fit rows
    assert isinstance(chosen.facts.setting["k"], int)


def test_constant_features_become_zero() -> None:
    matrix = torch.stack([torch.full((50,), 1e4), torch.arange(50.0), torch.zeros(50)], dim=1)
    standardized = Standardizer.of(matrix).apply_(matrix.clone())
    assert standardized[:, [0, 2]].abs().max() < 1e-2
    torch.testing.assert_close(standardized[:, 1].std(correction=0), torch.tensor(1.0))


def test_a_feature_that_is_constant_in_the_fit_is_ignored_where_it_varies() -> None:
    matrix = torch.stack([torch.zeros(50), torch.arange(50.0)], dim=1)
    standardize = Standardizer.of(matrix)
    assert torch.equal(standardize.apply_(torch.tensor([[1e6, 24.5]])), torch.tensor([[0.0, 0.0]]))


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
def test_any_scale_that_float32_can_hold_is_standardized(scale: float) -> None:
    matrix = (torch.arange(50.0) * scale)[:, None]
    deviation = Standardizer.of(matrix).apply_(matrix).std(correction=0)
    torch.testing.assert_close(deviation, torch.tensor(1.0))


@pytest.mark.parametrize("probe", [LINEAR, Nearest(k=(5,))], ids=["logistic", "knn"])
def test_a_feature_never_active_in_training_does_not_decide_a_prediction(probe: Linear | Nearest) -> None:
    features, labels = informative(300, 0)
    dead = Features({GOOD: torch.cat([features.parts[GOOD][:, :3], torch.zeros(300, 1)], 1)}, features.index)
    candidates, task = Candidates(dead, [GOOD_SPACE], CPU), task_of(labels)
    fitted = probe.refit(candidates, task, probe.choose(candidates, task))
    active = Features({GOOD: dead.parts[GOOD] + torch.tensor([0.0, 0.0, 0.0, 1e5])}, features.index)
    assert torch.equal(fitted.predict(active), fitted.predict(dead))


def test_features_that_the_searched_rows_lack_get_their_own_preconditioner() -> None:
    features, _ = informative(300, 0)
    matrix = features.parts[GOOD] - features.parts[GOOD].mean(0)
    candidates = Candidates(features, [GOOD_SPACE], CPU)
    lacking = matrix.clone()
    lacking[:, 3] = 0
    first = candidates.preconditioner(GOOD_SPACE, lacking)
    assert candidates.preconditioner(GOOD_SPACE, lacking[:150]) is first
    second = candidates.preconditioner(GOOD_SPACE, matrix)
    assert second is not first
    assert candidates.preconditioner(GOOD_SPACE, matrix) is second


@pytest.mark.parametrize("kind", ["logistic", "ridge"])
def test_the_default_grid_is_half_decades_weakest_first(kind: str) -> None:
    strengths = Linear.model_validate({"kind": kind}).strengths
    assert list(strengths) == sorted(strengths)
    for weaker, stronger in pairwise(strengths):
        assert stronger / weaker == pytest.approx(10**0.5, rel=0.01)
