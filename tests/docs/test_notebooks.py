"""The notebooks run from the first cell to the last, made smaller; `make notebooks` runs them whole."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nbformat
import notebooks
import pytest
from run_notebooks import FOLDER, executed

ROOT = Path(__file__).resolve().parents[2]
PATHS = sorted(FOLDER.glob("*.ipynb"))
LARGEST = 500_000  # bytes of a stored notebook
ONE_FIT = '"probe.layers=[last3]", "probe.poolings=[avg]", "probe.l2=[0.01]"'
NARROW = '"batch_size=16", "data.workers=0", "encoder.model_args={width: 8, depth: 1}"'
SMALLER = {  # what a test makes smaller: fewer images and steps, and one layer with one strength for the probe
    "folder-to-number": {
        '"pictures", 1200': '"pictures", 60',
        '"labeled", 2000': '"labeled", 240',
        '"steps=300"': f'"steps=2", {NARROW}',
        "panels_every=300": "panels_every=2",
        '"null_check=false"': f'"null_check=false", "data.workers=0", {ONE_FIT}',
        "data.limit=200": "data.limit=20",
    },
    "lecture": {
        '"photos", 4000': '"photos", 1000',
        "photos:train:4000": "photos:train:1000",
        "steps=40": "steps=2",
        '"steps=80"': f'"steps=2", {NARROW}',
        "panels_every=80": "panels_every=2",
    },
    "use-an-encoder": {"steps=30": "steps=2", "shapes:train:600": "shapes:train:200"},
}


def test_every_notebook_is_run() -> None:
    assert {path.stem for path in PATHS} == SMALLER.keys()


def smaller(path: Path, to: Path) -> Path:
    notebook = nbformat.read(path, as_version=4)
    text = "".join(cell.source for cell in notebook.cells)
    assert all(one in text for one in SMALLER[path.stem]), "a notebook changed: change what is made smaller too"
    for cell in notebook.cells:
        for old, new in SMALLER[path.stem].items():
            cell.source = cell.source.replace(old, new)
    nbformat.write(notebook, to)
    return to


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("RETOUCH_CACHE", str(tmp_path / "cache"))
    cells = executed(smaller(path, tmp_path / "smaller.ipynb"), tmp_path).cells
    assert all(cell.execution_count for cell in cells if cell.cell_type == "code")


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_stored_notebook_is_small_and_says_nothing_of_a_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text) < LARGEST
    assert not re.search(r"/(tmp|home|root|Users|var)/", text)


def test_a_page_has_text_code_and_outputs_of_its_notebook(tmp_path: Path) -> None:
    def code(source: str, *outputs: object) -> dict[str, object]:
        return {"cell_type": "code", "source": [source], "outputs": outputs}

    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "\n", "Words."]},
        code("1 + 1", {"data": {"text/plain": ["2"]}}),
        code("draw()", {"data": {"image/png": "aGVsbG8=", "text/plain": ["<Image>"]}}),
        code("print(3)", {"name": "stdout", "text": ["3\n"]}),
    ]
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps({"cells": cells}))
    found = notebooks.page(path)
    page = found["notebooks/a.md"]
    assert isinstance(page, str)
    assert page.startswith("# Title\n\n")
    assert "```python\n1 + 1\n```\n\n```text\n2\n```" in page
    assert "](a-1.png)" in page
    assert "```text\n3\n```" in page
    assert found["notebooks/a-1.png"] == b"hello"
