"""One rule for all stages: Ctrl-C and SIGTERM end a stage whenever they come, and the same command continues it."""

from __future__ import annotations

import json
import logging
import pkgutil
import signal
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import retouch
from finetune.results import FinetuneResult, read_results
from tests.retouch.quick_stages import PICTURES, STEPS, export, run

LOSSLESS = ("pretrain", "finetune")
PART = 8  # images in a part of predictions
KEPT = ("model.safetensors", "features.parquet", "predictions.csv", "neighbors.csv", "pictures.csv", "strange.csv")
# the signal comes as this function is called for the n-th time, counted from 0
STEP = "torch.optim.AdamW.step"
TERM, CTRL_C = signal.SIGTERM, signal.SIGINT
MOMENTS = [
    ("pretrain", TERM, "pretrain.opening.load_images", 0),
    ("pretrain", CTRL_C, "pretrain.opening.load_images", 0),
    ("pretrain", CTRL_C, STEP, 0),
    ("pretrain", TERM, STEP, STEPS - 1),
    ("pretrain", CTRL_C, "common.engine.loop.save_checkpoint", 0),  # after the last step
    ("pretrain", TERM, "pretrain.export.export_encoder", 0),
    ("pretrain", CTRL_C, "pretrain.export.code_storage", 0),  # for results.json
    ("finetune", TERM, "finetune.full.load_labeled", 0),
    ("finetune", TERM, STEP, 1),
    ("finetune", CTRL_C, STEP, STEPS - 1),
    ("finetune", TERM, "finetune.full.predict", STEPS - 1),  # the validation images, after the last step
    ("finetune", CTRL_C, "finetune.full.predict", STEPS),  # the test images
    ("finetune", CTRL_C, "finetune.full.export_encoder", 0),
    ("finetune", TERM, STEP, 2 * STEPS - 1),  # the last one from scratch
    ("probe", TERM, "finetune.kinds.classes.load_labeled", 0),
    ("probe", CTRL_C, "finetune.kinds.classes.ClassLabels.measure", 1),
    ("embed", CTRL_C, "finetune.embed.in_order", 0),
    ("predict", TERM, "finetune.predict.run.load_images", 0),
    ("predict", CTRL_C, "finetune.predict.run.write_part", 1),
    ("predict", TERM, "finetune.predict.run.join_parts", 0),
    ("search", CTRL_C, "finetune.search.run.nearest", 0),
    ("search", TERM, "finetune.search.run.save_png", 0),
    ("restore", TERM, "pretrain.restoring.restore.save_png", 3),
    ("restore", CTRL_C, "pretrain.restoring.restore.sheet", 0),
    ("strange", CTRL_C, "pretrain.restoring.strange.ranked", 0),
    ("strange", TERM, "pretrain.restoring.strange.sheet", 0),
]


def written(out: Path) -> dict[str, object]:
    """The files of a stage, except what depends on the clock and on its place."""

    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            changing = ("seconds", "path", "start", "out", "run")
            return {key: timeless(part) for key, part in value.items() if key not in changing}
        return [timeless(part) for part in value] if isinstance(value, list) else value

    return {
        str(file.relative_to(out)): timeless(json.loads(file.read_text()))
        if file.name == "results.json"
        else file.read_bytes()
        for file in sorted(out.rglob("*"))
        if file.name in ("results.json", *KEPT) or file.suffix == ".png"
        if not {"checkpoints", "panels"} & set(file.parts)
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, object]]:
    """The files of a stage that nothing stops."""
    folder = tmp_path_factory.mktemp("undisturbed")
    export(folder)

    @cache
    def results(stage: str) -> dict[str, object]:
        assert run(stage, folder / stage) == 0
        return written(folder / stage)

    return results


@pytest.fixture(autouse=True)
def _pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    retouch.images(PICTURES, "pictures")
    monkeypatch.setattr("finetune.predict.parts.PART_ROWS", PART)


@pytest.mark.parametrize(("stage", "number", "place", "call"), MOMENTS)
def test_a_stage_ends_at_once_and_continues_as_if_nothing_had_been(
    stage: str,
    number: signal.Signals,
    place: str,
    call: int,
    undisturbed: Callable[[str], dict[str, object]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    whole = undisturbed(stage)
    export(tmp_path)
    out = tmp_path / stage
    calls, work = iter(range(10**9)), pkgutil.resolve_name(place)

    def interrupted(*given: Any, **named: Any) -> Any:
        if next(calls) == call:
            signal.raise_signal(number)
        return work(*given, **named)

    with monkeypatch.context() as patch, caplog.at_level(logging.INFO, "retouch"):
        patch.setattr(place, interrupted)
        code = run(stage, out)
    assert next(calls) == call + 1, "the stage went on"
    assert code == (0 if stage in LOSSLESS else 128 + number)
    named = out if out.exists() else "FOLDER"  # before there is one
    assert f"with out={named} resume=true" in caplog.messages[-1]

    assert run(stage, out, f"resume={str(out.exists()).lower()}") == 0
    assert written(out) == whole


def test_a_signal_in_the_probe_of_fine_tuning_is_no_failure_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(tmp_path)
    monkeypatch.setattr("finetune.full.probe", lambda config, show: signal.raise_signal(TERM))
    compared = ["compare.linear_probe=true", "compare.from_scratch=false"]
    assert run("finetune", tmp_path / "tuned", *compared) == 0
    found = read_results(tmp_path / "tuned")
    assert isinstance(found, FinetuneResult)
    assert found.linear_probe is None
