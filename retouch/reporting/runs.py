"""One run as facts: its settings, its curves, and what its stage found. Names and paths are UTF-8."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from common.encoders.card import EncoderCard
from finetune.data import LabeledData
from finetune.embedding import Embedding
from finetune.multilabel.scores import ReadScores
from finetune.predictions import Predictions
from finetune.records import DataFacts, EncoderFacts
from finetune.results import FinetuneResult, ProbeReport, Score
from finetune.spreads import Over
from pretrain.results import PretrainResults, PretrainSeeds
from retouch.reporting.logs import Log
from retouch.studies.results import Counts, StudyReport, UnderDamage

DICTIONARY = "patch_dictionary"  # the method, and the network


def method_name(method: str) -> str:
    """What a method is called in a report, also where it is not known how the atoms of a dictionary were found."""
    return "patch dictionary" if method == DICTIONARY else method


def encoders_of(report: ProbeReport) -> list[EncoderFacts]:
    """The encoder of each result, of all kinds."""
    several = [one.encoder for results in (report.multilabel, report.dense) for one in results]
    return [*(one.encoder for one in report.results), *several]


class Images(BaseModel):
    """The images of a run, as named in its ``config.yaml``: ``source`` for pretraining, ``train`` for other stages."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    source: str | None = ""  # None for a study that learns from its labeled images
    train: str = ""
    image_size: int | None = None


class Neighbors(BaseModel):
    """The numbers of neighbors that k-NN chose from."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    k: tuple[int, ...] = ()


class Settings(BaseModel):
    """The settings that a report uses. The others are in ``config.yaml``."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    seed: int = 0
    batch_size: int = 0
    resume: bool = False
    overwrite: bool = False
    data: Images = Images()
    knn: Neighbors | None = None


class Curve(NamedTuple):
    """A metric by training step; may be empty."""

    steps: tuple[int, ...] = ()
    values: tuple[float, ...] = ()


EMPTY = Curve()


@dataclass(frozen=True)
class Curves:
    """The metrics of training in ``metrics.jsonl``."""

    loss: Curve = EMPTY
    held_out: Curve = EMPTY  # loss on held-out images
    rate: Curve = EMPTY  # learning rate
    accuracy: Curve = EMPTY  # on held-out images, in [0, 1]
    psnr: Curve = EMPTY  # of restored images, in dB
    speed: float | None = None  # images per second, median over the logged lines
    memory_gb: float | None = None  # the largest


@dataclass(frozen=True)
class Origin:
    """A finished run."""

    folder: Path
    name: str  # differs from those of the other runs
    stage: str  # pretrain, probe, finetune or study
    settings: Settings
    labeled: tuple[LabeledData, ...]  # images with one label each; empty if the settings cannot be read
    log: Log


@dataclass(frozen=True)
class Pretraining:
    """``retouch pretrain``."""

    origin: Origin
    results: PretrainResults
    curves: Curves
    card: EncoderCard | None  # of the exported encoder; None if it was removed
    panel: Path | None  # the last picture of original, damaged and restored images
    atoms: tuple[Path, ...]  # pictures of a dictionary

    @property
    def passes(self) -> float | None:
        """How often each image was seen in training, on average; None if that is unknown, or nothing was trained."""
        images, seen = self.origin.log.unlabeled, self.results.steps * self.origin.settings.batch_size
        return seen / images if images and seen else None

    @property
    def method(self) -> str:
        """What it learned with, as it is called in a report."""
        known = None if self.card is None else self.card.provenance.method
        return method_name(known or self.results.method)

    @property
    def mirrored(self) -> bool:
        """Whether the mirror image of each atom is an atom too, which is not drawn."""
        return self.card is not None and bool(self.card.model_args.get("mirror"))


@dataclass(frozen=True)
class Probing:
    """``retouch probe``."""

    origin: Origin
    report: ProbeReport
    predictions: tuple[Predictions, ...]  # one per result; empty if there are none
    embeddings: tuple[Embedding, ...] = ()  # likewise
    label_scores: tuple[ReadScores, ...] = ()  # one per result with several labels per image; empty if there are none


@dataclass(frozen=True)
class FineTuning:
    """``retouch finetune``."""

    origin: Origin
    result: FinetuneResult
    curves: Curves
    predictions: tuple[Predictions, ...]
    card: EncoderCard | None = None  # of the exported classifier; None if it was removed


@dataclass(frozen=True)
class Studied:
    """``retouch study``; the pretraining runs of its contestants are reported as well."""

    origin: Origin
    report: StudyReport
    predictions: tuple[Predictions, ...] = ()  # one per task; empty if there are none
    embeddings: tuple[Embedding, ...] = ()  # of the winner, likewise

    @property
    def winners(self) -> tuple[Winner, ...]:
        """The winner on each task."""
        winner, known = self.report.named(self.report.winner), len(self.predictions) == len(self.report.classes)
        return tuple(
            Winner(
                task=task,
                name=winner.name,
                classes=classes,
                data=self.report.data[task],
                score=winner.test[task],
                counts=self.report.counts.get(task),
                origin=self.origin,
                predictions=self.predictions[place] if known else None,
                embedding=self.embeddings[place] if known and self.embeddings else None,
                damage=self.report.damage.get(task),
            )
            for place, (task, classes) in enumerate(self.report.classes.items())
        )


@dataclass(frozen=True)
class Winner:
    """The winner of a study on one task."""

    task: str
    name: str
    classes: tuple[str, ...]
    data: DataFacts
    score: Score  # of the test
    counts: Counts | None  # None in older files
    origin: Origin
    predictions: Predictions | None
    embedding: Embedding | None
    damage: UnderDamage | None = None  # None: not measured


@dataclass(frozen=True)
class Group:
    """Runs of one stage with several seeds; the runs themselves are reported as well."""

    folder: Path
    name: str
    pretraining: PretrainSeeds | None = None
    probing: ProbeReport | None = None  # its `seeds` is not None

    @property
    def over(self) -> Over | None:
        """What varies with the seed of its probes; None for a group of pretraining runs."""
        return None if self.probing is None or self.probing.seeds is None else self.probing.seeds.over
