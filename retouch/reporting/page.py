"""The page: parts as one HTML file that needs no network, no other file, and no script but for labeling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from common.errors import UserError, check_all
from common.files import ELSEWHERE, in_full, is_address, is_marked, write_text
from common.machine.versions import signature
from retouch.reporting.answer import verdict
from retouch.reporting.blocks import Frame
from retouch.reporting.facts import Facts
from retouch.reporting.labeling import labeling_frame
from retouch.reporting.parts import page_parts
from retouch.reporting.question import about, question_on
from retouch.reporting.reading import read_facts
from retouch.reporting.training import introduced

MARK = '<meta name="generator" content="retouch report">'  # identifies a report as ours
SUFFIXES = (".html", ".htm")
TEMPLATE = "page.html.jinja"


@dataclass(frozen=True)
class Report:
    """The page about some runs, with its question and verdict. It can be used wherever a path is expected.

    Attributes:
        path: the file.
        question: what the runs should find out.
        verdict: the answer, in a few sentences.
    """

    path: Path
    question: str
    verdict: tuple[str, ...]

    def __fspath__(self) -> str:
        return str(self.path)


def report(folders: Sequence[str | Path], out: str | Path, label: Sequence[str] | None = None) -> Report:
    """Write the report of some runs as one HTML file, atomically; an earlier report is replaced.

    Args:
        folders: finished runs, or folders of runs.
        label: settings of a part for labeling images, which needs a script; None: there is none.

    Raises:
        UserError: with every problem: a folder that is not a finished run, images that cannot be labeled, or an ``out``
            that holds something else.
    """
    out = in_full(out)
    facts, _ = check_all(lambda: read_facts(folders), lambda: check_out(out))
    frame = None if label is None else labeling_frame(facts, label)
    try:
        write_text(out, html(facts, frame))
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror or error}; choose another file") from None
    return Report(out, question_on(facts), verdict(facts).all)


def write_report(folders: Sequence[str | Path], out: str | Path, label: Sequence[str] | None = None) -> Path:
    """The same as ``report``, but returns only the path."""
    return report(folders, out, label).path


def check_out(out: Path, mark: str = MARK, what: str = "report", suffixes: Sequence[str] = SUFFIXES) -> None:
    """Check that a page with this mark may be written to ``out``.

    Raises:
        UserError: ``out`` has another ending, or exists and holds something else.
    """
    if "\0" in str(out):
        raise UserError(f"{str(out)!r}: no path has a zero byte in it; remove it")
    if is_address(out):
        raise UserError(f"{out}: {ELSEWHERE}")
    kind, end = ("HTML" if suffixes == SUFFIXES else "Markdown"), suffixes[0]
    if out.suffix.lower() not in suffixes:
        raise UserError(f"{out}: a {what} is {kind}; give a file that ends in {end}")
    if out.is_dir():
        raise UserError(f"{out} is a folder; give a file that ends in {end}")
    if out.exists() and not is_marked(out, mark):
        raise UserError(f"{out} exists and is not a {what} of retouch, so it is not replaced; choose another file")


def breakable(text: str) -> Markup:
    """A text whose paths and names are broken, if they must be, after a slash or before an underscore."""
    return Markup(str(escape(text)).replace("/", "/<wbr>").replace("_", "<wbr>_"))  # no entity holds either


def html(facts: Facts, label: Frame | None = None) -> str:
    """The page, with a part for labeling images if there is one."""
    environment = Environment(
        loader=PackageLoader("retouch.reporting", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = breakable
    return environment.get_template(TEMPLATE).render(
        mark=Markup(MARK),
        question=question_on(facts),
        verdict=verdict(facts),
        parts=page_parts(facts, label),
        digest="" if label is None else label.digest,
        about=" ".join(filter(None, [about(facts), introduced(facts)])),
        footer=f"Written on {date.today():%Y-%m-%d} by {signature()}.",
    )
