"""k-NN on whitened features, against scikit-learn."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsClassifier

from finetune.features import Features
from finetune.probes import Candidates, Nearest
from tests.finetune.probes.features import CPU, GOOD, GOOD_SPACE, informative, task_of


def drowned(n: int, seed: int) -> tuple[Features, torch.Tensor]:
    """Classes that differ in the last of four directions, of which the first is three copies of noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    noise, light = torch.randn(n, 1, generator=generator), torch.randn(n, 1, generator=generator)
    copies = noise + 1e-2 * torch.randn(n, 3, generator=generator)
    copies[:, 2:] += 0.2 * (labels[:, None] - 1) + 0.02 * light
    return Features({GOOD: torch.cat([copies, light], 1)}, torch.arange(n)), labels


def test_whitened_neighbors_are_those_of_scikit_learn() -> None:
    features, labels = informative(240, 0)
    test, _ = informative(60, 1)
    candidates, task, one = Candidates(features, [GOOD_SPACE], CPU), task_of(labels), Nearest(k=(7,), whiten=(3,))
    chosen = one.choose(candidates, task)
    assert chosen.setting == {"k": 7, "whiten": 3}
    answers = one.refit(candidates, task, chosen).predict(test)

    def votes(distance: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.exp((1 - distance) / 0.07))

    def standardized(rows: Features) -> NDArray[np.float64]:
        matrix, fitted = rows.parts[GOOD].double(), features.parts[GOOD].double()
        return np.asarray(((matrix - fitted.mean(0)) / fitted.std(0)).numpy())

    pca = PCA(3, whiten=True).fit(standardized(features))
    reference = KNeighborsClassifier(7, metric="cosine", algorithm="brute", weights=votes)
    reference.fit(pca.transform(standardized(features)), labels.numpy())
    expected = torch.from_numpy(reference.predict(pca.transform(standardized(test))))
    assert (answers != expected).sum() <= 1  # a tie within rounding


def test_whitening_is_chosen_where_it_helps_and_left_out_where_it_does_not() -> None:
    features, labels = drowned(600, 0)
    one = Nearest(k=(10,), whiten=(0, 4))
    chosen = one.choose(Candidates(features, [GOOD_SPACE], CPU), task_of(labels))
    assert chosen.setting == {"k": 10, "whiten": 4}
    assert chosen.facts.text.endswith("k 10, whiten 4")
    plain, labels = informative(600, 0)
    chosen = one.choose(Candidates(plain, [GOOD_SPACE], CPU), task_of(labels))
    best = Nearest(k=(10,)).choose(Candidates(plain, [GOOD_SPACE], CPU), task_of(labels))
    assert chosen.val_accuracy >= best.val_accuracy


def test_every_setting_of_the_grid_is_scored_as_if_it_were_alone() -> None:
    features, labels = informative(200, 0)
    candidates, task = Candidates(features, [GOOD_SPACE], CPU), task_of(labels)
    one = Nearest(k=(5, 20), whiten=(0, 2, 4))
    grid = one.grid(task)
    assert grid == [
        *({"k": 5, "whiten": 4}, {"k": 20, "whiten": 4}, {"k": 5, "whiten": 2}, {"k": 20, "whiten": 2}),
        *({"k": 5}, {"k": 20}),
    ]
    [fold] = task.folds
    split = one.split(candidates, GOOD_SPACE, task, fold)
    together = one.fit(split.rows, grid, final=False).predict(split.held)
    for place, setting in enumerate(grid):
        alone = one.fit(split.rows, [setting], final=True)
        assert torch.equal(alone.predict(split.held)[0], together[place])
        assert torch.equal(alone.answers(split.held).classes, together[place])


def test_equal_accuracy_leaves_the_features_as_they_are() -> None:
    """Whitening two independent features changes nothing: the simpler choice wins."""
    labels = torch.arange(300) % 3
    features = Features({GOOD: torch.nn.functional.one_hot(labels, 4).float() * 3}, torch.arange(300))
    chosen = Nearest(k=(5,), whiten=(0, 2)).choose(Candidates(features, [GOOD_SPACE], CPU), task_of(labels))
    assert chosen.setting == {"k": 5}


def test_the_protocol_names_the_choice() -> None:
    assert Nearest().text == "k-NN (temperature 0.07)"
    text = "k-NN (temperature 0.07, whitened components: none or first 64 or first 256)"
    assert Nearest(whiten=(256, 0, 64)).text == text
