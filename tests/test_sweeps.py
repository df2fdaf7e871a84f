"""The searches for W&B: the agent's commands are accepted, and the number that is searched by is logged."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
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
from tests.starter import started_fast
from tests.wandb_server import KEY, serving

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


def chosen(tree: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The settings that a search chooses, by their names with dots."""
    return {name: reduce(lambda at, key: at[key], name.split("."), tree) for name in names}


@every
def test_the_agents_command_means_what_the_search_says(sweep: Recipe) -> None:
    for values, command in ends_of(sweep):
        program, stage, recipe, *settings = command
        assert (program, stage) == ("retouch", "pretrain")
        config = stage_config(PretrainConfig, recipe, [part.removeprefix("--") for part in settings])
        tree = config.model_dump(mode="json")
        assert chosen(tree, values) == values
        assert config.data.source == "my/pictures"
        assert config.watch is not None


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with pictures, and labeled ones."""
    for number in range(60):
        path = tmp_path / "my" / ("pictures", "labeled")[number % 2] / "abc"[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(path)
    return tmp_path


@every
def test_the_number_that_is_searched_by_is_logged(sweep: Recipe, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    [(_, command), _] = ends_of(sweep)
    assert main([*command[1:], *SMALL, "--wandb.mode=disabled"]) == 0
    [run] = (home / "runs").iterdir()
    assert any(yaml.safe_load(sweep.text)["metric"]["name"] in line for line in logged(run))


AGENT = """
import sys
import wandb
from wandb import wandb_agent

wandb_agent.Agent.POLL_INTERVAL = 0.1  # seconds; its own 5 would be most of the test
for sweep in sys.argv[1:]:
    wandb.agent(sweep, entity="me", project="mine", count=2)
"""


@pytest.mark.slow
def test_wandbs_agent_runs_the_searches_and_its_server_gets_their_numbers(home: Path) -> None:
    """The agent's own loop and processes, and a server that hands out the values of two runs for each search."""
    asked: dict[str, tuple[Recipe, dict[str, float]]] = {}
    with serving() as server, started_fast(home, SMALL) as command:
        for sweep in sweeps():
            runs = {f"{sweep.name}-{number}": values for number, (values, _) in enumerate(ends_of(sweep))}
            server.add(sweep.name, sweep.text, dict(runs))
            asked |= {run: (sweep, values) for run, values in runs.items()}
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("WANDB_")},
            "PATH": f"{command.parent}:{os.environ['PATH']}",
            "HOME": str(home),  # nothing of the user's own login
            "WANDB_BASE_URL": server.address,
            "WANDB_API_KEY": KEY,
        }
        agent = [sys.executable, "-c", AGENT, *(one.name for one in sweeps())]
        subprocess.run(agent, cwd=home, check=True, env=environment, capture_output=True)
    assert server.runs.keys() == asked.keys()
    for run, (sweep, values) in asked.items():
        found = server.runs[run]
        assert (found.sweep, found.exit_code) == (sweep.name, 0)
        assert chosen(found.config, values) == values
        assert any(yaml.safe_load(sweep.text)["metric"]["name"] in line for line in found.history)
    assert len(list((home / "runs").glob("*/results.json"))) == len(asked)


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
