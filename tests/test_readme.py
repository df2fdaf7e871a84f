"""The code of README, the tour and the guide to one's own data runs as it stands, on small pictures, in two steps."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pytest
import yaml
from PIL import Image

from common import recipes
from retouch.cli import main
from tests.common.data.samples import picture, png

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ("README.md", "docs/tour.md", "docs/guides/own-data.md")
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
ELSEWHERE = ("retouch demo", "retouch lecture", "hf:NAME")  # tested on their own; a name that does not exist


class Command(NamedTuple):
    """A command as typed, and the document that contains it."""

    document: str
    line: str

    @property
    def typed(self) -> str:
        """Without its comment."""
        return self.line.partition(" #")[0].rstrip()


COMMANDS = [
    Command(document, line)
    for document in DOCUMENTS
    for line in re.findall(r"^    (?:\$ )?(retouch .*)$", (ROOT / document).read_text(encoding="utf-8"), re.MULTILINE)
]
RUN = [  # each once, even if a document has it twice
    one
    for place, one in enumerate(COMMANDS)
    if not any(text in one.line for text in ELSEWHERE)
    and not any((one.document, one.typed) == (other.document, other.typed) for other in COMMANDS[:place])
]
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
def homes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of a user for each document, with pictures of all kinds that commands name."""
    return {document: make_home(tmp_path_factory.mktemp("home")) for document in DOCUMENTS}


def make_home(home: Path) -> Path:
    for number in range(24):
        some, other = picture(number, 40, 36), f"{'abcd'[number % 4]}/{number}.png"
        for path in (f"my/pictures/{number}.png", f"my/labeled/{other}", f"my/new/{number}.png"):
            (home / path).parent.mkdir(parents=True, exist_ok=True)
            some.save(home / path)
    (home / "plates").mkdir()
    for number in range(4):
        values = np.random.default_rng(number).integers(0, 4096, (40, 36), np.uint16)
        Image.fromarray(values).save(home / "plates" / f"{number}.png")
    (home / "shards").mkdir()
    columns = datasets.Features({"image": datasets.Image()})
    rows = datasets.Dataset.from_dict(
        {"image": [{"bytes": png(number), "path": None} for number in range(12)]}, columns
    )
    rows.to_parquet(home / "shards" / "train-0.parquet")
    picture(3, 40, 36).save(home / "image.jpg")
    return home


@pytest.fixture(autouse=True)
def quick(few_strengths: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped recipes with a few steps."""
    monkeypatch.setenv("WANDB_MODE", "disabled")
    for one in recipes.recipes():
        tree = yaml.safe_load(one.text) | QUICK[one.stage]
        path = tmp_path / one.stage / one.path.name
        path.parent.mkdir(exist_ok=True)
        path.write_text(re.match(r"(?:#.*\n)*", one.text)[0] + yaml.safe_dump(tree))  # type: ignore[index]
    monkeypatch.setattr(recipes, "FOLDER", tmp_path)


def test_there_is_code_to_run() -> None:
    assert len(PYTHON) >= 1
    assert {one.line.split()[1] for one in RUN if one.document == "README.md"} >= {
        *("pretrain", "probe", "finetune", "embed", "recipes", "report", "label")
    }
    assert {one.document for one in RUN} == set(DOCUMENTS)


@pytest.mark.slow
@pytest.mark.parametrize("one", RUN, ids=lambda one: f"{one.document}: {one.line}")
def test_commands_work_as_typed(
    one: Command, homes: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of a document in one folder, in its order."""
    monkeypatch.chdir(homes[one.document])
    line = re.sub(r"\bsteps=\d+", "steps=2", one.line.partition(" > ")[0])
    try:
        code = main(shlex.split(line, comments=True)[1:])
    except SystemExit as ended:  # --help
        code = int(ended.code or 0)
    assert code == 0, capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("code", PYTHON)
def test_python_works_as_typed(code: str, homes: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(homes["README.md"])
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


def test_the_tour_makes_the_images_that_it_describes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,200 without labels, and 800 in a folder for each of four textures."""
    tour = (ROOT / "docs/tour.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", tour, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "tour.md", "exec"), {"__name__": "tour"})
    unlabeled, labeled = list(Path("my/pictures").iterdir()), list(Path("my/labeled").glob("*/*.png"))
    assert (len(unlabeled), len(labeled)) == (1200, 800)
    assert len({one.parent.name for one in labeled}) == 4
    with Image.open(unlabeled[0]) as image:
        assert (image.format, image.size, image.mode) == ("PNG", (32, 32), "RGB")


# ---- numbers


def test_the_table_of_the_demo_is_a_recorded_one() -> None:
    recorded = json.loads((ROOT / "benchmarks" / "results" / "demo.json").read_text(encoding="utf-8"))["emulated-0"][
        "table"
    ]
    rows = re.findall(
        r"^\| (?:(shape|color|texture) \(chance .*?\))? ?\| (.*?) \| (.*?) \| (.*?) ?\| (.*?) \|$", README, re.M
    )
    assert len(rows) == len(recorded) == 15
    task = ""
    names = {"untrained": "untrained (denoise)", "untrained, gray": "untrained (colorize)"}
    for named, method, accuracy, gain, knn in rows:
        task = named or task
        found = recorded[f"{task}, {names.get(method, method)}"]
        shown = [found["accuracy"], *found["ci95"], found["knn"]]
        if gain:
            shown += [found["gain"], *found["gain_ci95"]]
        numbers = [float(text) for text in re.findall(r"[-+]?\d+\.\d", f"{accuracy} {knn} {gain}")]
        assert numbers == pytest.approx([100 * value for value in shown], abs=0.0501), (task, method)
