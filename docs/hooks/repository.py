"""Files of the repository that are pages of the site too, and the links between them.

Markdown files link each other by their paths in the repository, so that the links work wherever it is browsed.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLACES = {
    "benchmarks/README.md": "measured/numbers.md",
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
}  # outside of docs/: the page that each becomes
HOME = {"README.md": "index.md"}  # the site has a home page of its own
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def pages() -> dict[str, str | bytes]:
    """Path in the site -> text."""
    return {page: (ROOT / path).read_text(encoding="utf-8") for path, page in PLACES.items()}


def relinked(markdown: str, page: str) -> str:
    """Relative links of a page, as they work in the repository -> as they work in the site.

    A link to a file without a page, such as code or a result, becomes plain text. What is no path in the repository
    stays: a strict build names links that lead nowhere.

    Args:
        page: the page's path in the site.
    """
    sources = {place: path for path, place in PLACES.items()}
    above = posixpath.dirname(sources.get(page, f"docs/{page}"))

    def place(link: re.Match[str]) -> str:
        image, text, target = link.groups()
        path, mark, anchor = target.partition("#")
        file = posixpath.normpath(posixpath.join(above, path))
        if not path or ":" in path or not (ROOT / file).exists():
            return link[0]
        found = (PLACES | HOME).get(file) or (file.removeprefix("docs/") if file.startswith("docs/") else None)
        if found is None:
            return text
        return f"{image}[{text}]({posixpath.relpath(found, posixpath.dirname(page) or '.')}{mark}{anchor})"

    return LINK.sub(place, markdown)
