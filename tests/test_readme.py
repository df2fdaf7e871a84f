"""The code of README, the tour and the guide to one's own data runs as it stands, on small pictures, in two steps."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from tests.documents import ROOT, Command, commands, make_home, run, samples, shorten_recipes, text_of

DOCUMENTS = ("README.md", "docs/tour.md", "docs/guides/own-data.md")
README = text_of("README.md")
PYTHON = samples("README.md")
RUN = commands(*DOCUMENTS)


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of a user for each document, with pictures of all kinds that commands name."""
    return {document: make_home(tmp_path_factory.mktemp("home")) for document in DOCUMENTS}


@pytest.fixture(autouse=True)
def quick(few_strengths: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped recipes with a few steps."""
    shorten_recipes(monkeypatch, tmp_path)


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
    assert run(one.line) == 0, capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("code", PYTHON)
def test_python_works_as_typed(code: str, homes: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(homes["README.md"])
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


def test_the_tour_makes_the_images_that_it_describes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,200 without labels, and 800 in a folder for each of four textures."""
    (code,) = samples("docs/tour.md")
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
