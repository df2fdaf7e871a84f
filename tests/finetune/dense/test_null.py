"""The null check of masks: masks of other images teach nothing, and a probe that knows the test masks is caught."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from finetune.dense import null
from finetune.dense.cells import enlarge, fewer_pixels
from finetune.dense.null import Exchange, other_images
from finetune.dense.passes import maps_of
from finetune.probe import probe
from finetune.records import NullCheck
from finetune.results import ProbeReport
from tests.finetune.dense.masked_pictures import config_of, loaded


def probed(here: Path, out: Path, **changes: Any) -> ProbeReport:
    quick: dict[str, Any] = {"baselines": {"random_init": False, "pixels": False}, "null_check": True}
    return probe(config_of(here, out, **(quick | changes)), show=False)


def null_of(report: ProbeReport) -> NullCheck:
    [result] = report.dense
    assert result.checks.null is not None
    return result.checks.null


def test_exchanged_masks_give_chance(here: Path, tmp_path: Path) -> None:
    report = probed(here, tmp_path / "out")
    found, [result] = null_of(report), report.dense
    assert (found.images, found.repetitions) == (60, 9)
    assert not found.above_chance
    assert found.accuracy < 0.5 < result.subjects["encoder"].test.mean_iou
    assert not any("at random" in note for note in report.notes)


def test_a_probe_that_is_told_the_test_masks_is_caught(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth: list[Tensor] = []

    def watched(*given: Any) -> Iterator[Any]:
        for batch in maps_of(*given):
            truth[:] = [batch.truth]
            yield batch

    def leaky(scores: Tensor, side: int) -> Tensor:
        told = fewer_pixels(truth[0], side).clamp_min(0)
        return enlarge(scores, side) + 100 * one_hot(told, scores.shape[1]).permute(0, 3, 1, 2)

    monkeypatch.setattr(null, "maps_of", watched)
    monkeypatch.setattr(null, "enlarge", leaky)
    report = probed(here, tmp_path / "out")
    found = null_of(report)
    assert found.accuracy > 0.9
    assert found.above_chance
    assert any("the mean IoU of the linear probe is" in note for note in report.notes)


def test_masks_that_are_not_exchanged_are_no_chance(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Exchange, "truth", lambda self, some, index: some.truth(index))
    found = null_of(probed(here, tmp_path / "out"))
    assert found.accuracy > 0.7
    assert found.above_chance


def test_training_masks_are_exchanged_and_each_is_rolled(here: Path) -> None:
    train = loaded(here).train
    exchange = Exchange.drawn(60, 16, np.random.default_rng(0))
    assert sorted(exchange.rows.tolist()) == list(range(60))
    found, own = exchange.truth(train, torch.arange(60)), train.truth(exchange.rows)
    for rolled, mask, (down, right) in zip(found, own, exchange.by.tolist(), strict=True):
        assert torch.equal(rolled.roll((-down, -right), (0, 1)), mask)


def test_chance_is_that_of_the_masks_of_other_images() -> None:
    others = other_images(40, np.random.default_rng(1))
    assert sorted(others.tolist()) == list(range(40))
    assert not bool((others == torch.arange(40)).any())
