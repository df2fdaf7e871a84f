"""A stage that takes a finished run in place of a recipe: on the command line, in Python, in help and completion."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from common.config import dump_config
from common.errors import UserError
from common.recipes import stage_config
from common.runs.completion import complete_run, remember_keys
from common.runs.console import Flag, Stage, run_stages
from common.runs.folder import StageConfig

ASKED: list[Looking] = []


class Looking(StageConfig):
    stage: ClassVar[str] = "look"
    takes_run: ClassVar[bool] = True

    run: Path
    """A finished run."""
    data: str
    """What to look at."""
    top: int | None = None


def look(config: Looking) -> None:
    ASKED.append(config)


LOOK = Stage(
    "look",
    "look at something",
    __name__,
    f"{__name__}:Looking",
    takes="a finished run",
    flags=(Flag("top", "K", "the K best"),),
)


def asked(*arguments: str) -> Looking:
    """The settings that a command line gives to the stage."""
    ASKED.clear()
    assert run_stages("look", (LOOK,), arguments) == 0
    [config] = ASKED
    return config


def test_the_run_is_the_first_argument_and_a_setting_of_its_name() -> None:
    expected = Looking(out=Path("runs/look-{n}"), run=Path("runs/mine"), data="pictures")
    assert asked("runs/mine", "data=pictures") == expected
    assert asked("run=runs/mine", "data=pictures") == expected
    assert stage_config(Looking, "runs/mine", ["data=pictures"]) == expected
    assert stage_config(Looking, Path("runs/mine"), ["data=pictures"]) == expected
    assert stage_config(Looking, {"run": "runs/mine", "data": "pictures"}) == expected
    assert stage_config(Looking, expected) == expected


def test_the_name_of_a_recipe_is_the_name_of_a_run_here() -> None:
    assert asked("denoise", "data=x").run == Path("denoise")
    assert asked("5", "data=x").run == Path("5")


@pytest.mark.parametrize(
    "arguments",
    [
        ["runs/mine", "--top", "5", "data=x"],
        ["runs/mine", "data=x", "--top", "5"],
        ["--top", "5", "runs/mine", "data=x"],
        ["runs/mine", "data=x", "--top=5"],
        ["--top=5", "runs/mine", "data=x"],
        ["runs/mine", "data=x", "top=5"],
    ],
)
def test_a_flag_may_stand_anywhere_and_is_a_setting(arguments: list[str]) -> None:
    config = asked(*arguments)
    assert (config.run, config.data, config.top) == (Path("runs/mine"), "x", 5)


def test_an_earlier_settings_file_can_be_given_in_its_place(tmp_path: Path) -> None:
    first = Looking(out=Path("runs/look-1"), run=Path("runs/mine"), data="pictures")
    (tmp_path / "config.yaml").write_text(dump_config(first))
    assert asked(str(tmp_path / "config.yaml"), "data=others") == first.model_copy(update={"data": "others"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Found 2 errors in the settings:\n  run: required, but not given: a finished run\n  data: required"),
        (["runs/mine", "run=other", "data=x"], "run: given as runs/mine and as run=...; give it once"),
        (
            ["runs/mine", "data=x", "--top", "few"],
            "Found 1 error in the settings:\n  top: input should be a whole number, got 'few'",
        ),
        (["none.yaml"], "config file not found: none.yaml"),
    ],
)
def test_mistakes_get_one_plain_message(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_stages("look", (LOOK,), arguments) == 2
    assert capsys.readouterr().err.startswith(f"retouch look: {message}")


def test_a_flag_without_a_value_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_stages("look", (LOOK,), ["runs/mine", "data=x", "--top"])
    assert ended.value.code == 2
    assert "--top: expected one argument" in capsys.readouterr().err


def helped(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        run_stages("look", (LOOK,), [*arguments, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_the_help_says_what_a_run_is_and_with_a_run_lists_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    said = " ".join(helped(capsys).split())
    assert "RUN a finished run" in said
    assert "--top K the K best" in said
    assert "look RUN --help lists them" in said
    assert "recipe" not in said
    lines = helped(capsys, "runs/mine", "top=3").splitlines()
    assert lines[0] == "look at something"
    for start in ("* run=runs/mine ", "  data=? ", "* top=3 ", "  out=runs/look-{n} "):
        assert [line for line in lines if line.startswith(start)], start


def test_folders_and_keys_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "rest.txt").touch()
    remember_keys("look", ["run", "data"])
    assert complete_run("look", "ru") == ["runs/", "run="]
    assert complete_run("look", "da") == ["data="]


def test_stages_with_recipes_are_as_before() -> None:
    """A run is not taken for a recipe there."""
    from finetune.config import ProbeConfig

    assert not ProbeConfig.takes_run
    with pytest.raises(UserError, match="no recipe 'mine'"):
        stage_config(ProbeConfig, "mine")
