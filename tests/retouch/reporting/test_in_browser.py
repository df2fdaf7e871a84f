"""The page in a browser: no complaint, nothing wider than the window, harmless, and printed whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from finetune.embedding import write_embeddings
from finetune.results import ProbeReport, write_results
from retouch.reporting.page import write_report
from tests.browser import Browser, Tab, needs_chromium
from tests.retouch.reporting.runs import (
    CLASSES,
    EVIL,
    LABELS,
    clusters,
    probe_result,
    start,
    write_finetuning,
    write_pretraining,
    write_probe,
)
from tests.retouch.reporting.several import label_result, mask_result
from tests.retouch.studies.finished import write_study

LONG = "a_name_without_any_place_to_break_it_" * 4
WIDER = """
[...document.querySelectorAll("body, body *")]
  .filter((one) => !one.parentElement.closest(".scroll") && one.getBoundingClientRect().right > innerWidth + 0.5)
  .map((one) => one.outerHTML.slice(0, 200))
"""

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory, browser: Browser) -> Tab:
    """A report of a run of every kind, with names that are long or wicked."""
    folder = tmp_path_factory.mktemp("report")
    sheet = Image.new("RGB", (1200, 900), "white")
    pretraining = write_pretraining(folder / "denoise", panel=sheet, method=EVIL, wrong=LONG)
    sheet.save(pretraining / "panels" / "atoms.png")
    result, predictions = probe_result(classes=(EVIL, LONG, "owl"), task=LONG, damage=["gray", "blur"], code=True)
    probes = [(result.model_copy(update={"label_efficiency": LABELS}), predictions)]
    many = tuple(f"class {number} {EVIL}" for number in range(24))
    for number, classes in enumerate((many, CLASSES, CLASSES, CLASSES), 1):
        title = f"{number} {LONG}"
        probes.append(probe_result(task=f"task {number}", classes=classes, pretext=title, sha256=f"{number}" * 64))
    runs = [write_probe(folder / f"probe-{number}", one, notes=[EVIL]) for number, one in enumerate(probes)]
    write_embeddings(runs[0], [clusters()], [0])
    start(folder / "others", "probe", "seed: 3\n")
    others = ProbeReport(results=(), multilabel=(label_result(train=LONG),), dense=(mask_result(train=LONG),))
    write_results(folder / "others", others)
    write_finetuning(folder / "full")
    write_study(folder / "study")
    return browser.open(write_report([folder], folder / "report.html"))


def test_the_browser_has_nothing_to_complain_of(tab: Tab) -> None:
    assert len(tab.evaluate("[...document.querySelectorAll('section')].map((one) => one.id)")) == 19
    assert tab.problems == []


def test_what_the_page_does_not_allow_is_complained_of(tmp_path: Path, tab: Tab) -> None:
    """So the test above would see it."""
    page = tab.evaluate("document.documentElement.outerHTML").replace("</body>", "<script>alert(1)</script></body>")
    (tmp_path / "other.html").write_text(page, encoding="utf-8")
    assert "violates" in tab.browser.open(tmp_path / "other.html").problems[0]


@pytest.mark.parametrize("width", [380, 1400])
def test_nothing_is_wider_than_the_window(tab: Tab, width: int) -> None:
    tab.resize(width)
    tab.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    assert tab.evaluate("innerWidth") == width
    assert tab.evaluate(WIDER) == []
    assert tab.evaluate("document.scrollingElement.scrollWidth") <= width


def test_a_wide_table_is_scrolled_in_its_own_box_and_its_names_stay(tab: Tab) -> None:
    tab.resize(380)
    box = "document.querySelector('#study .scroll')"
    name = f"{box}.querySelector('td').getBoundingClientRect()"
    assert tab.evaluate(f"{box}.scrollWidth > {box}.clientWidth")
    before = tab.evaluate(f"{name}.left")
    tab.evaluate(f"{box}.scrollLeft = 200")
    try:
        assert tab.evaluate(f"{box}.scrollLeft") > 50
        assert tab.evaluate(f"{name}.left") == before
        assert tab.evaluate(f"{name}.width") <= 160  # of 380: the numbers have more than half of the window
    finally:
        tab.evaluate(f"{box}.scrollLeft = 0")


def test_names_are_texts_and_nothing_else(tab: Tab) -> None:
    assert EVIL in tab.evaluate("document.body.textContent")
    assert (
        tab.evaluate("document.querySelectorAll('img:not([src^=\"data:image/png\"]), script, [onerror]').length") == 0
    )
    assert tab.evaluate("[...document.images].every((one) => one.complete && one.naturalWidth > 0)")


@pytest.mark.parametrize(("scheme", "paper"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(21, 23, 27)")])
def test_every_text_stands_out_in_light_and_in_dark(tab: Tab, scheme: str, paper: str) -> None:
    tab.resize(1400)
    tab.scheme(scheme)
    try:
        tab.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
        assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == paper
        assert tab.faint() == []
        assert tab.evaluate("getComputedStyle(document.querySelector('svg .line')).stroke") != paper
        assert tab.problems == []
    finally:
        tab.scheme("light")


def test_the_page_is_printed_whole(tab: Tab) -> None:
    found = tab.printed()
    assert found.startswith(b"%PDF-")
    assert found.count(b"/Type /Page\n") >= 4
