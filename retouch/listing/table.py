"""A list of runs on the console, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from common.files import GROUP, as_utf8
from common.machine.memory import readable_size
from common.runs.console import columns
from common.runs.screen import screen
from common.words import counted
from retouch.listing.found import RunFacts


def runs_text(runs: Sequence[RunFacts]) -> str:
    """A table as wide as the terminal, at most 100 columns."""
    table = Table(title=counted(len(runs), "run"), title_justify="left")
    table.add_column("run", overflow="fold")
    table.add_column("stage", no_wrap=True)
    table.add_column("recipe", overflow="fold")
    for column in ("state", "result"):
        table.add_column(column)
    table.add_column("size", justify="right", no_wrap=True)
    for run in runs:
        stage = run.stage.removesuffix(GROUP)
        cells = (
            as_utf8(str(run.path)),
            stage,
            run.recipe_text,
            run.state_text,
            run.result_text,
            readable_size(run.bytes),
        )
        table.add_row(*map(escape, cells))
    console = screen(columns())
    with console.capture() as shown:
        console.print(table)
    return shown.get().rstrip("\n")


def runs_json(runs: Sequence[RunFacts]) -> str:
    """A list of objects, one per run, with every fact."""
    return json.dumps(
        [run.model_dump(mode="json") | {"path": as_utf8(str(run.path))} for run in runs], indent=2, ensure_ascii=False
    )
