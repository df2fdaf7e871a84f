"""How to label the images that an encoder learned from: in a part of the page, or by a command for each source."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.config import load_config
from common.data.build import OF_FILES, recognize
from common.errors import UserError
from common.files import as_utf8
from retouch.reporting.blocks import Block, Commands, Frame, Prose
from retouch.reporting.facts import Facts
from retouch.studies.results import CONTESTANTS

SENTENCE = (
    "To label these images in a browser with an encoder's help, run the command below. It writes a page that shows the "
    "most uncertain images first, or all on a map, and saves labels.csv. With --label, retouch report makes it a part "
    "of this page.",
)


def labeling_blocks(facts: Facts) -> tuple[Block, ...]:
    """A command for each source that still exists, with the encoder of the first run on it."""
    lines = [
        shlex.join(["retouch", "label", f"encoder={as_utf8(str(folder))}", f"data={as_utf8(source)}"])
        for source, folder in _encoders(facts).items()
    ]
    return (Prose(SENTENCE), Commands(tuple(lines))) if lines else ()


def labeling_frame(facts: Facts, settings: Sequence[str]) -> Frame:
    """The page of ``retouch label``, as a part of the report.

    Args:
        settings: of ``retouch label``; by default the first encoder, and the images that it learned from.

    Raises:
        UserError: with every problem in settings and images.
    """
    from retouch.labeling.images import read_images  # these take a report only if images are labeled in it
    from retouch.labeling.page import html, read_script
    from retouch.labeling.settings import LabelConfig

    usual: dict[str, Any] = {}
    trained = [run.origin.folder for run in facts.pretraining if run.card is not None]
    for source, folder in list(_encoders(facts).items())[:1]:
        usual = {"encoder": str(folder), "data": {"source": source}}
    if not usual and trained:
        usual = {"encoder": str(trained[0])}
    config = load_config(LabelConfig, usual, settings)
    shown = read_images(config)
    source = as_utf8(config.data.source)
    return Frame(html(shown, source), f"Label {len(shown.paths):,} images of {source}", read_script().digest)


def _encoders(facts: Facts) -> dict[str, Path]:
    """The winner of a study, or else the first run, on each source of files that still exists, by source."""
    winners = {run.origin.folder / CONTESTANTS / run.report.winner for run in facts.studies}
    encoders: dict[str, Path] = {}
    for run in sorted(facts.pretraining, key=lambda run: run.origin.folder not in winners):
        source = run.origin.settings.data.source or ""
        if run.card is not None and _is_of_files(source):
            encoders.setdefault(source, run.origin.folder)
    return encoders


def _is_of_files(source: str) -> bool:
    try:
        return recognize(source).partition(":")[0] in OF_FILES
    except UserError:  # the images are no longer where the run found them
        return False
