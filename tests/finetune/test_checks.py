"""Checks of the measurement: labels at random give chance, a leak is seen, and an encoder that changes is caught."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import scipy.stats
import torch
from torch import Tensor, nn

import retouch
from common.data import Labels
from finetune import checks
from finetune.checks import null_check, null_of_repetitions, state_digests
from finetune.features import Features
from finetune.metrics import confusion_matrix
from finetune.pooling import Space
from finetune.probes import Candidates, Fitted, Linear, Search
from finetune.records import Checks
from finetune.results import ProbeResult


def probed(out: Path, encoder: Path, **changes: Any) -> ProbeResult:
    config: dict[str, Any] = {
        "out": str(out),
        "encoder": str(encoder),
        "data": {"train": "shapes", "task": "color", "limit": 400, "test_limit": 80, "workers": 0},
        "probe": {"l2": [1e-2], "layers": [-1], "poolings": ["avg"]},
        "knn": None,
        "baselines": {"pixels": False},
        "properties": False,
        "damage": [],
        "precision": "float32",
        "feature_cache": False,
        "wandb": {"mode": "disabled"},
    }
    report = retouch.probe(config | changes)
    result = report.results[0]
    checked = result.checks
    assert checked is not None
    failed = not checked.frozen or (checked.null is not None and checked.null.above_chance)
    assert any("should not happen" in note or "at random" in note for note in report.notes) == failed
    return result


def of(result: ProbeResult) -> Checks:
    assert result.checks is not None
    return result.checks


# ---- labels at random


def test_variance_is_that_over_all_orders_of_the_names() -> None:
    """The mean and variance of the accuracy over all 4! orders, by counting."""
    labels, answers = torch.arange(40) % 4, torch.tensor([1, 2, 2, 3] * 7 + [0] * 12)
    confusion = confusion_matrix(answers, labels, 4)
    accuracies = torch.stack(
        [(torch.tensor(order)[answers] == labels).double().mean() for order in itertools.permutations(range(4))]
    )
    assert accuracies.mean() == pytest.approx(1 / 4)
    shares = confusion.double() / 40
    centered = shares - shares.mean(1, keepdim=True) - shares.mean(0, keepdim=True) + shares.mean()
    assert centered.square().sum() / 3 == pytest.approx(accuracies.var(correction=0))
    found = null_check(confusion[None], 100)
    assert found.accuracy == pytest.approx((answers == labels).double().mean())
    assert (found.chance, found.images, found.repetitions) == (0.25, 100, 1)
    rest = centered.square().sum() - (found.accuracy - 0.25) ** 2 / 3  # without the direction of the accuracy itself
    half = 2.3060041350333704 * (rest / 8 * 3).sqrt()  # Student's t, 8 degrees of freedom
    assert found.ci95[1] - found.accuracy == pytest.approx(float(half))
    # Student's t at 2.3060041350333704 leaves 2.5% above it, so a one-sided p of 0.025 is an excess of `half`
    slope = (found.accuracy - 0.25) / float(half) * 2.3060041350333704
    assert found.p_value == pytest.approx(scipy.stats.t(8).sf(slope))


def test_classes_that_are_always_confused_alike_are_no_alarm() -> None:
    """Every dog a cat, and every cat a dog: one lucky order of the names would be right on all."""
    right = null_check(
        torch.stack([torch.eye(2, dtype=torch.int64) * 500, torch.eye(2, dtype=torch.int64).flip(0) * 500]), 9
    )
    assert not right.above_chance


def test_answers_that_know_the_labels_are_above_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(2000) % 8
    answers = torch.randint(8, (2000,), generator=generator)
    assert not null_check(confusion_matrix(answers, labels, 8)[None], 9).above_chance
    answers[:200] = labels[:200]
    assert null_check(confusion_matrix(answers, labels, 8)[None], 9).above_chance


def test_scores_without_names_to_exchange_have_the_t_interval_of_their_excess() -> None:
    scores, chance = [0.31, 0.28, 0.35, 0.30], [0.30, 0.29, 0.31, 0.30]
    found = null_of_repetitions(scores, chance, 50)
    excess = [a - b for a, b in zip(scores, chance, strict=True)]
    by_scipy = scipy.stats.ttest_1samp(excess, 0, alternative="greater")
    low, high = scipy.stats.ttest_1samp(excess, 0).confidence_interval(0.95)
    assert found.accuracy == pytest.approx(0.31)
    assert found.chance == pytest.approx(0.3)
    assert found.ci95 == pytest.approx((0.3 + low, 0.3 + high))
    assert found.p_value == pytest.approx(by_scipy.pvalue)
    assert (found.images, found.repetitions) == (50, 4)
    nothing = null_of_repetitions([0.3 + 1e-17] * 3, [0.3] * 3, 50)
    assert nothing.p_value == 1.0
    assert null_of_repetitions([0.9] * 3, [0.3] * 3, 50).above_chance


def test_an_accuracy_that_one_check_in_forty_has_by_chance_is_no_alarm() -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(2000) % 8
    drawn = [torch.randint(8, (2000,), generator=generator) for _ in range(200)]
    found = [null_check(confusion_matrix(answers, labels, 8)[None], 9) for answers in drawn]
    high = [one for one in found if one.ci95[0] > one.chance]
    assert 2 <= len(high) <= 12
    assert sum(one.above_chance for one in found) <= 1


@pytest.mark.parametrize(("classes", "once"), [(2, 9), (3, 3), (4, 1), (8, 1)])
def test_few_classes_are_repeated(classes: int, once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[range] = []

    def answers(*given: Any) -> checks.RandomAnswers:
        asked.append(given[-1])
        return checks.RandomAnswers(torch.eye(classes, dtype=torch.int64)[None], 60, 0)

    monkeypatch.setattr(checks, "random_answers", answers)
    labels = Labels(torch.arange(60) % classes, tuple(map(str, range(classes))), "task")
    test = Features({}, torch.arange(5))
    candidates = Candidates(test, [], torch.device("cpu"))
    checks.check_null(Linear(), Search(), 0, candidates, Space((), (), (), 0), labels, test, torch.zeros(5))
    assert asked == [range(once)]


def test_random_labels_give_chance_and_leave_the_probe_alone(tmp_path: Path, encoder: Path) -> None:
    with_, without = (probed(tmp_path / str(on), encoder, null_check=on) for on in (True, False))
    null = of(with_).null
    assert null is not None
    assert (null.images, null.repetitions, null.chance) == (400, 1, 1 / 8)
    assert null.ci95[0] < 1 / 8 < null.ci95[1]
    assert of(with_).missing == {}
    assert of(without).null is None
    assert of(without).missing == {"null": "switched off (null_check)"}
    assert with_.linear.test == without.linear.test


def test_a_probe_that_is_told_test_labels_is_caught(
    tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = torch.arange(80)  # overwritten by the labels, once they are known
    scored = confusion_matrix

    def watched(predictions: Tensor, labels: Tensor, classes: int) -> Tensor:
        answers.copy_(labels)
        return scored(predictions, labels, classes)

    predict = Fitted.predict

    def leaky(self: Fitted, features: Any) -> Tensor:
        said = predict(self, features)
        return torch.where(torch.arange(len(said)) % 2 == 0, answers, said) if len(said) == 80 else said

    probed(tmp_path / "first", encoder)
    monkeypatch.setattr(checks, "confusion_matrix", watched)
    probed(tmp_path / "second", encoder)
    monkeypatch.setattr(Fitted, "predict", leaky)
    null = of(probed(tmp_path / "leak", encoder)).null
    assert null is not None
    assert null.above_chance
    assert null.accuracy > 0.5


# ---- frozen


def test_digest_sees_every_tensor() -> None:
    def module() -> nn.Module:
        torch.manual_seed(0)
        found = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        found.register_buffer("constant", torch.ones(2), persistent=False)
        return found

    same = module().to(memory_format=torch.channels_last)
    assert state_digests([module()]) == state_digests([same])
    changes = [
        lambda it: it[0].bias.data.add_(1e-7),
        lambda it: it[1].running_mean.add_(1),
        lambda it: it[1].num_batches_tracked.add_(1),
        lambda it: it.constant.add_(1),
    ]
    for change in changes:
        changed = module()
        change(changed)
        assert state_digests([changed]) != state_digests([module()])


def test_an_encoder_in_train_mode_is_caught(tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = of(probed(tmp_path / "frozen", encoder))
    assert sound.frozen
    assert {"encoder", "random_init"} <= sound.sha256.keys()
    assert all(before == after and len(before) == 64 for before, after in sound.sha256.values())
    assert sound.sha256["encoder"] != sound.sha256["random_init"]
    written = json.loads((tmp_path / "frozen" / "results.json").read_text())["results"][0]["checks"]
    assert written["sha256"]["encoder"] == list(sound.sha256["encoder"])
    del written["sha256"]  # as older versions wrote it
    assert Checks.model_validate(written) == sound.model_copy(update={"sha256": {}})
    forward = nn.BatchNorm2d.forward

    def training(self: nn.BatchNorm2d, images: Tensor) -> Tensor:
        self.training = True
        return forward(self, images)

    monkeypatch.setattr(nn.BatchNorm2d, "forward", training)
    thawed = of(probed(tmp_path / "thawed", encoder))
    assert not thawed.frozen
    before, after = thawed.sha256["encoder"]
    assert (before, after != before) == (sound.sha256["encoder"][0], True)
