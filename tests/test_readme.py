"""README's code runs as it stands: commands and Python, on small pictures, with recipes of two steps."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from common import recipes
from retouch.cli import main
from tests.common.data.samples import picture

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = [line.strip() for line in re.findall(r"^    retouch .*$", README, re.MULTILINE)]
RUN = [line for line in COMMANDS if line.split()[1] not in ("demo", "lecture")]  # those are tested on their own
TRAINED = {"steps": 2, "batch_size": 8, "precision": "float32"}
QUICK: dict[str, dict[str, Any]] = {
    "pretrain": {**TRAINED, "encoder": {"model_args": {"depth": 1}}},
    "finetune": {**TRAINED, "epochs": None, "compare": {"linear_probe": False, "from_scratch": False}},
    "probe": {
        "precision": "float32",
        "probe": {"layers": ["last3"], "poolings": ["avg"]},
        "damage": [],
        "properties": False,
        "null_check": False,
    },
    "embed": {"precision": "float32"},
    "study": {"contestants": ["scratch"]},
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a user, with pictures and labeled ones."""
    home = tmp_path_factory.mktemp("home")
    for number in range(24):
        for folder in ("my/pictures", f"my/labeled/{'abcd'[number % 4]}"):
            (home / folder).mkdir(parents=True, exist_ok=True)
            picture(number, 40, 36).save(home / folder / f"{number}.png")
    picture(3, 40, 36).save(home / "image.jpg")
    return home


@pytest.fixture(autouse=True)
def quick(few_strengths: None, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped recipes with a few steps; runs go on in one folder, in the order of the README."""
    monkeypatch.chdir(home)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    for one in recipes.recipes():
        tree = yaml.safe_load(one.text) | QUICK[one.stage]
        path = tmp_path / one.stage / one.path.name
        path.parent.mkdir(exist_ok=True)
        path.write_text(re.match(r"(?:#.*\n)*", one.text)[0] + yaml.safe_dump(tree))  # type: ignore[index]
    monkeypatch.setattr(recipes, "FOLDER", tmp_path)


def test_there_is_code_to_run() -> None:
    assert len(PYTHON) >= 1
    assert {line.split()[1] for line in RUN} >= {"pretrain", "probe", "finetune", "embed", "recipes"}


@pytest.mark.slow
@pytest.mark.parametrize("line", RUN)
def test_commands_work_as_typed(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(line.partition(" > ")[0], comments=True)
    try:
        code = main(words[1:])
    except SystemExit as ended:  # --help
        code = int(ended.code or 0)
    assert code == 0, capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("code", PYTHON)
def test_python_works_as_typed(code: str) -> None:
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
