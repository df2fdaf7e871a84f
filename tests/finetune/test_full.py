"""Fine-tuning: the same loop, the step chosen on validation, tested once, readable by plain timm."""

from __future__ import annotations

import io
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file, save_file

from common.augment import WHOLE
from common.data import build_source, load_images
from common.encoders import Classifier, EncoderConfig, build_encoder, layer_decay_groups
from common.encoders.export import export_encoder
from common.encoders.load import load_classifier, load_encoder, read_encoder_card
from common.engine.schedule import seed_step
from common.errors import UserError
from common.machine.distributed import World
from common.pixels import to_float
from common.recipes import stage_config
from finetune import full as stage
from finetune.baselines import untrained
from finetune.config import FinetuneConfig, ProbeConfig
from finetune.data import Sources, load_labeled, open_sources
from finetune.full import finetune as run_stage
from finetune.lines import finetune_lines
from finetune.probe import probe
from finetune.records import NullCheck
from finetune.results import FinetuneResult, ProbeReport, read_results
from finetune.supervised import Supervised, decayed_groups, predict
from finetune.table import results_table
from tests.finetune.toys import Shuffled
from tests.offline_wandb import history, offline_records, settings
from tests.toys import new_timm


def exported(folder: Path, config: EncoderConfig | None = None, image_size: int = 16) -> Path:
    torch.manual_seed(0)
    config = config or EncoderConfig(model_args={"width": 8})
    export_encoder(build_encoder(config, image_size=image_size), folder)
    return folder


def config(out: Path, **changes: Any) -> FinetuneConfig:
    values: dict[str, Any] = {
        "out": out,
        "steps": 6,
        "batch_size": 16,
        "base_lr": 0.01,
        "precision": "float32",
        "data": {"train": "shapes", "task": "color", "limit": 200, "test_limit": 80, "workers": 0},
        "evaluate_every": 2,
        "compare": {"linear_probe": False, "from_scratch": False},
        "wandb": {"mode": "disabled"},
    }
    return FinetuneConfig.model_validate(values | changes)


def finetune(config: FinetuneConfig) -> FinetuneResult:
    """Fine-tune without being stopped."""
    result = run_stage(config)
    assert result is not None
    return result


def validation_looks(out: Path) -> dict[int, float]:
    """Validation accuracy by step."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["val/accuracy"] for row in rows if "val/accuracy" in row}


def without_time(result: FinetuneResult) -> FinetuneResult:
    return result.model_copy(update={"tuned": result.tuned.model_copy(update={"seconds": 0.0})})


def weights(out: Path) -> bytes:
    return (out / "classifier" / "model.safetensors").read_bytes()


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


@pytest.mark.usefixtures("few_strengths")
def test_it_learns_and_is_reported_with_its_linear_probe_and_from_scratch(tmp_path: Path) -> None:
    comparison = {"linear_probe": True, "from_scratch": True}
    start = exported(tmp_path / "encoder", EncoderConfig(model_args={"width": 16, "depth": 1}))
    run = config(tmp_path / "run", encoder=start, steps=60, evaluate_every=20, base_lr=0.05, compare=comparison)
    result = finetune(run)
    assert result.tuned.choice.val_accuracy > 0.3  # of 8 colors
    assert result.linear_probe is not None
    assert result.from_scratch is not None
    for baseline in (result.linear_probe, result.from_scratch):
        low, high = baseline.test.ci95
        assert low <= baseline.test.accuracy <= high
        assert baseline.test.n == 80
    scratch = read_results(run.out / "from_scratch")
    assert isinstance(scratch, FinetuneResult)
    assert result.from_scratch == scratch.tuned
    probed = read_results(run.out / "linear_probe")
    assert isinstance(probed, ProbeReport)
    assert probed.results[0].code is None  # only the accuracy is compared: code properties are not measured here
    assert result.linear_probe.model_copy(update={"compared": {}}) == probed.results[0].linear
    console = Console(file=io.StringIO(), width=100)
    console.print(results_table(finetune_lines(result)))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    linear = result.linear_probe
    for expected in (
        "[95% interval]",
        linear.choice.how,
        "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * x for x in (linear.test.accuracy, *linear.test.ci95))),
    ):
        assert expected in text


def test_of_several_tasks_one_has_to_be_named(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        finetune(config(tmp_path / "run", encoder=exported(tmp_path / "encoder"), data={"train": "shapes"}))
    assert str(error.value) == (
        "shapes:train:20000 has the tasks shape, color, texture, but fine-tuning trains on one: set data.task"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("few_strengths")
def test_its_linear_probe_is_that_of_the_probe_stage(tmp_path: Path) -> None:
    start = exported(tmp_path / "encoder", EncoderConfig(model_args={"width": 8, "depth": 1}))
    folder = tmp_path / "pictures"
    for number, name in enumerate("abcd"):  # with fewer classes, labels at random are tried more than once
        for row in range(30):
            noise = np.random.default_rng([number, row]).integers(0, 200, (20, 20, 3)) + 12 * number
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise.astype(np.uint8)).save(folder / name / f"{row}.png")
    data = {"train": f"folder:{folder}", "limit": 80, "test_limit": 20, "image_size": 24, "workers": 0}
    comparison = {"linear_probe": True, "from_scratch": False}
    run = config(tmp_path / "run", encoder=start, seed=5, data=data, validation=0.3, steps=1, compare=comparison)
    found = finetune(run)
    quick = ["knn=null", "damage=[]", "properties=false", "baselines.random_init=false", "baselines.pixels=false"]
    typed = [f"out={tmp_path}/probe", f"encoder={start}", "seed=5", "precision=float32", "wandb.mode=disabled", *quick]
    chosen = [f"data.{key}={value}" for key, value in {**data, "task": "null"}.items()]
    [alone] = probe(stage_config(ProbeConfig, "linear", [*typed, *chosen])).results
    assert found.linear_probe is not None
    assert found.linear_probe.model_copy(update={"seconds": alone.linear.seconds}) == alone.linear
    assert (found.data, found.classes) == (alone.data, alone.classes)
    assert found.linear_probe_protocol == alone.protocol
    assert found.checks is not None
    assert alone.checks is not None
    assert found.checks.null == alone.checks.null
    assert found.checks.null is not None
    assert (found.checks.frozen, found.checks.missing) == (None, {"frozen": "the network is trained"})
    assert "5-fold cross-validation of the training images (stratified, seed 5" in alone.protocol


@pytest.mark.usefixtures("few_strengths")
def test_a_linear_probe_that_knows_random_labels_or_changes_its_encoder_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alarm = NullCheck(accuracy=0.9, chance=0.125, ci95=(0.8, 1.0), p_value=1e-9, images=200, repetitions=1)
    monkeypatch.setattr("finetune.kinds.classes.check_null", lambda *given: alarm)
    changing = iter("ab")
    monkeypatch.setattr("finetune.probe.state_digests", lambda encoders: next(changing))
    start = exported(tmp_path / "encoder", EncoderConfig(model_args={"width": 4, "depth": 1}))
    comparison = {"linear_probe": True, "from_scratch": False}
    data = {"train": "shapes", "task": "color", "limit": 60, "test_limit": 20, "workers": 0}
    found = finetune(config(tmp_path / "run", encoder=start, steps=1, data=data, compare=comparison))
    assert found.checks is not None
    assert (found.checks.frozen, found.checks.null) == (False, alarm)
    assert any("changed while it was measured" in note for note in found.notes)
    assert any("the accuracy of the linear probe is 90.0%" in note for note in found.notes)


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


@pytest.mark.parametrize("change", ["another shape", "missing"])
def test_best_weights_of_another_network_are_refused_when_the_run_is_resumed(tmp_path: Path, change: str) -> None:
    run = config(tmp_path / "run", encoder=exported(tmp_path / "encoder"), steps=4)
    finetune(run)
    checkpoint = max((run.out / "checkpoints").iterdir())
    if change == "missing":
        facts = json.loads((checkpoint / "state.json").read_text())
        facts["groups"].remove("best")
        (checkpoint / "state.json").write_text(json.dumps(facts))
    else:
        best = load_file(checkpoint / "best.safetensors")
        save_file(
            {name: tensor.repeat(2) if tensor.ndim == 1 else tensor for name, tensor in best.items()},
            checkpoint / "best.safetensors",
        )
    with pytest.raises(UserError, match=rf"checkpoint {checkpoint} cannot be resumed: its best weights "):
        run_stage(run.model_copy(update={"resume": True}))


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


def test_each_layer_learns_slower_than_the_one_after_it(tmp_path: Path) -> None:
    encoder = build_encoder(EncoderConfig(model_args={"width": 8, "depth": 1}), image_size=16)
    model = Supervised(Classifier(encoder, ["a", "b"]), 0.0, WHOLE)
    groups = decayed_groups(model, config(tmp_path, encoder=tmp_path / "none", layer_decay=0.5))
    names = {parameter: name for name, parameter in model.classifier.named_parameters()}
    scales: dict[str, float] = {}
    for group in groups:
        for parameter in group["params"]:
            scales[names[parameter]] = group["lr_scale"]
            assert (group["weight_decay"] > 0) == (parameter.ndim >= 2)
    assert scales.keys() == {name for name, p in model.classifier.named_parameters() if p.requires_grad}
    first, deepest = scales["encoder.blocks.0.0.weight"], max(scales.values())
    assert deepest == 1.0
    assert first == min(scales.values()) == 0.5 ** (len(set(scales.values())) - 1)


def test_tokens_and_positions_are_not_decayed(tmp_path: Path) -> None:
    args = {"patch_size": 4, "embed_dim": 32, "depth": 1, "num_heads": 2}
    vit = build_encoder(EncoderConfig(name="timm/vit_tiny_patch16_224", model_args=args), image_size=16)
    model = Supervised(Classifier(vit, ["a", "b"]), 0.0, WHOLE)
    names = {parameter: name for name, parameter in model.classifier.named_parameters()}
    groups = decayed_groups(model, config(tmp_path, encoder=tmp_path / "none"))
    free = {names[p] for group in groups if group["weight_decay"] == 0 for p in group["params"]}
    assert {"encoder.model.cls_token", "encoder.model.pos_embed"} <= free
    assert "encoder.model.blocks.0.mlp.fc1.weight" not in free


@pytest.mark.parametrize(("decay", "moves"), [(1e-6, False), (1.0, True)])
def test_a_tiny_layer_decay_keeps_the_first_layer_fixed(tmp_path: Path, decay: float, moves: bool) -> None:
    start = exported(tmp_path / "encoder")
    seed_step(0, 1)
    before = Classifier(load_encoder(start), ["?"] * 8).state_dict()  # head and encoder at the start of training
    finetune(config(tmp_path / "run", encoder=start, steps=2, layer_decay=decay))
    after = load_classifier(tmp_path / "run" / "classifier").state_dict()
    depths = dict(layer_decay_groups(Classifier(load_encoder(start), ["?"] * 8)))
    moved = {name: float((after[name] - before[name]).abs().max()) for name in depths}
    first = max(moved[name] for name in depths if depths[name] == 0)
    head = min(moved[name] for name in depths if depths[name] == max(depths.values()))
    assert head > 1e-4
    assert (first > 1e-5) is moves


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": {}}, "set encoder=PATH to an exported encoder, or set encoder.from_scratch=true"),
        ({"encoder": "e", "data": {"task": ["shape", "color"]}}, "fine-tuning trains on one task at a time"),
    ],
    ids=["no-start", "two-tasks"],
)
def test_contradictory_config_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **changes)


def test_problems_of_encoder_and_data_are_reported_together_and_nothing_is_written(tmp_path: Path) -> None:
    run = config(tmp_path / "run", encoder=tmp_path / "none", data={"train": "folder:nowhere"})
    with pytest.raises(UserError) as caught:
        finetune(run)
    assert len(caught.value.problems) == 2
    assert not (tmp_path / "run").exists()


def test_image_size_and_number_of_images_are_checked_before_anything_is_written(tmp_path: Path) -> None:
    start = exported(tmp_path / "encoder", EncoderConfig(name="linear", model_args={"code": 4}), image_size=8)
    run = config(
        tmp_path / "run",
        encoder=start,
        data={"train": "shapes:train:40", "test": "shapes:test:40", "task": "color", "limit": 2, "image_size": 16},
    )
    with pytest.raises(UserError) as caught:
        finetune(run)
    assert caught.value.problems == (
        "data.image_size=16: linear does not support this size: it encodes images of 8 px only, not 16x16; "
        "remove data.image_size",
        "task 'color': 2 training images in 8 classes are too few for a validation split; add images",
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "args", "statistic"),
    [("mlp", {"hidden": [8], "code": 4}, "centre"), ("small_cnn", {"width": 8}, "blocks.0.1.running_mean")],
)
def test_training_from_scratch_starts_with_the_statistics_of_the_probes_untrained_twin(
    name: str, args: dict[str, Any], statistic: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig(name=name, model_args=args), image_size=16)
    encoder.get_buffer(statistic).copy_(torch.rand_like(encoder.get_buffer(statistic)))
    export_encoder(encoder, tmp_path / "encoder")
    start = {"path": tmp_path / "encoder", "from_scratch": True}
    finetune(config(tmp_path / "run", encoder=start, steps=1, base_lr=1e-12, ema=0))
    images = load_images(build_source("shapes"), 16, limit=200)
    twin = untrained(tmp_path / "encoder", 0, images, torch.device("cpu"))
    found = load_encoder(tmp_path / "run" / "encoder").get_buffer(statistic)
    # a step moves the running mean by a tenth towards one batch; a fresh one would be a tenth of it
    torch.testing.assert_close(found, twin.get_buffer(statistic), rtol=0.2, atol=0.05)
    assert found.abs().max() > 0.2


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


def test_size_at_which_the_result_could_not_be_loaded_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    data = {"train": "shapes", "task": "color", "limit": 200, "test_limit": 80, "workers": 0, "image_size": 60}
    with pytest.raises(UserError, match="small_cnn cannot be used as an encoder at 60 px: it halves images 3 times"):
        finetune(config(tmp_path / "run", encoder=exported(tmp_path / "encoder"), data=data))
    assert not (tmp_path / "run").exists()


@new_timm
def test_encoder_that_takes_no_classifier_is_not_fine_tuned(tmp_path: Path) -> None:
    args = {"depth": 1, "embed_dim": 48, "num_heads": 2}
    start = exported(tmp_path / "encoder", EncoderConfig(name="timm/qwen3_vit_88m_enc", model_args=args), 32)
    with pytest.raises(UserError, match="takes no classifier in timm: use retouch probe, or another encoder"):
        run_stage(config(tmp_path / "run", encoder=start))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["patch_dictionary", "sparse_code", "kernel"])
def test_encoder_without_weights_that_learn_is_not_fine_tuned(name: str, tmp_path: Path) -> None:
    start = exported(tmp_path / "encoder", EncoderConfig(name=name))
    with pytest.raises(UserError, match=f"{name} has no weights that learn by gradient descent, .*: use retouch probe"):
        finetune(config(tmp_path / "run", encoder=start))
    assert not (tmp_path / "run").exists()


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
