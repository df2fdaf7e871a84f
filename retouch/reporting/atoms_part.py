"""The part of the page about atoms: pictures of a dictionary, on the ground of the page."""

from __future__ import annotations

from pathlib import Path

from common.words import counted
from pretrain.report.atoms import tiles_alone
from pretrain.report.dictionary import EXCITED
from retouch.reporting.blocks import Block, Panel, Panels, Prose
from retouch.reporting.facts import Facts
from retouch.reporting.pictures import picture, read_picture
from retouch.reporting.runs import Pretraining

ATOMS = (
    "Each square is one atom, a pattern of which images are composed. Zero is gray, and the contrast of each is as "
    "high as possible: its shape counts, not its strength."
)
ONCE = "Of an atom and its left-right mirror image, which is an atom too, only one is drawn: half of them all."


def atoms_part(facts: Facts) -> tuple[Block, ...]:
    """The pictures of each run, folded: they are tall."""
    found: list[Block] = []
    for run in facts.pretraining:
        panels = [panel for path in run.atoms if (panel := _of_atoms(run, path)) is not None]
        if panels:
            many = "atoms" if run.results.atoms is None else counted(run.results.atoms, "atom")
            found.append(Panels(tuple(panels), folded=f"{run.origin.name}: {many}"))
    mirrored = (ONCE,) if any(run.mirrored for run in facts.pretraining if run.atoms) else ()
    return (Prose((ATOMS, *mirrored)), *found) if found else ()


def _of_atoms(run: Pretraining, path: Path) -> Panel | None:
    """One picture of a run's atoms; None if it cannot be read."""
    drawn = read_picture(path)
    if drawn is None:
        return None
    atoms, exciting = run.results.atoms, path.stem == "exciting"
    distinct_ones = 0 if atoms is None else atoms // 2 if run.mirrored else atoms
    shown = min(distinct_ones, EXCITED) if exciting else distinct_ones
    alone = tiles_alone(drawn, shown, exciting=exciting) if shown else None
    which = f"the {shown:,} most used" if exciting else f"{shown:,} of {atoms:,}" if run.mirrored else f"all {shown:,}"
    struck = ", the unused ones last and struck through" if run.results.unused_atoms else ""
    each = "each with the patches that excite it most" if exciting else f"most used first{struck}"
    caption = f"{run.origin.name}: {which if shown else 'atoms'}, {each}"
    return Panel(picture(drawn if alone is None else alone, caption), caption)
