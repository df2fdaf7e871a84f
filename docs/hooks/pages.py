"""What mkdocs calls while it builds the site: pages that nobody writes by hand, their place in the nav, and links.

Reference and notebooks become pages when the site is built, so they follow the code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import notebooks
import reference
import repository

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

_pages: dict[str, str | bytes] = {}  # of one build


def generated() -> dict[str, str | bytes]:
    """Files that are made for the site, by their path below ``docs/``."""
    return {**repository.pages(), **reference.pages(), **notebooks.pages()}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Make the pages, and let a folder in the nav stand for those of them that lie in it."""
    _pages.clear()
    _pages.update(generated())
    config.nav = filled(config.nav, _pages)
    return config


def filled(nav: Any, pages: Mapping[str, object]) -> Any:
    """A nav in which each folder, such as ``reference/settings/``, is the list of generated pages in it."""
    if isinstance(nav, list):
        return [filled(one, pages) for one in nav]
    if isinstance(nav, dict):
        return {title: filled(one, pages) for title, one in nav.items()}
    return [page for page in pages if page.startswith(nav)] if nav.endswith("/") else nav


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to those that are there."""
    from mkdocs.structure.files import File

    for path, content in _pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Links to files of the repository become links to their pages."""
    return repository.relinked(markdown, page.file.src_uri)
