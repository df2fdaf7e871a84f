"""The labeling page: one HTML file with one inline script, which a content security policy allows by its hash."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from common.errors import UserError
from common.files import in_full, write_text
from retouch.labeling.images import ACROSS, SIDE, Shown, read_images
from retouch.labeling.settings import LabelConfig
from retouch.reporting.page import check_out

MARK = '<meta name="generator" content="retouch label">'  # identifies a page as ours


@dataclass(frozen=True)
class LabelingPage:
    """A page for labeling images. It can be used wherever a path is expected.

    Attributes:
        path: the file.
        images: how many it shows.
    """

    path: Path
    images: int

    def __fspath__(self) -> str:
        return str(self.path)


def write_page(config: LabelConfig, out: str | Path) -> LabelingPage:
    """Write the page atomically; an earlier page is replaced.

    Raises:
        UserError: with every problem: settings, images, or an ``out`` that holds something else.
    """
    out = in_full(out)
    check_out(out, MARK, "labeling page")
    shown = read_images(config)
    try:
        write_text(out, html(shown, f"{config.data.source}"))
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror or error}; choose another file") from None
    return LabelingPage(out, len(shown.paths))


class Script(NamedTuple):
    """The script of the page, and its sha256 in base64, by which a content security policy allows it."""

    text: str
    digest: str


def read_script() -> Script:
    """It comes with Retouch."""
    text = files("retouch.labeling").joinpath("label.js").read_text(encoding="utf-8")
    return Script(text, base64.b64encode(hashlib.sha256(text.encode()).digest()).decode())


def html(shown: Shown, title: str) -> str:
    """The page."""
    script = read_script()
    data = {
        "paths": shown.paths,
        "features": base64.b64encode(shown.features.numpy().tobytes()).decode(),
        "width": shown.features.shape[1],
        "across": ACROSS,
        "places": shown.places,
    }
    environment = Environment(
        loader=PackageLoader("retouch.labeling", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("page.html.jinja").render(
        mark=Markup(MARK),
        title=title,
        count=len(shown.paths),
        script=Markup(script.text),
        digest=script.digest,
        # in a script element, only "<" could end it
        data=Markup(json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")),
        sheets=shown.sheets,
        side=SIDE,
        across=ACROSS,
    )
