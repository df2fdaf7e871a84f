"""Fine-tuning: the same loop, the step chosen on validation, tested once, readable by plain timm."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from common.data import build_source, load_images
from common.encoders import EncoderConfig
from common.encoders.load import load_classifier, load_encoder, read_encoder_card
from common.machine.distributed import World
from common.pixels import to_float
from finetune import full as stage
from finetune.data import Sources, load_labeled, open_sources
from finetune.full import finetune as run_stage
from finetune.results import read_results
from finetune.supervised import predict
from tests.finetune.toys import Shuffled
from tests.finetune.tuning import config, exported, finetune, validation_looks, weights, without_time
from tests.offline_wandb import history, offline_records, settings


def test_result_equals_the_score_of_the_exported_classifier_on_the_test_set(tmp_path: Path) -> None:
    run = config(tmp_path / "run", encoder=exported(tmp_path / "encoder"))
    result = finetune(run)
    assert read_results(tmp_path / "run") == result
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == result.model_dump(mode="json")
    classifier = load_classifier(tmp_path / "run" / "classifier")
    images = load_images(build_source("shapes", split="test"), 16, limit=80)
    labels = images.labels("color").values
    with torch.inference_mode():
        answers = classifier(to_float(images.rows(torch.arange(80)))).argmax(1)
    tuned = result.tuned
    assert tuned.test.accuracy == pytest.approx(float((answers == labels).double().mean()))
    assert (tuned.n_train, tuned.n_val, tuned.test.n) == (180, 20, 80)
    looks = validation_looks(run.out)
    assert list(looks) == [2, 4, 6]
    assert tuned.choice.val_accuracy == max(looks.values())
    assert tuned.choice.step == max(looks, key=looks.__getitem__)  # ties go to the first step
    assert sum(map(sum, tuned.test.confusion)) == 80
    assert result.checks is not None
    assert (result.checks.frozen, result.checks.null) == (None, None)
    assert result.checks.missing == {"frozen": "the network is trained", "null": "no linear probe was run"}


def test_test_labels_change_only_the_accuracy_not_training_or_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"encoder": exported(tmp_path / "encoder"), "steps": 12, "evaluate_every": 1, "base_lr": 0.1}
    one = finetune(config(tmp_path / "one", **changes))

    def shuffled(*given: Any) -> Sources:
        train, test = open_sources(*given)
        return Sources(train, Shuffled(test))

    monkeypatch.setattr(stage, "open_sources", shuffled)
    other = finetune(config(tmp_path / "other", **changes))
    assert one.tuned.test.confusion != other.tuned.test.confusion
    assert one.tuned.choice == other.tuned.choice
    assert one.tuned.choice.step < 12  # chosen early
    assert weights(tmp_path / "one") == weights(tmp_path / "other")
    assert one.calibration is not None
    assert other.calibration is not None
    assert one.calibration.temperature == other.calibration.temperature
    assert one.calibration.error_before != other.calibration.error_before


@pytest.mark.parametrize("rank", [0, 1])
def test_rank_0_opens_the_sources_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int) -> None:
    events: list[str] = []
    monkeypatch.setattr(World, "barrier", lambda self: events.append("barrier"))

    def opened(*given: Any) -> Sources:
        events.append("opened")
        return open_sources(*given)

    monkeypatch.setattr(stage, "open_sources", opened)
    stage.open_images(config(tmp_path / "run", encoder=tmp_path), World(rank, 2, torch.device("cpu")))
    assert events == [["opened", "barrier"], ["barrier", "opened"]][rank]


def test_run_stopped_by_a_signal_and_resumed_ends_bit_for_bit_like_one_never_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the best step comes before the stop: its weights must come back too
    training = {"steps": 12, "evaluate_every": 1, "base_lr": 0.2, "seed": 1}
    changes = {"encoder": exported(tmp_path / "encoder"), **training}
    whole = finetune(config(tmp_path / "whole", **changes))
    stop = whole.tuned.choice.step + 1
    assert stop < 11  # the signal is seen one step later, which must not be the last
    real, looks = predict, iter(range(1, 100))

    def interrupted(*given: Any) -> Any:
        if next(looks) == stop:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(stage, "predict", interrupted)
        assert run_stage(config(tmp_path / "run", **changes)) is None
    assert not (tmp_path / "run" / "classifier").exists()
    resumed = finetune(config(tmp_path / "run", **changes, resume=True))
    assert without_time(resumed) == without_time(whole)
    assert weights(tmp_path / "run") == weights(tmp_path / "whole")
    assert validation_looks(tmp_path / "run") == validation_looks(tmp_path / "whole")


def test_finished_run_that_is_resumed_logs_its_test_once(tmp_path: Path) -> None:
    run = config(tmp_path / "run", encoder=exported(tmp_path / "encoder"), steps=2)
    finetune(run)
    lines = (run.out / "metrics.jsonl").read_text()
    assert lines.count("color/test_accuracy") == 1
    finetune(run.model_copy(update={"resume": True}))
    assert (run.out / "metrics.jsonl").read_text() == lines


def test_wandb_holds_the_encoder_it_started_from_and_the_test_result(tmp_path: Path) -> None:
    start = exported(tmp_path / "encoder")
    run = config(tmp_path / "run", encoder=start, steps=2, wandb={"mode": "offline"})
    result = finetune(run)
    rows = history(run.out)
    found = [row for row in rows if "color/test_accuracy" in row]
    assert [row["color/test_accuracy"] for row in found] == [result.tuned.test.accuracy]
    assert any(name.startswith("results") for row in rows for name in row)
    assert settings(run.out)["encoder_sha256"] == read_encoder_card(start).sha256
    summary = {item.key: item.value_json for part in offline_records(run.out, "summary") for item in part.update}
    assert json.loads(summary["color/test_accuracy"]) == result.tuned.test.accuracy
    assert json.loads(summary["best_step"]) == result.tuned.choice.step
    last = json.loads((run.out / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["color/test_accuracy"] == result.tuned.test.accuracy


def test_fine_tuned_timm_model_opens_in_plain_timm_with_the_same_logits(tmp_path: Path) -> None:
    start = exported(tmp_path / "encoder", EncoderConfig(name="timm/test_convnext"), image_size=32)
    finetune(config(tmp_path / "run", encoder=start, steps=2))
    ours = load_classifier(tmp_path / "run" / "classifier")
    plain = timm.create_model(f"local-dir:{tmp_path / 'run' / 'classifier'}", pretrained=True).eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.allclose(plain(ours.encoder.prepare(images)), ours(images), atol=1e-5)


def test_encoder_trained_on_labels_can_be_loaded_like_any_other(tmp_path: Path) -> None:
    scratch = {"name": "small_cnn", "model_args": {"width": 8}, "from_scratch": True, "image_size": 16}
    finetune(config(tmp_path / "run", encoder=scratch, steps=2))
    encoder = load_encoder(tmp_path / "run" / "encoder")
    assert encoder(torch.rand(1, 3, 16, 16)).shape == (1, *encoder.map_shape)


def test_encoder_fine_tuned_at_another_size_says_so_and_is_exported_for_that_size(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start = exported(tmp_path / "encoder")
    data = {"train": "shapes", "task": "color", "limit": 200, "test_limit": 80, "workers": 0, "image_size": 32}
    result = finetune(config(tmp_path / "run", encoder=start, steps=2, data=data))
    assert "data.image_size=32, but small_cnn was built for images of 16 px" in caplog.text
    classifier = load_classifier(tmp_path / "run" / "classifier")
    encoder = load_encoder(tmp_path / "run" / "encoder")
    assert classifier.encoder.image_size == encoder.image_size == result.data.image_size == 32
    images = load_images(build_source("shapes", split="test"), 32, limit=80)
    with torch.inference_mode():
        answers = classifier(to_float(images.rows(torch.arange(80)))).argmax(1)
    accuracy = float((answers == images.labels("color").values).double().mean())
    assert result.tuned.test.accuracy == pytest.approx(accuracy)


def test_images_that_are_decoded_already_give_the_same_run(tmp_path: Path) -> None:
    scratch = {"name": "small_cnn", "model_args": {"width": 8}, "from_scratch": True, "image_size": 16}
    opened = config(tmp_path / "opened", encoder=scratch)
    other = {"train": "shapes", "task": "color", "limit": 20, "workers": 0}  # which would give another run
    decoded = config(tmp_path / "decoded", encoder=scratch, data=other)
    sources = open_sources(opened.data, opened.seed, opened.validation)
    images = load_labeled(sources, opened.data, 16, opened.seed)
    expected, result = finetune(opened), run_stage(decoded, images)
    assert result is not None
    assert without_time(result) == without_time(expected)
    assert weights(tmp_path / "decoded") == weights(tmp_path / "opened")
