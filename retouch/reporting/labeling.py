"""How to label the images that an encoder learned from: a command for each source of files."""

from __future__ import annotations

import shlex
from pathlib import Path

from common.data.build import OF_FILES, recognize
from common.errors import UserError
from common.files import as_utf8
from retouch.reporting.blocks import Block, Commands, Prose
from retouch.reporting.facts import Facts

SENTENCE = (
    "To label these images in a browser with an encoder's help, run the command below. It writes a page that shows the "
    "most uncertain images first, or all on a map, and saves labels.csv.",
)


def labeling_blocks(facts: Facts) -> tuple[Block, ...]:
    """A command for each source that still exists, with the encoder of the first run on it."""
    encoders: dict[str, Path] = {}
    for run in facts.pretraining:
        source = run.origin.settings.data.source or ""
        if run.card is not None and _is_of_files(source):
            encoders.setdefault(source, run.origin.folder)
    lines = [
        shlex.join(["retouch", "label", f"encoder={as_utf8(str(folder))}", f"data={as_utf8(source)}"])
        for source, folder in encoders.items()
    ]
    return (Prose(SENTENCE), Commands(tuple(lines))) if lines else ()


def _is_of_files(source: str) -> bool:
    try:
        return recognize(source).partition(":")[0] in OF_FILES
    except UserError:  # the images are no longer where the run found them
        return False
