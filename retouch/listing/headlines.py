"""The main number of a ``results.json``.

Only what a headline needs is read, into small types of its own. Everything else may differ between versions, and the
types of complete results import torch, which would slow down a list of runs.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, model_validator

from common.runs.results import RESULTS
from common.words import counted

DAMAGED = "results.json is damaged"

Measure = Literal["accuracy", "mean_average_precision", "mean_iou", "psnr", "reconstruction_error"]
WORDS: dict[Measure, str] = {"mean_average_precision": " mAP", "mean_iou": " mIoU"}  # after a value


class Headline(NamedTuple):
    """The main result in words, and as a number for sorting: larger is better among those of the same measure."""

    text: str
    value: float | None = None
    measure: Measure | None = None  # what the number is
    on_training: bool = False  # whether it was measured on the images that were learned from


class Part(BaseModel):
    """A part of a ``results.json``; other keys are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Result(Part, ABC):
    """The ``results.json`` of a stage."""

    @property
    @abstractmethod
    def headline(self) -> Headline:
        """The main result."""


class OnTask(NamedTuple):
    """The result on one task."""

    task: str
    text: str
    value: float
    measure: Measure


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
    def _measured(self) -> list[tuple[float, Measure]]:
        """The measures that are set."""
        known: tuple[tuple[float | None, Measure], ...] = (
            (self.accuracy, "accuracy"),
            (self.mean_average_precision, "mean_average_precision"),
            (self.mean_iou, "mean_iou"),
        )
        return [(value, measure) for value, measure in known if value is not None]

    @property
    def value(self) -> float:
        return self._measured[0][0]

    @property
    def measure(self) -> Measure:
        return self._measured[0][1]

    @property
    def text(self) -> str:
        return f"{100 * self.value:.1f}%{WORDS.get(self.measure, '')}"

    def on(self, task: str) -> OnTask:
        """As the result on a task."""
        return OnTask(task, self.text, self.value, self.measure)


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
    measure: Measure = "accuracy"
    spread: Spread

    @property
    def result(self) -> OnTask:
        """Mean and deviation."""
        mean, deviation = 100 * self.spread.mean, 100 * self.spread.deviation
        text = f"{mean:.1f} ± {deviation:.1f}%{WORDS.get(self.measure, '')}"
        return OnTask(self.task, text, self.spread.mean, self.measure)


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
            return _of_tasks([one.result for one in ours], f" ({counted(len(self.seeds.seeds), 'seed')})")
        tests = [one.subjects["encoder"].probes["linear"].test.on(one.task) for one in self.results]
        tests += [one.subjects["encoder"].test.on(one.task) for one in (*self.multilabel, *self.dense)]
        return _of_tasks(tests)


class Finetune(Result):
    task: str
    tuned: Tested

    @property
    def headline(self) -> Headline:
        """Test accuracy of the fine-tuned network."""
        return _of_tasks([self.tuned.test.on(self.task)])


class Ruler(Part):
    psnr: float
    restorers: dict[str, float]
    held_out: bool = True


class Pretrain(Result):
    relative_reconstruction_error: float | None = None
    ruler: Ruler | None = None

    @property
    def headline(self) -> Headline:
        """PSNR next to the best trivial restorer; for linear codes, the reconstruction error."""
        if self.ruler is not None:
            best = sorted(self.ruler.restorers.items(), key=lambda item: -item[1])[:1]
            text = ", ".join(f"{name} {psnr:.1f}" for name, psnr in [("PSNR", self.ruler.psnr), *best])
            return Headline(text, self.ruler.psnr, "psnr", on_training=not self.ruler.held_out)
        error = self.relative_reconstruction_error
        if error is None:
            return Headline("")
        return Headline(f"reconstruction error {error:.3f}", -error, "reconstruction_error")


class OneSeed(Part):
    ruler: Ruler | None = None


class PretrainSeeds(Result):
    seeds: tuple[int, ...]
    spreads: dict[str, Spread]
    runs: tuple[OneSeed, ...] = ()

    @property
    def headline(self) -> Headline:
        """Mean and deviation of the network's PSNR."""
        count, psnr = counted(len(self.seeds), "seed"), self.spreads.get("psnr/network")
        if psnr is None:
            return Headline(count)
        trained_on = any(one.ruler is not None and not one.ruler.held_out for one in self.runs)
        text = f"PSNR {psnr.mean:.1f} ± {psnr.deviation:.1f} ({count})"
        return Headline(text, psnr.mean, "psnr", on_training=trained_on)


class Study(Result):
    verdict: tuple[str, ...]
    winner: str

    @property
    def headline(self) -> Headline:
        """The verdict up to its first colon (yes, no, no difference shown, ...), and the winner."""
        answer = self.verdict[0].split(":")[0] if self.verdict else ""
        return Headline("; ".join(filter(None, (answer, f"{self.winner} is best on validation"))))


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
    measured: int = 0
    learned: int | None = None
    before: Level | None = None
    after: Level | None = None

    @property
    def headline(self) -> Headline:
        """The number of pictures, and their PSNR if clean versions are known."""
        text = counted(self.restored, "picture")
        if self.before is None or self.after is None:
            return Headline(text)
        text += _of_these(self.measured, self.learned)
        text = f"{text}, PSNR {self.after.psnr:.1f} (damaged {self.before.psnr:.1f})"
        return Headline(text, self.after.psnr, "psnr", on_training=self.measured == self.learned)


def _of_these(pictures: int, learned: int | None) -> str:
    """How many of the pictures were learned from, if not all or none."""
    return f" ({learned:,} learned from)" if learned and learned < pictures else ""


class Surprising(Part):
    surprise: float


class Strange(Result):
    ranked: int
    learned: int | None = None
    top: tuple[Surprising, ...]

    @property
    def headline(self) -> Headline:
        """The number of pictures, and the largest surprise."""
        text = counted(self.ranked, "picture") + _of_these(self.ranked, self.learned)
        text = f"{text}, largest surprise {self.top[0].surprise:.1f} dB"
        return Headline(text, on_training=self.ranked == self.learned)


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


def _of_tasks(found: list[OnTask], after: str = "") -> Headline:
    """The result on each task, and their mean for sorting."""
    if not found:
        return Headline("")
    text = ", ".join(f"{one.task} {one.text}" for one in found) + after
    return Headline(text, sum(one.value for one in found) / len(found), found[0].measure)
