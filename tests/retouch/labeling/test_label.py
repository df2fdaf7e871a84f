"""The labeling page: harmless whatever names say, its classifier exact, and labels.csv read by every stage."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image

import retouch
from common.data import Images, build_source, load_images
from common.data.levels import Levels
from common.encoders import EncoderConfig
from common.encoders.build import build_encoder
from common.encoders.export import export_encoder
from common.encoders.provenance import Provenance
from common.recipes import stage_config
from retouch.cli import main
from retouch.labeling.images import Shown, read_images
from retouch.labeling.page import html
from retouch.labeling.settings import LabelConfig, LabelData
from retouch.studies.config import StudyConfig
from retouch.studies.images import load, open_images
from tests.browser import Browser, Tab, needs_chromium
from tests.retouch.reporting.runs import EVIL

ODD = 'it\'s "1", <b>&amp;'  # a file name


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder, and twelve red and twelve blue pictures without labels, one with an odd name."""
    folder = tmp_path_factory.mktemp("label")
    torch.manual_seed(0)
    small = EncoderConfig(name="small_cnn", model_args={"width": 4, "depth": 1})
    export_encoder(build_encoder(small, image_size=16), folder / "encoder")
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


class Made(NamedTuple):
    """A user's clicks and keys on the page: four red and four blue images are labeled and saved."""

    problems: list[str]
    before: str  # what was said when an image was clicked before there was a class
    labels: list[int]
    scores: list[float]
    X: list[float]
    guesses: dict[str, str]  # by path
    like: list[str]  # paths, in the order of the first class
    uncertain: list[int]
    focus: int
    elements: int  # of kinds that the page has none of
    saved: str


BUTTONS = "[...document.querySelectorAll('#grid button')]"


def choose(tab: Tab, order: str) -> list[int]:
    """Choose a view; returns the images in their order."""
    tab.evaluate(
        f"document.getElementById('order').value = '{order}';"
        "document.getElementById('order').dispatchEvent(new Event('change', {bubbles: true}))"
    )
    found: list[int] = tab.evaluate(
        "[...document.querySelectorAll('#images button')].map((b) => Number(b.dataset.image))"
    )
    return found


def image(number: int) -> str:
    return f'#images [data-image="{number}"]'


@pytest.fixture(scope="module")
def made(here: Path, browser: Browser) -> Made:
    tab = browser.open(here / "label.html")
    paths = tab.evaluate("DATA.paths")
    red, blue = ([number for number, path in enumerate(paths) if f"/{color}" in path] for color in ("red", "blue"))
    tab.click(image(red[0]))
    before = tab.evaluate("document.getElementById('status').textContent")
    tab.write(EVIL)  # the field has the focus now
    tab.press("Enter")
    for number in red[:4]:
        tab.click(image(number))
    tab.click("#name")
    tab.write(' "blue",  it\'s ')
    tab.press("Enter")
    for number in (blue[0], blue[0]):  # the second click removes it
        tab.click(image(number))
    for number in blue[:4]:
        tab.evaluate(f"document.querySelector('{image(number)}').focus()")
        tab.press("2")
    guesses = tab.evaluate(f"Object.fromEntries({BUTTONS}.map((b) => [b.title, b.lastChild.textContent]))")
    like = [paths[number] for number in choose(tab, "class0")]
    uncertain = choose(tab, "uncertain")
    tab.evaluate(f"{BUTTONS}[0].focus()")
    tab.press("ArrowRight")
    focus = tab.evaluate(f"{BUTTONS}.indexOf(document.activeElement)")
    with browser.saving(here):
        tab.click("#save")
    return Made(
        problems=tab.problems,
        before=before,
        labels=tab.evaluate("[...labels]"),
        scores=tab.evaluate("[...scores]"),
        X=tab.evaluate("[...X]"),
        guesses=guesses,
        like=like,
        uncertain=uncertain,
        focus=focus,
        elements=tab.evaluate("document.querySelectorAll('img, b').length"),
        saved=(here / "labels.csv").read_text(encoding="utf-8"),
    )


@needs_chromium
def test_the_page_works_as_it_is_shipped(made: Made) -> None:
    assert made.problems == []  # nothing that its policy forbids, no error
    assert made.saved.startswith("path,label\n")
    assert made.saved.count("\n") == 9


@needs_chromium
@pytest.mark.parametrize("width", [380, 1400])
@pytest.mark.parametrize("order", ["uncertain", "map"])
def test_nothing_is_wider_than_the_window(here: Path, browser: Browser, width: int, order: str) -> None:
    tab = browser.open(here / "label.html", width)
    assert len(choose(tab, order)) == 24
    assert tab.evaluate("document.scrollingElement.scrollWidth") <= width


@needs_chromium
@pytest.mark.parametrize(("scheme", "paper"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(21, 23, 27)")])
def test_every_text_stands_out_in_light_and_in_dark(here: Path, browser: Browser, scheme: str, paper: str) -> None:
    tab = browser.open(here / "label.html")
    tab.scheme(scheme)
    tab.click("#name")
    tab.write("one")
    tab.press("Enter")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == paper
    assert tab.faint() == []
    assert tab.problems == []


@needs_chromium
def test_images_are_labeled_on_the_map_where_alike_is_near(here: Path, browser: Browser) -> None:
    tab = browser.open(here / "label.html")
    tab.click("#name")
    tab.write("one")
    tab.press("Enter")
    shown = choose(tab, "map")
    boxes = tab.evaluate("[...document.querySelectorAll('#map button')].map((b) => [b.style.left, b.style.top])")
    points = np.array([[float(value.rstrip("%")) for value in box] for box in boxes])
    assert points.min() == 0
    assert points.max() == 100
    apart = ((points[:, None] - points) ** 2).sum(2)
    np.fill_diagonal(apart, np.inf)
    paths = tab.evaluate("DATA.paths")
    colors = np.array(["/red" in paths[number] for number in shown])
    assert (colors[apart.argmin(1)] == colors).all()
    alone = shown[int(apart.min(1).argmax())]  # no other covers it
    tab.click(image(alone))
    assert tab.evaluate("[...labels]") == [0 if number == alone else -1 for number in range(24)]
    assert tab.evaluate(f"document.querySelector('{image(alone)}').getAttribute('aria-label')").endswith(", one")
    place = "['left', 'top'].map((side) => parseFloat(document.activeElement.style[side]))"
    start = tab.evaluate(place)
    tab.press("ArrowLeft" if start[0] > 50 else "ArrowRight")
    moved = np.subtract(tab.evaluate(place), start)
    assert abs(moved[0]) >= abs(moved[1])
    assert moved[0] * (50 - start[0]) > 0
    assert choose(tab, "labeled") == [alone]
    assert tab.problems == []


@needs_chromium
def test_names_are_texts(here: Path, browser: Browser) -> None:
    tab = browser.open(here / "label.html")
    assert tab.evaluate("document.getElementById('where').textContent") == "1 to 24 of 24"
    assert f"{ODD} 0.png" in " ".join(tab.evaluate(f"{BUTTONS}.map((b) => b.title)"))


@needs_chromium
def test_clicks_and_keys_label_images_and_a_class_comes_first(made: Made) -> None:
    assert made.before == "Add a class first."
    assert sorted(made.labels) == [-1] * 16 + [0] * 4 + [1] * 4
    assert made.focus == 1
    assert made.elements == 0  # no name became an element


@needs_chromium
def test_the_classifier_in_the_page_is_ridge_regression(here: Path, made: Made) -> None:
    found = data_of((here / "label.html").read_text())
    raw = np.frombuffer(base64.b64decode(found["features"]), np.float16).astype(float)
    X = raw.reshape(24, found["width"])
    assert np.array_equal(np.array(made.X), raw)
    labels = np.array(made.labels)
    rows = np.flatnonzero(labels >= 0)
    Y = np.eye(2)[labels[rows]]
    mean, share = X[rows].mean(0), Y.mean(0)
    centered = X[rows] - mean
    A = centered.T @ centered / len(rows) + 0.01 * np.eye(X.shape[1])
    expected = (X - mean) @ np.linalg.solve(A, centered.T @ (Y - share) / len(rows)) + share
    np.testing.assert_allclose(np.array(made.scores).reshape(24, 2), expected, atol=1e-9)
    margin = np.abs(expected[:, 0] - expected[:, 1])
    rest = [row for row in np.argsort(margin) if labels[row] < 0]
    assert made.uncertain == rest


@needs_chromium
def test_the_rest_is_guessed_and_ranked_by_class(made: Made) -> None:
    for path, said in made.guesses.items():
        assert said.rstrip("?") == (EVIL if "/red" in path else '"blue", it\'s')
    assert len(made.like) == 16
    assert all("/red" in path for path in made.like[:8])


@needs_chromium
def test_labels_csv_is_read_by_probe_and_finetune(here: Path, made: Made, tmp_path: Path) -> None:
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


@needs_chromium
def test_a_study_reads_labels_csv(made: Made, tmp_path: Path) -> None:
    # as if every guess had been confirmed by a click
    rows = {path: said.rstrip("?") for path, said in made.guesses.items()}
    with (tmp_path / "labels.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows([("path", "label"), *rows.items()])
    lines = (tmp_path / "labels.csv").read_text(encoding="utf-8").splitlines()
    assert set(made.saved.splitlines()[1:]) < set(lines)  # the page writes the same
    config = stage_config(StudyConfig, None, [f"labels={tmp_path}/labels.csv", "labels.workers=0", f"out={tmp_path}/s"])
    pool, [labeled], _ = load(config, open_images(config), 16)
    [(known, asked)] = labeled.tasks.values()
    assert known.names == asked.names == ('"blue", it\'s', EVIL)
    assert len(pool) == len(labeled.train) == 24 - len(labeled.test)


def test_images_that_are_no_files_are_refused_and_nothing_of_the_users_is_replaced(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.html").write_text("mine")
    assert main(["label", f"encoder={here}/encoder", "data=shapes", "-o", f"{tmp_path}/a.html"]) == 2
    assert "not separate files, which labels.csv needs; give a folder of images" in capsys.readouterr().err
    assert main(["label", f"encoder={here}/none", "data=nowhere", "-o", f"{tmp_path}/a.html"]) == 2
    said = capsys.readouterr().err
    assert "none" in said
    assert "nowhere" in said
    assert not (tmp_path / "a.html").exists()
    assert main(["label", f"encoder={here}/encoder", f"data={here}/pictures", "-o", f"{tmp_path}/mine.html"]) == 2
    assert (tmp_path / "mine.html").read_text() == "mine"
    assert main(["label", f"encoder={here}/encoder", "-o", f"{tmp_path}/a.html"]) == 2


def test_values_are_scaled_as_in_training_on_the_page_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = EncoderConfig(name="small_cnn", model_args={"width": 4, "depth": 1})
    encoder = build_encoder(small, image_size=16)
    export_encoder(encoder, tmp_path / "encoder", Provenance(levels=Levels(0, 65535)))
    (tmp_path / "deep").mkdir()
    for number in range(2):
        Image.fromarray(np.full((16, 16), 900 + number, np.uint16)).save(tmp_path / "deep" / f"{number}.png")
    seen: list[Images] = []

    def loading(*given: Any, **named: Any) -> Images:
        seen.append(load_images(*given, **named))
        return seen[-1]

    monkeypatch.setattr("retouch.labeling.images.load_images", loading)
    data = LabelData(source=str(tmp_path / "deep"), workers=0)
    read_images(LabelConfig(encoder=tmp_path / "encoder", data=data))
    assert [images.levels for images in seen] == [(0, 65535), (0, 65535)]  # thumbnails as well


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
