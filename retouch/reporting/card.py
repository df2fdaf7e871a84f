"""A model card: the verdict and some parts of the page as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.encoders.card import EncoderCard
from common.encoders.head import Answers
from common.encoders.readme import MARK, front_matter, loading, plain
from common.errors import UserError, check_all
from common.files import in_full, write_text
from finetune.table import markdown
from retouch.reporting.answer import verdict
from retouch.reporting.blocks import Block, Cell, Column, Commands, Points, Prose, Table
from retouch.reporting.facts import Facts
from retouch.reporting.page import check_out
from retouch.reporting.parts import card_parts
from retouch.reporting.question import about, question_on
from retouch.reporting.reading import read_facts
from retouch.reporting.sentences import distinct


@dataclass(frozen=True)
class ModelCard:
    """The model card of some runs.

    Attributes:
        text: in Markdown.
        path: the file; None if it was not written.
    """

    text: str
    path: Path | None = None

    def __str__(self) -> str:
        return self.text


def write_card(folders: Sequence[str | Path], out: str | Path) -> Path:
    """Write the model card of some runs atomically, for example as ``README.md`` in the folder of the encoder.

    Raises:
        UserError: with every problem: a folder that is not a finished run, or an ``out`` that is not a model card.
    """
    out = in_full(out)
    text, _ = check_all(lambda: model_card(folders), lambda: check_out(out, MARK, "model card", (".md",)))
    try:
        write_text(out, text)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror or error}; choose another file") from None
    return out


def model_card(folders: Sequence[str | Path]) -> str:
    """The model card of some runs.

    Raises:
        UserError: with every folder that is not a finished run.
    """
    return card(read_facts(folders))


def card(facts: Facts, beside: EncoderCard | None = None, answers: Answers = "class") -> str:
    """Front matter, the question, the verdict, and the parts.

    Args:
        beside: the card of the encoder or classifier that it describes, if it describes one.
        answers: of that classifier.
    """
    text = "\n\n".join(_pieces(facts, beside, answers)) + "\n"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")  # names that are not UTF-8 cannot be printed


def _pieces(facts: Facts, beside: EncoderCard | None, answers: Answers) -> list[str]:
    methods = [run.results.method for run in facts.pretraining]
    methods += [entry.result.encoder.pretext or "" for entry in facts.entries]
    tuned = [run.card for run in facts.finetuning if run.card is not None]
    methods += [one.kind or "" for card in tuned for one in card.provenance.before]
    answer, more = verdict(facts)
    pieces = [
        front_matter(methods, tuned=bool(tuned) if beside is None else beside.provenance.stage == "finetune"),
        f"# {plain(question_on(facts))}",
        *map(plain, answer),
        *([_block(Points(more))] if more else []),
        plain(about(facts)),
    ]
    for part in card_parts(facts):
        shown = [block for block in part.blocks if not (isinstance(block, Prose) and block.wide)]  # about charts
        pieces += [f"## {plain(part.title)}", *map(_block, shown)]
    trained = [run.card for run in facts.pretraining if run.card is not None]
    if beside is not None:
        return [*pieces, "## How to load it", loading(beside, answers)]
    for title, cards in (("an encoder", trained), ("a classifier", tuned)):
        if cards:
            pieces += [f"## How to load {title}", *distinct(map(loading, cards))]
    return pieces


def _block(block: Block) -> str:
    match block:
        case Table():
            return _table(block)
        case Prose():
            return " ".join(map(plain, block.sentences))
        case Points():
            return "\n".join(f"- {plain(item)}" for item in block.items)
        case Commands():
            return "\n".join(f"    {' '.join(line.split())}" for line in block.lines)
        case _:
            raise AssertionError(f"a model card has no {block.kind}")


def _table(table: Table) -> str:
    """A table without its chart columns, whose facts are in the other columns."""
    kept = [place for place in range(len(table.columns)) if not table.columns[place].chart]
    header = [_head(table.columns[place]) for place in kept]
    rows = [[_cell(row[place]) for place in kept] for row in table.rows]
    title = f"**{plain(table.title)}** {plain(table.note)}".strip() + "\n\n" if table.title else ""
    foot = f"\n\n{plain(table.foot)}" if table.foot else ""
    return title + markdown(header, rows).rstrip("\n") + foot


def _head(column: Column) -> str:
    joint = " " if column.below[:1].isalpha() else ", "
    return plain(joint.join(filter(None, [column.text, column.below])))


def _cell(cell: Cell) -> str:
    text = plain(cell.text)
    return f"{f'**{text}**' if cell.strong else text} {plain(cell.below)}".strip()
