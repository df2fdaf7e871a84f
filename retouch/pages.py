"""The pages of Retouch as functions of ``retouch``: a report, a model card, a page for labeling images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.machine.turns import in_turn

if TYPE_CHECKING:
    from retouch.labeling.page import LabelingPage
    from retouch.reporting.card import ModelCard
    from retouch.reporting.page import Report


def report(*runs: str | Path, out: str | Path = "report.html", label: Sequence[str] | None = None) -> Report:
    """Write the findings of runs as one HTML file, which needs no network, and no script except for labeling images.

        page = retouch.report("runs/mine", "runs/mine-probe")
        page.verdict  # the answer, in a few sentences

    Args:
        runs: finished runs, or folders of runs.
        out: the file; an earlier report there is replaced.
        label: adds a part for labeling images, with these settings (see ``retouch.label``); ``[]``: those that the
            first encoder learned from.

    Returns:
        Its ``path``, the ``question`` that the runs answer, and the ``verdict``.

    Raises:
        UserError: with every problem: a folder that is not a finished run, images that cannot be labeled, or an ``out``
            that holds something else.
    """
    from retouch.reporting.page import report as work

    if label is None:
        return work(runs, out)
    with in_turn():  # the encoder sees the images
        return work(runs, out, label)


def model_card(*runs: str | Path, out: str | Path | None = None) -> ModelCard:
    """The model card of runs, in Markdown.

    Args:
        runs: finished runs, or folders of runs.
        out: the file, such as ``runs/mine/encoder/README.md``, where an earlier card is replaced; by default none.

    Returns:
        Its ``text``, and its ``path`` if it was written.

    Raises:
        UserError: with every problem: a folder that is not a finished run, or an ``out`` that holds something else.
    """
    from retouch.reporting.card import ModelCard, write_card
    from retouch.reporting.card import model_card as work

    if out is None:
        return ModelCard(work(runs))
    path = write_card(runs, out)
    return ModelCard(path.read_text(encoding="utf-8"), path)


def label(*settings: str, out: str | Path = "label.html") -> LabelingPage:
    """Write a page for labeling images with the help of an encoder; it saves ``labels.csv``.

        retouch.label("encoder=runs/mine", "data=my/pictures")

    Args:
        settings: see ``retouch.labeling.settings.LabelConfig``.
        out: the file; an earlier page there is replaced.

    Returns:
        Its ``path``, and how many ``images`` it shows.

    Raises:
        UserError: with every problem in settings and images, or ``out`` holds something else.
    """
    from common.config import load_config
    from retouch.labeling.page import write_page
    from retouch.labeling.settings import LabelConfig

    with in_turn():
        return write_page(load_config(LabelConfig, {}, settings), out)
