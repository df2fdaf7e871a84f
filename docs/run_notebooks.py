"""Run the notebooks, and store what they show: ``make notebooks`` after a change. ``tests/docs`` runs them too."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent / "notebooks"
SECONDS = 300  # of one cell, on a machine that is busy
COLORS = re.compile(r"\x1b\[[0-9;]*m")


def executed(path: Path, folder: Path) -> Any:
    """A notebook with fresh outputs, run in ``folder``; the first cell that fails raises.

    Of the outputs, texts stay without their colors, and pictures as PNG. Warnings and progress go.
    """
    notebook = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources=place, record_timing=False).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [one for one in map(_kept, cell.outputs) if one is not None]
    return notebook


def _kept(output: Any) -> Any:
    if output.output_type == "stream":
        output.text = COLORS.sub("", output.text)
        return output if output.name == "stdout" else None
    if output.output_type == "display_data":  # tables that a stage prints: the notebook says what matters
        return None
    kind = "image/png" if "image/png" in output.data else "text/plain"
    output.data = {kind: output.data[kind]}
    return output


if __name__ == "__main__":
    for path in sorted(FOLDER.glob("*.ipynb")):
        with tempfile.TemporaryDirectory() as folder:
            nbformat.write(executed(path, Path(folder)), path)
        print(path)
