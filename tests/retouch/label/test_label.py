"""The labeling page: harmless whatever names say, its classifier exact, and labels.csv read by every stage."""

from __future__ import annotations

import base64
import hashlib
import html as markup
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import retouch
from common.data import build_source
from common.encoders import EncoderConfig
from common.encoders.build import build_encoder
from common.encoders.export import export_encoder
from retouch.cli import main
from retouch.label.images import Shown, read_images
from retouch.label.page import html
from retouch.label.settings import LabelConfig, LabelData
from tests.retouch.report.runs import EVIL

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ODD = 'it\'s "1", <b>&amp;'  # a file name


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder, and twelve red and twelve blue pictures without labels, one with an odd name."""
    folder = tmp_path_factory.mktemp("label")
    torch.manual_seed(0)
    small = EncoderConfig(name="small_cnn", model_args={"width": 4, "depth": 1})
    export_encoder(build_encoder(small, image_size=16), folder / "encoder", {})
    generator = np.random.default_rng(0)
    (folder / "pictures").mkdir()
    for number in range(24):
        pixels = generator.integers(0, 30, (20, 20, 3), dtype=np.uint8)
        pixels[..., 2 * (number % 2)] += 150
        name = f"{ODD} {number}" if number == 0 else f"{number}"
        Image.fromarray(pixels).save(folder / "pictures" / f"{('red', 'blue')[number % 2]} {name}.png")
    (folder / "pictures" / "broken.png").write_bytes(b"no image")
    assert main(["label", f"encoder={folder}/encoder", f"data={folder}/pictures", "-o", f"{folder}/label.html"]) == 0
    return folder


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    values: dict[str, Any] = json.loads(found[1])
    return values


def test_the_page_holds_every_readable_image_and_allows_its_one_script_alone(here: Path) -> None:
    page = (here / "label.html").read_text()
    found = data_of(page)
    assert len(found["paths"]) == 24
    assert sorted(map(Path, found["paths"])) == sorted(set((here / "pictures").glob("[rb][el]*.png")))
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'\"" in page
    assert not re.search(r"https?://|innerHTML|\son\w+=|eval\(", page.replace(ODD, ""))


def test_no_name_ends_the_data_or_the_title() -> None:
    shown = Shown((f"/a/</script><script>alert(1)</script>{EVIL}.png", "/a/b.png"), torch.zeros(2, 1).half(), ())
    page = html(shown, f"</title>{EVIL}")
    assert data_of(page)["paths"] == list(shown.paths)
    assert page.count("<script") == 2
    assert "<img" not in page


HARNESS = """
const made = {};
URL.createObjectURL = (blob) => { blob.text().then((text) => { made.csv = text; done(); }); return "#"; };
const cells = () => [...document.querySelectorAll("#grid button")];
const press = (target, key) =>
  target.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true, cancelable: true}));
function addName(text) {
  document.getElementById("name").value = text;
  document.getElementById("form").requestSubmit();
}
cells()[0].click();
made.before = document.getElementById("status").textContent;
addName(NAMES[0]);
for (const cell of cells().filter((one) => one.title.includes("/red")).slice(0, 4)) cell.click();
addName(NAMES[1]);
const blue = cells().filter((one) => one.title.includes("/blue"));
blue[0].click();
blue[0].click();  // takes it back
for (const cell of blue.slice(0, 4)) press(cell, "2");
made.labels = [...labels];
made.scores = [...scores];
made.X = [...X];
made.guesses = Object.fromEntries(cells().map((one) => [one.title, one.lastChild.textContent]));
document.getElementById("order").value = "class0";
document.getElementById("sort").click();
made.like = cells().map((one) => one.title);
document.getElementById("order").value = "uncertain";
document.getElementById("sort").click();
made.uncertain = cells().map((one) => Number(one.dataset.image));
cells()[0].focus();
press(cells()[0], "ArrowRight");
made.focus = cells().indexOf(document.activeElement);
made.images = document.querySelectorAll("img, b").length;
function done() {
  const found = document.createElement("pre");
  found.id = "made";
  found.textContent = JSON.stringify(made);
  document.body.append(found);
}
document.getElementById("save").click();
"""


def browsed(page: Path) -> str:
    """The page after its scripts have run."""
    assert CHROMIUM is not None
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom"]
    ran = subprocess.run([CHROMIUM, *flags, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    return ran.stdout


needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium to run the page's script in")


@pytest.fixture(scope="module")
def made(here: Path) -> dict[str, Any]:
    """What a user's clicks and keys make of the page: four red images and four blue ones are labeled, and saved."""
    page = (here / "label.html").read_text()
    page = re.sub(r'<meta http-equiv="Content-Security-Policy".*?>', "", page)  # which would forbid the harness
    harness = HARNESS.replace("NAMES", json.dumps([EVIL, ' "blue",  it\'s '])).replace("</", "<\\/")
    (here / "harness.html").write_text(page.replace("</body>", f"<script>{harness}</script></body>"))
    found = re.search(r'<pre id="made">(.*?)</pre>', browsed(here / "harness.html"), re.DOTALL)
    assert found is not None
    values: dict[str, Any] = json.loads(markup.unescape(found[1]))
    (here / "labels.csv").write_text(values["csv"], encoding="utf-8")
    return values


@needs_chromium
def test_the_script_runs_under_the_policy_of_the_page(here: Path) -> None:
    shown = browsed(here / "label.html")
    assert shown.count("data-image=") == 24
    assert "1 to 24 of 24" in shown
    assert f"{ODD} 0.png" in markup.unescape(shown)


@needs_chromium
def test_clicks_and_keys_label_images_and_a_class_comes_first(made: dict[str, Any]) -> None:
    assert made["before"] == "Name a class first."
    assert sorted(made["labels"]) == [-1] * 16 + [0] * 4 + [1] * 4
    assert made["focus"] == 1
    assert made["images"] == 0  # no name became an element


@needs_chromium
def test_the_classifier_in_the_page_is_ridge_regression(here: Path, made: dict[str, Any]) -> None:
    found = data_of((here / "label.html").read_text())
    raw = np.frombuffer(base64.b64decode(found["features"]), np.float16).astype(float)
    X = raw.reshape(24, found["width"])
    assert np.array_equal(np.array(made["X"]), raw)
    labels = np.array(made["labels"])
    rows = np.flatnonzero(labels >= 0)
    Y = np.eye(2)[labels[rows]]
    mean, share = X[rows].mean(0), Y.mean(0)
    centered = X[rows] - mean
    A = centered.T @ centered / len(rows) + 0.01 * np.eye(X.shape[1])
    expected = (X - mean) @ np.linalg.solve(A, centered.T @ (Y - share) / len(rows)) + share
    np.testing.assert_allclose(np.array(made["scores"]).reshape(24, 2), expected, atol=1e-9)
    margin = np.abs(expected[:, 0] - expected[:, 1])
    rest = [row for row in np.argsort(margin) if labels[row] < 0]
    assert made["uncertain"] == rest


@needs_chromium
def test_the_rest_is_guessed_and_ranked_by_class(made: dict[str, Any]) -> None:
    for path, said in made["guesses"].items():
        assert said.rstrip("?") == (EVIL if "/red" in path else '"blue", it\'s')
    assert len(made["like"]) == 16
    assert all("/red" in path for path in made["like"][:8])


@needs_chromium
def test_labels_csv_is_read_by_probe_and_finetune(here: Path, made: dict[str, Any], tmp_path: Path) -> None:
    source = build_source(str(here / "labels.csv"))
    assert len(source) == 8
    found = source.labels()
    assert found.names == ('"blue", it\'s', EVIL)
    for row in range(8):
        assert Path(source.where(row)).is_file()
        assert found.names[found.values[row]] == (EVIL if "/red" in source.where(row) else '"blue", it\'s')
    quiet = {"wandb": {"mode": "disabled"}, "data": {"train": str(here / "labels.csv"), "workers": 0}}
    quick: dict[str, Any] = {
        "probe": {"l2": [1e-2]},
        "knn": None,
        "baselines": {"random_init": False, "pixels": False},
        "properties": False,
        "damage": [],
    }
    probed = retouch.probe({"encoder": here / "encoder", "out": tmp_path / "p", **quick, **quiet})
    assert probed.results[0].classes == found.names
    compare = {"linear_probe": False, "from_scratch": False}
    short = {"steps": 2, "batch_size": 4, "evaluate_every": 1, "compare": compare}
    tuned = retouch.finetune({"encoder": here / "encoder", "out": tmp_path / "f", **short, **quiet})
    assert tuned is not None
    assert tuned.classes == found.names


def test_images_that_are_no_files_are_refused_and_nothing_of_the_users_is_replaced(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.html").write_text("mine")
    assert main(["label", f"encoder={here}/encoder", "data=shapes", "-o", f"{tmp_path}/a.html"]) == 2
    assert "labels.csv names files; give a folder of images" in capsys.readouterr().err
    assert main(["label", f"encoder={here}/none", "data=nowhere", "-o", f"{tmp_path}/a.html"]) == 2
    said = capsys.readouterr().err
    assert "none" in said
    assert "nowhere" in said
    assert not (tmp_path / "a.html").exists()
    assert main(["label", f"encoder={here}/encoder", f"data={here}/pictures", "-o", f"{tmp_path}/mine.html"]) == 2
    assert (tmp_path / "mine.html").read_text() == "mine"
    assert main(["label", f"encoder={here}/encoder", "-o", f"{tmp_path}/a.html"]) == 2


def test_names_that_no_csv_file_can_hold_are_left_out(here: Path, caplog: pytest.LogCaptureFixture) -> None:
    odd = here / "pictures" / "red \udcff.png"
    shutil.copy(here / "pictures" / "blue 1.png", odd)
    try:
        data = LabelData(source=str(here / "pictures"), workers=0)
        shown = read_images(LabelConfig(encoder=here / "encoder", data=data))
    finally:
        odd.unlink()
    assert len(shown.paths) == 24
    assert any("not UTF-8" in message for message in caplog.messages)
