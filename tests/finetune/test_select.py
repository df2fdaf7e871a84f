"""Choosing: on validation alone, the simpler of equals, refitted on everything."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from common.data import Labels
from common.errors import UserError
from finetune.config import LinearConfig, NearestConfig
from finetune.features import Features
from finetune.pooling import Part, Space
from finetune.select import (
    Candidates,
    Standardiser,
    Task,
    build_task,
    choose_linear,
    choose_nearest,
    predict_nearest,
    refit_linear,
)
from finetune.solvers.logistic import fit_logistic

CPU = torch.device("cpu")
GOOD, BAD = Part(0, "avg"), Part(1, "avg")
GOOD_SPACE, BAD_SPACE = Space((0,), ("avg",), (GOOD,), 4), Space((1,), ("avg",), (BAD,), 2)
CONFIG = LinearConfig(l2=(1e-4, 1e-2, 1.0))


def informative(n: int, seed: int) -> tuple[Features, torch.Tensor]:
    """Layer 0 tells the three classes apart, mostly; layer 1 is noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    good = torch.nn.functional.one_hot(labels, 4) * 3.0 + torch.randn(n, 4, generator=generator) + 5
    return Features({GOOD: good, BAD: torch.randn(n, 2, generator=generator)}, torch.arange(n)), labels


def task_of(labels: torch.Tensor, test: torch.Tensor, search: int | None = None) -> Task:
    names = ("a", "b", "c")
    return build_task(Labels(labels, names, "t"), Labels(test, names, "t"), 0.1, search, seed=0)


def test_the_validation_split_is_a_tenth_stratified_and_disjoint() -> None:
    labels = torch.arange(300) % 3
    task = task_of(labels, labels)
    assert (len(task.fit), len(task.validation)) == (270, 30)
    assert torch.bincount(labels[task.validation]).tolist() == [10, 10, 10]
    assert sorted(torch.cat([task.fit, task.validation]).tolist()) == list(range(300))
    assert torch.equal(task.search, task.fit)


def test_search_rows_are_a_stratified_part_of_the_fit_rows() -> None:
    labels = torch.arange(300) % 3
    task = task_of(labels, labels, search=90)
    assert torch.bincount(labels[task.search]).tolist() == [30, 30, 30]
    assert set(task.search.tolist()) <= set(task.fit.tolist())


def test_too_few_images_to_hold_any_out_are_refused() -> None:
    labels = torch.tensor([0, 1, 2])
    with pytest.raises(UserError, match="too few"):
        task_of(labels, labels)


@pytest.mark.parametrize("kind", ["logistic", "ridge"])
@pytest.mark.parametrize("search", [None, 60])
def test_the_informative_layer_is_chosen(kind: str, search: int | None) -> None:
    features, labels = informative(300, 0)
    config = LinearConfig.model_validate({"kind": kind, "l2": CONFIG.l2, "finalists": 1})
    candidates = Candidates(features, [BAD_SPACE, GOOD_SPACE], CPU)
    task = task_of(labels, labels, search)
    choice = choose_linear(candidates, task, config)
    assert choice.space == GOOD_SPACE
    assert choice.val_accuracy > 0.8
    assert choose_nearest(candidates, task, NearestConfig(), 1).space == GOOD_SPACE


def test_the_widest_space_is_compared_on_all_rows_however_badly_few_rows_suit_it() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(900) % 3
    signal = torch.nn.functional.one_hot(labels, 3).float()
    parts, spaces = {}, []
    # the wide one has more to say, spread over so many features that 24 rows do not find it
    for layer, (width, strength) in enumerate([(3, 1.5), (6, 0.5), (120, 0.4)]):
        part = Part(layer, "avg")
        parts[part] = strength * signal.repeat(1, width // 3) + torch.randn(900, width, generator=generator)
        spaces.append(Space((layer,), ("avg",), (part,), width))
    candidates = Candidates(Features(parts, torch.arange(900)), spaces, CPU)
    config = LinearConfig(l2=(1e-2,), finalists=1)
    few = task_of(labels, labels, search=24)
    assert choose_linear(candidates, replace(few, fit=few.search), config).space != spaces[-1]
    assert choose_linear(candidates, few, config).space == spaces[-1]


def test_test_labels_and_test_features_play_no_part_in_the_choice() -> None:
    features, labels = informative(300, 0)
    candidates = Candidates(features, [BAD_SPACE, GOOD_SPACE], CPU)
    one = task_of(labels, labels)
    other = task_of(labels, torch.full((7,), 2))
    assert choose_linear(candidates, one, CONFIG) == choose_linear(candidates, other, CONFIG)
    k = NearestConfig()
    assert choose_nearest(candidates, one, k, 2) == choose_nearest(candidates, other, k, 2)


def test_validation_labels_decide() -> None:
    features, labels = informative(300, 0)
    task = task_of(labels, labels)
    spoiled = labels.clone()
    spoiled[task.validation] = (spoiled[task.validation] + 1) % 3
    choice = choose_linear(
        Candidates(features, [BAD_SPACE, GOOD_SPACE], CPU),
        Task("t", task.classes, spoiled, labels, task.fit, task.validation, task.fit),
        CONFIG,
    )
    assert choice.space == BAD_SPACE  # the informative layer is now nearly always wrong there


def test_on_a_tie_the_narrower_space_and_the_stronger_penalty_win() -> None:
    features, labels = informative(300, 0)
    features.parts[GOOD][:, :3] += 100.0 * torch.nn.functional.one_hot(labels, 3)  # every strength is perfect
    wide = Space((0,), ("avg", "max"), (GOOD, BAD), 6)
    choice = choose_linear(Candidates(features, [wide, GOOD_SPACE], CPU), task_of(labels, labels), CONFIG)
    assert (choice.space, choice.value, choice.at_end) == (GOOD_SPACE, 1.0, True)


def test_the_refit_uses_all_of_the_training_set() -> None:
    features, labels = informative(300, 0)
    task = task_of(labels, labels)
    candidates = Candidates(features, [GOOD_SPACE], CPU)
    choice = choose_linear(candidates, task, CONFIG)
    linear = refit_linear(candidates, task, choice, CONFIG)
    matrix = features.matrix(GOOD_SPACE)
    standardised = (matrix - matrix.mean(0)) / matrix.std(0, correction=0)
    expected = fit_logistic(standardised, labels, 3, [choice.value], tolerance=1e-8)
    torch.testing.assert_close(linear.fit.objective, expected.objective, rtol=1e-5, atol=0)
    torch.testing.assert_close(linear.fit.weight, expected.weight, rtol=0.02, atol=0.01)
    assert (linear.predict(features) == labels).float().mean() > 0.85


def test_new_rows_are_standardised_by_training_statistics() -> None:
    features, labels = informative(300, 0)
    candidates = Candidates(features, [GOOD_SPACE], CPU)
    task = task_of(labels, labels)
    linear = refit_linear(candidates, task, choose_linear(candidates, task, CONFIG), CONFIG)
    # one row alone has no statistics of its own: it must get the answer it gets among others
    one = Features({GOOD: features.parts[GOOD][5:6]}, torch.arange(1))
    assert linear.predict(one)[0] == linear.predict(features)[5]


def test_nearest_neighbours_are_sought_among_all_training_rows() -> None:
    features, labels = informative(300, 0)
    task = task_of(labels, labels)
    candidates = Candidates(features, [GOOD_SPACE], CPU)
    config = NearestConfig(k=(1,))
    choice = choose_nearest(candidates, task, config, 1)
    # each training row is its own nearest neighbour, those of the validation split too
    assert torch.equal(predict_nearest(candidates, features, task, choice, config), labels)


def test_constant_features_become_zero() -> None:
    matrix = torch.stack([torch.full((50,), 1e4), torch.arange(50.0), torch.zeros(50)], dim=1)
    standardised = Standardiser.of(matrix).apply_(matrix.clone())
    assert standardised[:, [0, 2]].abs().max() < 1e-2
    torch.testing.assert_close(standardised[:, 1].std(correction=0), torch.tensor(1.0))


def test_no_more_neighbours_are_chosen_than_there_are_to_ask() -> None:
    features, labels = informative(60, seed=3)
    candidates, task = Candidates(features, [GOOD_SPACE], CPU), task_of(labels, labels)
    assert choose_nearest(candidates, task, NearestConfig(k=(500,)), 1).value == 54  # so many are left to choose on
