"""Three entry points, one command line: ``retouch``, ``python -m`` and single stages."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from common import recipes as recipes_module
from common.runs.console import Stage, run_stages
from common.runs.folder import StageConfig
from finetune.__main__ import STAGES as TRANSFER
from pretrain.__main__ import STAGES as PRETRAINING
from retouch.cli import STUDY, main

ROOT = Path(__file__).resolve().parents[2]
WAYS = [
    (["retouch", "pretrain"], PRETRAINING[0]),
    (["pretrain"], PRETRAINING[0]),
    *(([module, stage.name], stage) for module in ("retouch", "finetune") for stage in TRANSFER),
]


def as_module(command: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """``python -m MODULE ...`` in this process, which has imported torch already; returns the exit code."""
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(command[0], run_name="__main__", alter_sys=True)
    return int(ended.value.code or 0)


@pytest.mark.parametrize(("command", "stage"), WAYS, ids=[" ".join(command) for command, _ in WAYS])
def test_every_entry_point_has_the_same_help_and_errors(
    command: list[str], stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:

    def run(*arguments: str) -> tuple[int, str, str]:
        code = as_module([*command, *arguments], monkeypatch)
        said = capsys.readouterr()
        return code, said.out, said.err

    code, said, _ = run("--help")
    assert (code, stage.help in " ".join(said.split()), "key.sub=value" in said) == (0, True, True)
    assert run("none.yaml") == (2, "", f"retouch {stage.name}: config file not found: none.yaml\n")
    code, said, errors = run()
    asked = {
        "pretrain": "name a recipe, such as: retouch pretrain colorize data=my/pictures; ",
        "embed": "Found 1 error in recipe embed:",
    }
    asked |= {"probe": "Found 1 error in recipe linear:", "finetune": "Found 1 error in recipe full:"}
    asked |= {"study": "Found 1 error in recipe study:", "predict": "Found 2 errors in the settings:"}
    asked |= {"search": "Found 3 errors in the settings:"}
    assert (code, said, errors.startswith(f"retouch {stage.name}: {asked[stage.name]}")) == (2, "", True)


def test_stages_have_the_same_names_in_the_config_and_on_the_command_line() -> None:
    from finetune.config import EmbedConfig, FinetuneConfig, ProbeConfig
    from finetune.predict.config import PredictConfig
    from finetune.search.config import SearchConfig
    from pretrain.config import PretrainConfig
    from retouch.studies.config import StudyConfig

    with_recipes: list[type[StageConfig]] = [PretrainConfig, ProbeConfig, FinetuneConfig, EmbedConfig, StudyConfig]
    of_runs: list[type[StageConfig]] = [PredictConfig, SearchConfig]
    stages = (*PRETRAINING, *TRANSFER, STUDY)
    for kind, configs in (("RECIPE", with_recipes), ("RUN", of_runs)):
        of_kind = [stage for stage in stages if bool(stage.takes) == (kind == "RUN")]
        assert [stage.name for stage in of_kind] == [config.stage for config in configs]
        assert [stage.schema() for stage in of_kind] == configs
        assert [config.takes_run for config in configs] == [kind == "RUN"] * len(configs)
    assert [config.stage for config in with_recipes] == list(recipes_module.STAGES)


@pytest.mark.parametrize(
    "arguments",
    [
        *([], ["--help"], ["pretrain", "--help"], ["predict", "--help"], ["demo", "--help"]),
        *(["pretrain"], ["pretrain", "denoi"], ["pretrain", "tests"], ["pretrain", "denoise", "tests"], ["train"]),
        *(["pretrain", "denoise", "tests", "--help"], ["demo", "steps"]),
        *(["recipes"], ["recipes", "mask"]),
    ],
)
def test_what_is_printed_at_once_does_not_load_torch(arguments: list[str]) -> None:
    script = (
        "import sys; from retouch.cli import main\n"
        f"try: main({arguments})\n"
        "except SystemExit: pass\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_settings_are_read_without_the_libraries_that_only_some_methods_need() -> None:
    """A misspelled key is found in two seconds, not in six."""
    script = "import sys, pretrain.config; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {"timm", "sklearn", "torch._dynamo"} & set(done.stdout.split()) == set()


def test_no_command_gives_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    said = capsys.readouterr().out
    assert said.startswith("usage: retouch ")
    assert "encoders of colorize see pictures in gray" in said


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("train", "no command 'train'; did you mean pretrain? `retouch --help` lists all"),
        ("zzz", "no command 'zzz'; `retouch --help` lists all"),
    ],
)
def test_a_command_that_there_is_not_gets_a_hint(
    command: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "denoise", "data=my/pictures"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith(f"retouch: error: {message}\n")


def test_a_path_where_a_setting_is_expected_gets_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "many").mkdir()
    (tmp_path / "list.csv").touch()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.yaml").write_text("# retouch pretrain\n")
    assert main(["pretrain", "denois", "many", "list.csv", "mine", "steps"]) == 2
    assert capsys.readouterr().err.splitlines()[1:] == [
        "'many' is a folder; did you mean data=many?",
        "'list.csv' is a file; did you mean data=list.csv?",
        "'mine' is a folder; did you mean encoder=mine?",
        "'steps': an override is written key=value",
    ]


def test_the_demo_explains_itself_and_takes_settings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["demo", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "Train two encoders without labels on generated images" in said
    given: list[Any] = []
    monkeypatch.setattr("retouch.demo.demo", lambda out, **settings: given.append((out, settings)))
    assert main(["demo", "steps=2", "seed=1", "--probe", "seed=1", "--probe=knn=null", "--out", "here"]) == 0
    assert given == [("here", {"pretraining": ["steps=2", "seed=1"], "probing": ["seed=1", "knn=null"]})]
    assert main(["demo", "steps"]) == 2
    assert "'steps': an override is written key=value" in capsys.readouterr().err


def test_settings_of_a_command_that_takes_none_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["lecture", "steps=2"])
    assert "unrecognized arguments: steps=2; this command takes no settings" in capsys.readouterr().err


# ---- recipes


def test_recipes_are_listed_by_stage_with_what_to_expect(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    said = capsys.readouterr().out
    choice, *listed, lessons = said.strip().split("\n\n")
    assert " ".join(choice.split()) == recipes_module.CHOICE
    parts = dict(part.split("\n", 1) for part in listed)
    *stages, last = parts
    assert stages == ["retouch pretrain", "retouch probe", "retouch finetune", "retouch embed", "retouch study"]
    assert last.startswith("wandb sweep")
    for one in recipes_module.offered():
        assert one.title in " ".join(parts[f"retouch {one.stage}"].split())
        assert f"Expect: {one.expect}" in " ".join(parts[f"retouch {one.stage}"].split())
    for stage in ("pretrain", "probe"):  # below its command, a name needs no more
        assert "\n  patch_dictionary  " in parts[f"retouch {stage}"]
    assert lessons.startswith("parts of retouch lecture: ")
    assert all(f"{one.stage}/{one.name}" in lessons for one in recipes_module.recipes() if one.is_lesson)
    assert max(map(len, said.splitlines())) <= 100


def test_recipes_are_listed_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(one["stage"], one["name"], one["title"], one["expect"]) for one in listed] == [
        (one.stage, one.name, one.title, one.expect) for one in recipes_module.recipes()
    ]
    assert all(Path(one["path"]).is_file() for one in listed)


def test_a_recipe_is_copied_to_standard_output(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["recipes", "denoise"]) == 0
    copied = capsys.readouterr().out
    assert copied == recipes_module.find_recipe("denoise").text
    assert main(["recipes", "patch_dictionary"]) == 2
    assert "choose pretrain/patch_dictionary or probe/patch_dictionary" in capsys.readouterr().err
    assert main(["recipes", "probe/patch_dictionary"]) == 0
    assert "kind: ridge" in capsys.readouterr().out


def test_the_help_of_a_stage_lists_its_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["probe", "--help"])
    assert ended.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "the name of a recipe, or a YAML file: what ends in .yaml or holds a separator is a file (default: linear)"
        in said
    )
    for one in recipes_module.offered("probe"):
        assert f" {one.name} {one.title}" in said


@pytest.mark.parametrize("arguments", [["denoise", "--help"], ["-h", "denoise"], ["denoise", "steps=7", "--help"]])
def test_the_help_of_a_recipe_shows_its_header_and_every_setting(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["pretrain", *arguments])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith("Denoising: remove Gaussian noise of many levels.\n\n  retouch pretrain denoise\n")
    lines = said.splitlines()
    for start in (
        f"* steps={7 if 'steps=7' in arguments else 1500} ",
        "  out=runs/denoise-{n} ",
        "* pretext.kind=denoise ",
        "  pretext.corruption.log_mean=-1.9 ",
        "  encoder.name=small_cnn ",
    ):
        assert [line for line in lines if line.startswith(start)], start
    assert max(map(len, lines)) <= 100


def test_the_help_without_a_recipe_is_that_of_the_standard_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["probe", "encoder=runs/a", "--help"])
    said = capsys.readouterr().out
    assert said.startswith("Linear probe and k-NN")
    assert "* encoder=runs/a " in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["pretrain", "denois", "--help"],
            "retouch pretrain: no recipe 'denois'; did you mean denoise or denoise_demo?",
        ),
        (["pretrain", "none.yaml", "--help"], "retouch pretrain: config file not found: none.yaml"),
    ],
)
def test_the_help_of_what_there_is_not_says_so(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(message)


# ---- completion


def completions(line: str, folder: Path) -> list[str]:
    """What argcomplete offers for a line typed in ``folder``."""
    pytest.importorskip("argcomplete")
    answer = folder / "answer"
    shell = {
        "_ARGCOMPLETE": "1", "_ARGCOMPLETE_SHELL": "fish", "_ARGCOMPLETE_IFS": "\n", "COMP_TYPE": "",
        "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_STDOUT_FILENAME": str(answer),
        "_ARGCOMPLETE_COMP_WORDBREAKS": "", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    script = (
        "import atexit, sys, os\n"
        "ended = os._exit\n"
        "os._exit = lambda code: (sys.stderr.write(str('torch' in sys.modules)), sys.stderr.flush(), ended(code))\n"
        "from retouch.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env={**os.environ, **shell},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == "False", done.stderr
    return [word.strip() for word in answer.read_text().split("\n")]  # a lone answer ends in a space


def test_shells_complete_commands_recipes_keys_and_paths(tmp_path: Path) -> None:
    assert completions("retouch pre", tmp_path) == ["pretrain", "predict"]
    assert set(completions("retouch pretrain deno", tmp_path)) == {
        "denoise",
        "denoise_demo",
        "denoise_cifar10",
    }
    assert completions("retouch recipes probe/pa", tmp_path) == [
        "probe/patch_dictionary",
        "probe/patch_dictionary_best",
    ]
    assert completions("retouch pretrain denoise data.im", tmp_path) == [""]
    with pytest.raises(SystemExit):
        main(["pretrain", "denoise", "--help"])  # keys are known once they have been read
    assert set(completions("retouch pretrain denoise data.im", tmp_path)) == {"data.image_size=", "data.image="}
    (tmp_path / "pictures").mkdir()
    (tmp_path / "mine.yaml").touch()
    assert completions("retouch pretrain denoise data=pic", tmp_path) == ["data=pictures/"]
    assert completions("retouch predict pic", tmp_path) == ["pictures/"]
    assert completions("retouch pretrain mi", tmp_path) == ["mixed", "mixed_cifar10", "mine.yaml"]


@pytest.mark.parametrize("command", [["retouch", "pretrain"], ["pretrain"]], ids=["retouch", "single stage"])
def test_settings_may_have_dashes_as_the_agent_of_a_sweep_writes_them(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both are read: the message names both values."""
    (tmp_path / "a.yaml").write_text("steps: 1\n")
    settings = [
        "--steps=none",
        "data.limit=many",
        "--base_lr=0.01",
        "--wandb.notes=a=b --c=d",
        f"--out={tmp_path / 'run'}",
    ]
    assert as_module([*command, str(tmp_path / "a.yaml"), *settings], monkeypatch) == 2
    errors = capsys.readouterr().err
    assert "Found 2 errors" in errors
    assert "steps: input should be a whole number" in errors
    assert "data.limit: input should be a whole number" in errors


@pytest.mark.parametrize("arguments", [["pretrain", "a.yaml", "--steps", "2"], ["probe", "a.yaml", "--resume"]])
def test_settings_typed_as_options_get_a_hint_on_how_to_write_them(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "settings are written key=value" in capsys.readouterr().err


def test_a_single_stage_program_takes_its_recipe_first(tmp_path: Path) -> None:
    (tmp_path / "nothing.yaml").write_text("")
    assert run_stages("python -m pretrain", PRETRAINING, [str(tmp_path / "nothing.yaml"), "steps=x"]) == 2


def test_a_flag_that_is_cut_short_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["predict", "runs/mine", "data=x", "--to", "5"])
    assert ended.value.code == 2
    assert "--to" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["label", "export", "repeat", "report"])
def test_a_command_without_its_arguments_shows_one_that_works(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command])
    assert stopped.value.code == 2
    assert f"for example: retouch {command} " in capsys.readouterr().err
