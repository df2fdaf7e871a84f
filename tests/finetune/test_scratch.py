"""Training from scratch with fewer labels: it sees only the drawn labels, and appears in the curves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import retouch
from common.config import validate
from common.errors import UserError
from finetune.config import FinetuneConfig, LabelEfficiencyConfig, ProbeConfig
from finetune.data import LabeledImages, load_labeled, open_sources
from finetune.efficiency import label_efficiency
from finetune.predictions import read_predictions
from finetune.results import FinetuneResult, read_results
from finetune.scratch import budgets, scratch_right
from tests.finetune.probing import ALONE, probing
from tests.finetune.toys import hits


def test_a_few_budgets_are_spread_over_those_that_are_enough() -> None:
    assert budgets([10, 20, 40, 100, 200, 400], 2) == [20, 100, 400]
    assert budgets([10, 400], 2) == [400]
    assert budgets([30], 8) == [30]


def test_network_from_scratch_is_trained_on_drawn_labels_and_is_in_the_curves(
    tmp_path: Path, encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = {"shares": [0.2, 0.5], "draws": 2, "from_scratch": True, "scratch_steps": 2}
    report = retouch.probe(probing(tmp_path / "out", encoder, limit=200, label_efficiency=asked))
    found = report.results[0].label_efficiency
    assert found is not None
    assert list(found.curves) == ["encoder", "random_init", "pixels", "from_scratch"]
    assert [(point.labels, len(point.draws)) for point in found.curves["from_scratch"]] == [(100, 2), (200, 2)]
    assert len(found.worth["from_scratch"]) == 3
    for point in found.curves["from_scratch"]:
        trained = []
        for draw, accuracy in enumerate(point.draws):
            run = tmp_path / "out" / "from_scratch" / f"color-{point.labels}-{draw + 1}"
            result = read_results(run)
            assert isinstance(result, FinetuneResult)
            assert result.start == "scratch"
            assert (result.tuned.n_train + result.tuned.n_val, result.tuned.choice.of_steps) == (point.labels, 2)
            assert result.tuned.test.accuracy == accuracy
            [said] = read_predictions(run)
            assert len(said.labels) == 60
            trained.append((run / "classifier" / "model.safetensors").read_bytes())
        assert trained[0] != trained[1]  # another draw, another seed
    printed = " ".join(capsys.readouterr().out.split())
    assert "training it from scratch" in printed


def test_what_the_encoder_has_seen_is_not_said_of_the_network_from_scratch(
    tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = validate(ProbeConfig, probing(tmp_path / "out", encoder, limit=200))
    images = load_labeled(open_sources(config.data, 0), config.data, 16, 0)
    seen = images.leaks._replace(pretraining=images.leaks.training, unseen=("on a server",))
    given: list[LabeledImages] = []

    def right(settings: FinetuneConfig, some: LabeledImages) -> Tensor:
        given.append(some)
        return torch.zeros(len(some.test), dtype=torch.bool)

    monkeypatch.setattr("finetune.scratch.train_once", right)
    how = LabelEfficiencyConfig(shares=(0.5,), draws=1, from_scratch=True)
    scratch_right(config, how, images._replace(leaks=seen), "color")
    assert len(given) == 2
    assert all(one.leaks.pretraining is None and not one.leaks.not_compared.get("in_pretraining") for one in given)


def test_fewer_trainings_than_draws_can_be_asked_for(tmp_path: Path, encoder: Path) -> None:
    asked = {"shares": [0.5], "draws": 3, "from_scratch": True, "scratch_steps": 2, "scratch_draws": 1}
    report = retouch.probe(probing(tmp_path / "out", encoder, limit=200, baselines=ALONE, label_efficiency=asked))
    found = report.results[0].label_efficiency
    assert found is not None
    assert [len(point.draws) for point in found.curves["encoder"]] == [3, 1]
    assert [len(point.draws) for point in found.curves["from_scratch"]] == [1, 1]
    assert (found.once("encoder"), found.once("from_scratch")) == (False, True)


def test_a_curve_of_fewer_budgets_is_read_off_as_the_others_are() -> None:
    found = label_efficiency(
        {
            "encoder": {100: hits(0.5, draws=3), 400: hits(0.6, draws=3), 1600: hits(0.9)},
            "from_scratch": {400: hits(0.4), 1600: hits(0.6)},
        }
    )
    few, some, _ = found.worth["from_scratch"]
    assert few.equals == 800  # half way from 400 to 1,600, on a logarithmic scale
    assert some.equals == 1600


def test_it_is_off_unless_asked_for_and_a_stopped_one_is_said(
    tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = retouch.probe(probing(tmp_path / "out", encoder, baselines=ALONE, label_efficiency=[0.5]))
    found = report.results[0].label_efficiency
    assert found is not None
    assert "from_scratch" not in found.curves
    assert not (tmp_path / "out" / "from_scratch").exists()
    monkeypatch.setattr("finetune.full.finetune", lambda *given: None)
    asked = {"shares": [0.5], "draws": 1, "from_scratch": True}
    with pytest.raises(UserError, match="training was stopped"):
        retouch.probe(probing(tmp_path / "again", encoder, baselines=ALONE, label_efficiency=asked))
