"""The main number of a ``results.json``.

Only what a headline needs is read, into small types of its own. Everything else may differ between versions, and the
types of complete results import torch, which would slow down a list of runs.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Self

from pydantic import BaseModel, ConfigDict, model_validator

from common.runs.results import RESULTS
from common.words import counted

DAMAGED = "results.json is damaged"


class Headline(NamedTuple):
    """The main result in words, and as a number for sorting: larger is better within a stage."""

    text: str
    value: float | None = None


class Part(BaseModel):
    """A part of a ``results.json``; other keys are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Result(Part, ABC):
    """The ``results.json`` of a stage."""

    @property
    @abstractmethod
    def headline(self) -> Headline:
        """The main result."""


class Test(Part):
    """A score: one of these measures is set."""

    accuracy: float | None = None
    mean_average_precision: float | None = None
    mean_iou: float | None = None

    @model_validator(mode="after")
    def _has_one(self) -> Self:
        if not self._measured:
            raise ValueError("none of the known measures is set")
        return self

    @property
    def _measured(self) -> list[tuple[float, str]]:
        """The measures that are set, each with the words after its value."""
        known = ((self.accuracy, ""), (self.mean_average_precision, " mAP"), (self.mean_iou, " mIoU"))
        return [(value, words) for value, words in known if value is not None]

    @property
    def value(self) -> float:
        return self._measured[0][0]

    @property
    def text(self) -> str:
        value, words = self._measured[0]
        return f"{100 * value:.1f}%{words}"


class Tested(Part):
    test: Test


class Subject(Part):
    probes: dict[str, Tested]


class Task(Part):
    task: str
    subjects: dict[str, Subject]


class Several(Part):
    task: str
    subjects: dict[str, Tested]


class Spread(Part):
    mean: float
    deviation: float


class SubjectSpread(Part):
    task: str
    subject: str
    probe: str
    spread: Spread


class Seeds(Part):
    seeds: tuple[int, ...]
    spreads: tuple[SubjectSpread, ...]


class Probe(Result):
    results: tuple[Task, ...] = ()
    multilabel: tuple[Several, ...] = ()
    dense: tuple[Several, ...] = ()
    seeds: Seeds | None = None

    @property
    def headline(self) -> Headline:
        """Test accuracy of the encoder's linear probe by task; for several seeds, mean and deviation."""
        if self.seeds is not None:
            ours = [one for one in self.seeds.spreads if (one.subject, one.probe) == ("encoder", "linear")]
            found = [
                (one.task, f"{100 * one.spread.mean:.1f} ± {100 * one.spread.deviation:.1f}%", one.spread.mean)
                for one in ours
            ]
            return _of_tasks(found, f" ({counted(len(self.seeds.seeds), 'seed')})")
        tests = [(one.task, one.subjects["encoder"].probes["linear"].test) for one in self.results]
        tests += [(one.task, one.subjects["encoder"].test) for one in (*self.multilabel, *self.dense)]
        return _of_tasks([(task, test.text, test.value) for task, test in tests])


class Finetune(Result):
    task: str
    tuned: Tested

    @property
    def headline(self) -> Headline:
        """Test accuracy of the fine-tuned network."""
        return _of_tasks([(self.task, self.tuned.test.text, self.tuned.test.value)])


class Ruler(Part):
    psnr: float
    restorers: dict[str, float]


class Pretrain(Result):
    relative_reconstruction_error: float | None = None
    ruler: Ruler | None = None

    @property
    def headline(self) -> Headline:
        """PSNR next to the best trivial restorer; for linear codes, the reconstruction error."""
        if self.ruler is not None:
            name, best = max(self.ruler.restorers.items(), key=lambda item: item[1])
            return Headline(f"PSNR {self.ruler.psnr:.1f}, {name} {best:.1f}", self.ruler.psnr)
        error = self.relative_reconstruction_error
        return Headline("") if error is None else Headline(f"reconstruction error {error:.3f}", -error)


class PretrainSeeds(Result):
    seeds: tuple[int, ...]
    spreads: dict[str, Spread]

    @property
    def headline(self) -> Headline:
        """Mean and deviation of the network's PSNR."""
        count, psnr = counted(len(self.seeds), "seed"), self.spreads.get("psnr/network")
        if psnr is None:
            return Headline(count)
        return Headline(f"PSNR {psnr.mean:.1f} ± {psnr.deviation:.1f} ({count})", psnr.mean)


class Study(Result):
    verdict: tuple[str, ...]
    winner: str

    @property
    def headline(self) -> Headline:
        """The verdict up to its first colon (yes, no, no difference shown, ...), and the winner."""
        answer = self.verdict[0].split(":")[0] if self.verdict else ""
        return Headline(f"{answer}: {self.winner} is best" if answer else f"{self.winner} is best")


class Predict(Result):
    rows: int
    unreadable: int

    @property
    def headline(self) -> Headline:
        """How many images have a prediction."""
        unreadable = f", {self.unreadable:,} unreadable" if self.unreadable else ""
        return Headline(f"{counted(self.rows, 'image')}{unreadable}")


class Embed(Result):
    rows: int
    width: int

    @property
    def headline(self) -> Headline:
        """How many images have features, and how many features."""
        return Headline(f"{counted(self.rows, 'image')}, {counted(self.width, 'feature')}")


class Neighbors(Part):
    query: str


class Search(Result):
    images: int
    found: tuple[Neighbors, ...]

    @property
    def headline(self) -> Headline:
        """How many images were looked for, among how many."""
        return Headline(f"{counted(len(self.found), 'query', 'queries')}, {counted(self.images, 'image')}")


class Level(Part):
    psnr: float


class Restore(Result):
    restored: int
    before: Level | None = None
    after: Level | None = None

    @property
    def headline(self) -> Headline:
        """The number of pictures, and their PSNR if clean versions are known."""
        text = counted(self.restored, "picture")
        if self.before is None or self.after is None:
            return Headline(text)
        return Headline(f"{text}, PSNR {self.after.psnr:.1f} (damaged {self.before.psnr:.1f})", self.after.psnr)


class Surprising(Part):
    surprise: float


class Strange(Result):
    ranked: int
    top: tuple[Surprising, ...]

    @property
    def headline(self) -> Headline:
        """The number of pictures, and the largest surprise."""
        return Headline(f"{counted(self.ranked, 'picture')}, largest surprise {self.top[0].surprise:.1f} dB")


Kind = (
    type[Probe]
    | type[Finetune]
    | type[Pretrain]
    | type[PretrainSeeds]
    | type[Study]
    | type[Predict]
    | type[Embed]
    | type[Search]
    | type[Restore]
    | type[Strange]
)
KINDS: dict[str, Kind] = {
    "pretrain": Pretrain,
    "pretrain_seeds": PretrainSeeds,
    "probe": Probe,
    "probe_seeds": Probe,
    "finetune": Finetune,
    "study": Study,
    "predict": Predict,
    "embed": Embed,
    "search": Search,
    "restore": Restore,
    "strange": Strange,
}


def read_headline(folder: Path, mark: str) -> Headline | None:
    """The headline of a run folder with this mark (``run_stage``); None if it has no results yet."""
    kind = KINDS.get(mark)
    try:
        text = (folder / RESULTS).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    if kind is None:  # a stage whose results are not measurements
        return Headline("")
    try:
        found = json.loads(text)
        return kind.model_validate(found if isinstance(found, Mapping) else {}).headline
    except (ValueError, LookupError, RecursionError):
        return Headline(DAMAGED)


def _of_tasks(found: list[tuple[str, str, float]], after: str = "") -> Headline:
    """The result on each task, and their mean for sorting."""
    if not found:
        return Headline("")
    return Headline(
        ", ".join(f"{task} {text}" for task, text, _ in found) + after,
        sum(value for *_, value in found) / len(found),
    )
