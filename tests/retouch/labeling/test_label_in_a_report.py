"""Images are labeled in the page of a report, from the command to labels.csv."""

from __future__ import annotations

import json
from pathlib import Path

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
from retouch.labeling.page import read_script
from tests.browser import Browser, Tab, needs_chromium
from tests.common.data.samples import picture
from tests.retouch.reporting.reading import Page
from tests.retouch.reporting.runs import EVIL, write_pretraining

FRAME = "document.querySelector('iframe')"
INSIDE = f"{FRAME}.contentDocument"
BUTTONS = f"[...{INSIDE}.querySelectorAll('#images button')]"
LOADED = f"""new Promise((done) => {{
  const look = () => {INSIDE}?.querySelector('#images button') ? done() : setTimeout(look, 20);
  look();
}})"""
# once it has stopped moving: what is loaded above it pushes it down
MIDDLE = f"""new Promise((done) => {{
  const one = {INSIDE}.querySelector(SELECTOR), frame = {FRAME};
  let before = [];
  const look = () => {{
    one.scrollIntoView({{block: "center", behavior: "instant"}});
    const box = one.getBoundingClientRect(), around = frame.getBoundingClientRect();
    const [left, top] = [around.x + frame.clientLeft, around.y + frame.clientTop];
    const now = [left + box.x + box.width / 2, top + box.y + box.height / 2];
    if (now.every((place, axis) => place === before[axis])) return done(now);
    before = now;
    setTimeout(look, 20);
  }};
  look();
}})"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run that learned from twelve red and twelve blue pictures."""
    folder = tmp_path_factory.mktemp("labeled")
    torch.manual_seed(0)
    run, pictures = write_pretraining(folder / "run"), folder / f"pictures {EVIL}"
    small = EncoderConfig(name="small_cnn", model_args={"width": 4, "depth": 1})
    export_encoder(build_encoder(small, image_size=16), run / "encoder")
    generator = np.random.default_rng(0)
    pictures.mkdir()
    for number in range(24):
        pixels = generator.integers(0, 30, (20, 20, 3), dtype=np.uint8)
        pixels[..., 2 * (number % 2)] += 150
        Image.fromarray(pixels).save(pictures / f"{('red', 'blue')[number % 2]} {number}.png")
    (run / "config.yaml").write_text(f"# retouch pretrain\n{json.dumps({'data': {'source': str(pictures)}})}\n")
    retouch.report(run, out=folder / "report.html", label=["data.workers=0"])
    return folder


def test_images_are_labeled_in_the_page_where_that_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, pictures = write_pretraining(tmp_path / "my run"), tmp_path / f"my pictures {EVIL}"
    export_encoder(build_encoder(EncoderConfig(model_args={"width": 4, "depth": 1}), image_size=16), run / "encoder")
    command = ["report", str(run), "-o", str(tmp_path / "report.html"), "--label"]
    assert main(command) == 2  # the run's own images are gone
    assert "data" in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    for folder, count in ((pictures, 3), (tmp_path / "other", 2)):
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            picture(number).save(folder / f"{number}.png")
    settings = {"data": {"source": str(pictures), "image_size": 16}}
    (run / "config.yaml").write_text(f"# retouch pretrain\n{json.dumps(settings)}\n")
    assert main([*command, "data.workers=0"]) == 0
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert "label" in page.sections
    assert f"Label 3 images of {' '.join(str(pictures).split())}" in page.said
    assert "retouch label" not in page.said
    [frame] = [attributes["srcdoc"] for tag, attributes in page.tags if tag == "iframe"]
    policies = [
        attributes["content"]
        for one in (page, Page(frame))
        for tag, attributes in one.tags
        if tag == "meta" and "http-equiv" in attributes
    ]
    usual = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert policies == [f"{usual}; script-src 'sha256-{read_script().digest}'"] * 2
    assert "script" not in {tag for tag, _ in page.tags}
    assert Page(frame).said.startswith(f"Label {' '.join(str(pictures).split())}")
    retouch.report(run, out=tmp_path / "report.html", label=[f"data={tmp_path}/other", "data.workers=0"])
    assert f"Label 2 images of {tmp_path}/other" in (tmp_path / "report.html").read_text(encoding="utf-8")


def opened(browser: Browser, page: Path, width: int = 1400) -> Tab:
    """The page with its part for labeling, which may be loaded only when it is seen."""
    tab = browser.open(page, width)
    tab.click("#label summary")
    tab.evaluate(f"{FRAME}.scrollIntoView({{behavior: 'instant'}})")
    tab.evaluate(LOADED)
    assert tab.evaluate("document.querySelector('.frame').open")
    return tab


def click(tab: Tab, selector: str) -> None:
    """A click of the mouse in the middle of an element in the frame."""
    x, y = tab.evaluate(MIDDLE.replace("SELECTOR", json.dumps(selector)))
    for kind in ("mousePressed", "mouseReleased"):
        tab.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)


@needs_chromium
def test_images_are_labeled_in_the_page_and_saved_for_every_stage(folder: Path, browser: Browser) -> None:
    tab = opened(browser, folder / "report.html")
    titles = tab.evaluate(f"{BUTTONS}.map((one) => [one.dataset.image, one.title])")
    red, blue = ([number for number, path in titles if f"/{color} " in path] for color in ("red", "blue"))
    assert (len(red), len(blue)) == (12, 12)
    for name, numbers in ((EVIL, red), ("blue", blue)):
        click(tab, "#name")
        tab.write(name)
        tab.press("Enter")
        for number in numbers[:3]:
            click(tab, f'#images [data-image="{number}"]')
    said = tab.evaluate(f"Object.fromEntries({BUTTONS}.map((one) => [one.dataset.image, one.lastChild.textContent]))")
    assert [said[number] for number in red] == [EVIL] * 3 + [f"{EVIL}?"] * 9  # the rest is guessed
    assert [said[number] for number in blue] == ["blue"] * 3 + ["blue?"] * 9
    with browser.saving(folder):
        click(tab, "#save")
    source = build_source(str(folder / "labels.csv"))
    labels = source.labels()
    assert labels.names == (EVIL, "blue")
    named = {source.where(row): labels.names[labels.values[row]] for row in range(len(source))}
    assert named == {path: said[number] for number, path in titles if not said[number].endswith("?")}
    assert tab.evaluate(f"{INSIDE}.querySelectorAll('img, b').length") == 0  # no name became an element
    assert tab.problems == []


@needs_chromium
@pytest.mark.parametrize("width", [380, 1400])
def test_the_part_fits_the_window_in_light_and_dark_and_is_not_printed(
    folder: Path, browser: Browser, width: int
) -> None:
    tab = opened(browser, folder / "report.html", width)
    assert tab.evaluate("document.scrollingElement.scrollWidth") <= width
    assert tab.evaluate(f"{INSIDE}.scrollingElement.scrollWidth <= {FRAME}.clientWidth")
    for scheme, paper in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(21, 23, 27)")):
        tab.scheme(scheme)
        papers = [tab.evaluate(f"getComputedStyle({page}.body).backgroundColor") for page in ("document", INSIDE)]
        assert papers == [paper] * 2
    assert tab.evaluate("document.querySelector('.frame').checkVisibility()")
    tab.ask("Emulation.setEmulatedMedia", media="print")
    assert not tab.evaluate("document.querySelector('.frame').checkVisibility()")
    assert tab.problems == []
