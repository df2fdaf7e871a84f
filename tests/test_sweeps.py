"""The searches for W&B: the agent's commands are accepted, and the number that is searched by is logged."""

from __future__ import annotations

import json
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from common.recipes import Recipe, find_recipe, stage_config, sweeps
from pretrain.config import PretrainConfig
from retouch.cli import main
from tests.recipe import logged

every = pytest.mark.parametrize("sweep", sweeps(), ids=lambda one: one.name)
SMALL = [
    "--steps=4", "--batch_size=8", "--panels_every=2", "--data.image_size=16", "--data.workers=0",
    "--encoder.model_args.width=4", "--encoder.model_args.depth=1", "--precision=float32",
]  # fmt: skip


def ends_of(sweep: Recipe) -> list[tuple[dict[str, float], list[str]]]:
    """Both ends of a search, each with the command that W&B's agent would run, by its own code."""
    asked: dict[str, Any] = yaml.safe_load(sweep.text)
    found = []
    for end in (0, -1):
        values: dict[str, float] = {
            name: (given.get("values") or [given["min"], given["max"]])[end]
            for name, given in asked["parameters"].items()
        }
        args = create_sweep_command_args({"args": {name: {"value": value} for name, value in values.items()}})["args"]
        command = create_sweep_command(list(asked["command"]))
        found.append((values, [part for chunk in command for part in (args if chunk == "${args}" else [chunk])]))
    return found


@every
def test_the_agents_command_means_what_the_search_says(sweep: Recipe) -> None:
    for values, command in ends_of(sweep):
        program, stage, recipe, *settings = command
        assert (program, stage) == ("retouch", "pretrain")
        config = stage_config(PretrainConfig, recipe, [part.removeprefix("--") for part in settings])
        tree = config.model_dump(mode="json")
        found: dict[str, Any] = {name: reduce(lambda at, key: at[key], name.split("."), tree) for name in values}
        assert found == values
        assert config.data.source == "my/pictures"
        assert config.watch is not None


@pytest.mark.slow
@every
def test_an_agent_without_a_server_gets_the_number_that_it_searches_by(
    sweep: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in {"WANDB_MODE": "offline", "WANDB_SWEEP_ID": "s1", "WANDB_RUN_ID": "r1"}.items():
        monkeypatch.setenv(name, value)
    for number in range(60):
        path = tmp_path / "my" / ("pictures", "labeled")[number % 2] / "abc"[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(path)
    [(_, command), _] = ends_of(sweep)
    assert main([*command[1:], *SMALL]) == 0
    [run] = (tmp_path / "runs").iterdir()
    assert any(yaml.safe_load(sweep.text)["metric"]["name"] in line for line in logged(run))
    assert len(list((run / "wandb").glob("offline-run-*-r1"))) == 1


def test_searches_are_listed_and_copied(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for one in sweeps():
        assert one.title in said
        assert main(["recipes", one.name]) == 0
        assert capsys.readouterr().out == one.text
        assert find_recipe(f"sweep/{one.name}") == one
    assert main(["recipes", "--json"]) == 0
    assert all(entry["stage"] != "sweep" for entry in json.loads(capsys.readouterr().out))
