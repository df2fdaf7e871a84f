"""Runs without a folder of their own name get the next number, each its own."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from common.errors import UserError
from common.machine.distributed import World
from common.runs.folder import StageConfig, check_run_folder, numbered, open_run

HERE = World(0, 1, torch.device("cpu"))


class Paint(StageConfig):
    stage: ClassVar[str] = "paint"


class Sculpt(StageConfig):
    stage: ClassVar[str] = "sculpt"


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where runs are written, below the working folder; not there yet."""
    monkeypatch.chdir(tmp_path)
    return Path("runs")


def paint(**changes: object) -> Paint:
    return Paint.model_validate({"out": "runs/oil-{n}", "wandb": {"mode": "disabled"}, **changes})


def run(config: StageConfig) -> Path:
    with numbered(config, HERE) as numbered_config, open_run(numbered_config, HERE) as opened:
        return opened.folder


def test_runs_are_counted_and_no_folder_is_used_again(runs: Path) -> None:
    assert [run(paint()), run(paint())] == [runs / "oil-1", runs / "oil-2"]
    (runs / "oil-7").touch()  # a file is in the way as well
    (runs / "oil-9-probe").mkdir()  # another name
    assert run(paint()) == runs / "oil-8"
    (runs / "oil-8" / "config.yaml").unlink()
    assert run(paint()) == runs / "oil-9"
    assert (runs / "oil-1" / "config.yaml").read_text().splitlines()[1] == "out: runs/oil-1"


def test_a_number_may_stand_anywhere_in_the_name(runs: Path) -> None:
    assert [run(paint(out="a/{n} (b)")), run(paint(out="a/{n} (b)"))] == [Path("a/1 (b)"), Path("a/2 (b)")]


def test_a_named_folder_is_used_as_it_is(runs: Path) -> None:
    assert run(paint(out="runs/oil")) == runs / "oil"


def test_runs_that_start_together_have_folders_of_their_own(runs: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        folders = list(pool.map(lambda _: run(paint()), range(48)))
    assert sorted(folders) == sorted(runs / f"oil-{number}" for number in range(1, 49))


def test_a_folder_that_another_run_makes_in_between_is_not_shared(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = Path.mkdir

    def late(folder: Path, *given: Any, **settings: Any) -> None:
        if folder == runs / "oil-1":
            make(folder, exist_ok=True)  # by the other run
        make(folder, *given, **settings)

    monkeypatch.setattr(Path, "mkdir", late)
    assert run(paint()) == runs / "oil-2"


def test_a_mistake_leaves_no_folder(runs: Path) -> None:
    with pytest.raises(UserError), numbered(paint(), HERE) as config:
        assert config.out.is_dir()
        raise UserError("no such images")
    assert not runs.exists()
    runs.mkdir()
    with pytest.raises(UserError), numbered(paint(), HERE):
        raise UserError("no such images")
    assert list(runs.iterdir()) == []


def test_where_none_can_be_made_the_check_says_so(runs: Path) -> None:
    runs.touch()
    with numbered(paint(), HERE) as config, pytest.raises(UserError, match=r"cannot be created: .*runs is a file"):
        check_run_folder(config)


@pytest.mark.parametrize("asked", ["resume", "overwrite"])
def test_to_resume_or_overwrite_a_run_has_to_be_named(runs: Path, asked: str) -> None:
    def message() -> str:
        with pytest.raises(UserError) as error, numbered(paint(**{asked: True}), HERE) as config:
            check_run_folder(config)
        return str(error.value)

    assert message() == f"{asked}=true, but no run is named; say which run: out=FOLDER"
    run(Paint.model_validate({"out": "runs/other", "wandb": {"mode": "disabled"}}))
    run(Sculpt.model_validate({"out": "runs/oil-{n}", "wandb": {"mode": "disabled"}}))
    assert message() == f"{asked}=true, but no run is named; say which run: out=runs/other"
    for number in range(2, 9):
        os.utime(run(paint()), ns=(number, number if number != 4 else 99))
    assert message() == (
        f"{asked}=true, but no run is named; say which run: out=runs/oil-4 or out=runs/oil-8 or out=runs/oil-7 or "
        "out=runs/oil-6 or out=runs/oil-5"
    )
    assert run(paint(out="runs/oil-4", **{asked: True})) == runs / "oil-4"
