"""Three entry points, one command line: ``retouch``, ``python -m`` and single stages."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from common.runs.console import Stage, run_stages
from finetune.__main__ import STAGES as TRANSFER
from pretrain.__main__ import STAGES as PRETRAINING
from retouch.cli import main

ROOT = Path(__file__).resolve().parents[2]
WAYS = [
    ([sys.executable, "-m", "retouch", "pretrain"], PRETRAINING[0]),
    ([sys.executable, "-m", "pretrain"], PRETRAINING[0]),
    *(([sys.executable, "-m", module, stage.name], stage) for module in ("retouch", "finetune") for stage in TRANSFER),
]


@pytest.mark.parametrize(("command", "stage"), WAYS, ids=[" ".join(command[2:]) for command, _ in WAYS])
def test_every_entry_point_has_the_same_help_and_errors(command: list[str], stage: Stage) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        done = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    code, said, _ = run("--help")
    assert (code, stage.help in " ".join(said.split()), "key.sub=value" in said) == (0, True, True)
    assert run("none.yaml") == (2, "", f"retouch {stage.name}: config file not found: none.yaml\n")
    code, said, errors = run()
    assert (code, said, errors.startswith("usage: ")) == (2, "", True)


def test_stages_have_the_same_names_in_the_config_and_on_the_command_line() -> None:
    from finetune.config import EmbedConfig, FinetuneConfig, ProbeConfig
    from pretrain.config import PretrainConfig

    configs = (PretrainConfig, ProbeConfig, FinetuneConfig, EmbedConfig)
    assert [stage.name for stage in (*PRETRAINING, *TRANSFER)] == [config.stage for config in configs]


def test_help_does_not_load_torch() -> None:
    script = (
        "import sys; from retouch.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize("command", [["retouch", "pretrain"], ["pretrain"]], ids=["retouch", "single stage"])
def test_settings_may_have_dashes_as_the_agent_of_a_sweep_writes_them(command: list[str], tmp_path: Path) -> None:
    """Both are read: the message names both values."""
    (tmp_path / "a.yaml").write_text("steps: 1\n")
    settings = [
        "--steps=none",
        "data.limit=many",
        "--base_lr=0.01",
        "--wandb.notes=a=b --c=d",
        f"--out={tmp_path / 'run'}",
    ]
    done = subprocess.run(
        [sys.executable, "-m", *command, str(tmp_path / "a.yaml"), *settings],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "Found 2 errors" in done.stderr
    assert "steps: input should be a valid integer" in done.stderr
    assert "data.limit: input should be a valid integer" in done.stderr


@pytest.mark.parametrize("arguments", [["pretrain", "a.yaml", "--steps", "2"], ["probe", "a.yaml", "--resume"]])
def test_settings_typed_as_options_get_a_hint_on_how_to_write_them(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "settings are written key=value" in capsys.readouterr().err


def test_a_single_stage_program_takes_its_config_first(tmp_path: Path) -> None:
    (tmp_path / "nothing.yaml").write_text("")
    assert run_stages("python -m pretrain", PRETRAINING, [str(tmp_path / "nothing.yaml"), "steps=x"]) == 2
