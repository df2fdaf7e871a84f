"""The documentation site: it names everything there is, and its pages ask no server."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pages
import pytest
import reference
import repository
import yaml
from schema_tables import sections

import retouch
from common.recipes import recipes, sweeps
from common.runs.describe import settings_of
from finetune.config import ProbeConfig
from pretrain.config import PretrainConfig
from tests.browser import chromium, needs_chromium

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}  # by a page, unasked
# A key is let go of again and again: what was typed before the page listened would not be searched for.
FIRST_FOUND = """new Promise((done) => {
  const look = () => {
    const link = document.querySelector(".md-search-result__link");
    if (link) return done(link.href);
    document.querySelector("input.md-search__input").dispatchEvent(new Event("keyup"));
    setTimeout(look, 200);
  };
  look();
})"""
STEPS_ASIDE = ("canonical", "next", "prev", "edit")  # links that load nothing


@pytest.fixture(scope="module")
def made() -> dict[str, str | bytes]:
    return pages.generated()


def named(nav: Any) -> Iterator[str]:
    """The pages in a nav."""
    for one in nav if isinstance(nav, list) else nav.values() if isinstance(nav, dict) else ():
        yield from named(one)
    if isinstance(nav, str):
        yield nav


def text(found: dict[str, str | bytes], path: str) -> str:
    page = found[path]
    assert isinstance(page, str)
    return page


def test_the_nav_names_every_page_once_and_no_other(made: dict[str, str | bytes]) -> None:
    config = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), yaml.BaseLoader)
    written = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    found = list(named(pages.filled(config["nav"], made)))
    assert sorted(found) == sorted(written | {path for path in made if path.endswith(".md")})


OF_OTHERS = ("demo", "report")  # whose settings are those of recipes, and of the labeling page


def test_every_command_is_in_the_reference_and_those_with_settings_have_a_page(made: dict[str, str | bytes]) -> None:
    known, page = reference.commands(), text(made, "reference/commands.md")
    assert len(known) > 10
    for one in known:
        assert f"\n## {one.name}\n" in page
        assert f"usage: retouch {one.name} " in page
        has_key = "key" in one.usage.partition("\n\n")[0] and one.name not in OF_OTHERS
        assert has_key == (one.schema is not None), one.name
        assert (one.schema is not None) == (one.settings_page in made)


def test_every_recipe_is_in_the_reference_with_what_to_expect(made: dict[str, str | bytes]) -> None:
    page = " ".join(text(made, "reference/recipes.md").split())
    for one in [*recipes(), *sweeps()]:
        assert one.title in page
        assert f"**Expect:** {one.expect}" in page


def test_every_public_function_is_in_the_reference() -> None:
    # mkdocstrings shows the members of `__all__`: the built page is looked at below
    assert "::: retouch\n" in (DOCS / "reference/python.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("schema", [ProbeConfig, PretrainConfig])
def test_every_setting_of_a_schema_is_in_its_tables(schema: Any) -> None:
    rows = {row.key: row for section in sections(schema, {}) for row in section.rows}
    for one in settings_of(schema, {}, {}):
        block, _, name = one.key.rpartition(".")
        assert one.key in rows or (name == "kind" and block in rows), one.key
    assert rows["seed"].text == "Seed of every random number; the same seed gives the same result."


def test_tables_have_all_kinds_of_a_block_and_the_defaults_of_the_block() -> None:
    found = {one.title: one for one in sections(PretrainConfig, {"out": "runs/x"})}
    rows = {row.key: row for section in found.values() for row in section.rows}
    assert {"pretext: denoise", "pretext: mask", "fit: pca", "pretext.corruption: holes"} <= set(found)
    assert rows["out"].default == "runs/x"
    assert rows["data.workers"].default == "automatic"  # not those of this machine
    assert rows["optim.betas"].default == "[0.9, 0.95]"
    assert "[mask](#pretext-mask)" in rows["pretext"].takes


def test_links_of_the_repository_become_links_of_the_site() -> None:
    relinked = repository.relinked
    assert relinked("[a](../../benchmarks/README.md)", "guides/lecture.md") == "[a](../measured/numbers.md)"
    assert relinked("[a](docs/glossary.md#x)", "project/contributing.md") == "[a](../glossary.md#x)"
    assert relinked("![a](../images/panels.png)", "guides/lecture.md") == "![a](../images/panels.png)"
    assert relinked("[home](../README.md)", "glossary.md") == "[home](index.md)"
    assert relinked("[code](../pretrain/run.py), a", "architecture.md") == "code, a"  # no page shows it
    assert relinked("x[i](y)", "architecture.md") == "x[i](y)"


class _Loaded(HTMLParser):
    """What a page loads by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if tag in LOADED and given.get("rel") not in STEPS_ASIDE:
            self.found.append(given.get(LOADED[tag]) or "")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. A warning fails."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_its_pages_load_nothing_from_elsewhere(site: Path) -> None:
    found = sorted(site.rglob("*.html"))
    assert len(found) > 20
    for path in found:
        page = _Loaded()
        page.feed(path.read_text(encoding="utf-8"))
        assert page.found
        assert [one for one in page.found if re.match(r"https?:|//", one)] == [], path
    assert not list(site.rglob("*.py"))
    functions = (site / "reference/python.html").read_text(encoding="utf-8")
    parts = (site / "reference/parts.html").read_text(encoding="utf-8")
    for name in retouch.__all__:
        assert re.search(rf'id="[\w.]+\.{name}"', functions), name
        for kind in returned(getattr(retouch, name)):
            assert re.search(rf'id="[\w.]+\.{kind}"', functions + parts), f"{name} returns {kind}"


def returned(function: Any) -> set[str]:
    """The types of this project that a public function returns, by their names."""
    if not inspect.isfunction(function):
        return set()
    words = set(re.findall(r"\b[A-Z]\w+", str(inspect.signature(function).return_annotation)))
    return words - {"None", "Any", "Path", "Image"}


@needs_chromium
@pytest.mark.slow
def test_search_works_from_a_disk(site: Path, tmp_path: Path) -> None:
    with chromium(tmp_path) as browser:
        page = browser.open(site / "index.html")
        page.click("input.md-search__input")
        page.write("label_smoothing")
        found = page.evaluate(FIRST_FOUND)
        assert "reference/settings/finetune.html" in found
        assert page.problems == []
