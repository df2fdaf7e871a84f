"""``results.json`` of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, TypeAdapter

from common.encoders.base import View
from common.runs.made import Made
from common.runs.results import SCHEMA_VERSION, Record, load_results
from finetune.records import Checks, DataFacts
from finetune.results import Comparison, Probed, Score
from finetune.worth import LabelEfficiency
from retouch.studies.fits import ProbeKind
from retouch.studies.plan import Sizes

CONTESTANTS = "contestants"  # the folder of their runs, inside the study's
PLAN = "plan.json"
SCRATCH = "scratch"  # the network trained on the labels alone; its run for the first task is scratch_1
Kind = Literal["pixels", "untrained", "simple", "restoring", "pretrained", "scratch"]
Role = Literal["untrained", "pixels", "simple", "restoring", "pretrained", "scratch"]


class Validation(Record):
    """Accuracy of a contestant during the study, on labeled training images that its classifier was not fitted on."""

    rung: int | None  # from 1; None for contestants that are judged once
    steps: int  # of its training
    seconds: float  # of its training
    accuracy: dict[str, float]  # by task

    @property
    def mean(self) -> float:
        """Mean accuracy over the tasks, by which all choices are made."""
        return sum(self.accuracy.values()) / len(self.accuracy)


class Contender(Record):
    """A contestant and its results."""

    name: str
    kind: Kind
    view: View
    twin: str | None = None  # its untrained network
    validations: tuple[Validation, ...] = ()  # empty for the network from scratch, which is validated differently
    planned: int = 0  # steps of its whole training
    taken: int | None = (
        None  # steps of the networks from scratch, over all tasks; None for all others, and in older files
    )
    trained: float | None = None  # seconds of training of the network from scratch; None for all others
    features: int | None = None  # that are judged; None for the network from scratch (and in older files)
    test: dict[str, Score]  # by task
    over_twin: dict[str, Comparison] = Field(default_factory=dict)  # by task, on the test images

    @property
    def steps(self) -> int:
        """Training steps taken."""
        return self.validations[-1].steps if self.validations else self.planned

    @property
    def seconds(self) -> float | None:
        """Seconds of training by gradient; None if it took none."""
        if self.kind == "restoring" and self.validations:
            return self.validations[-1].seconds
        return self.trained

    @property
    def mean(self) -> float:
        """Mean test accuracy over the tasks."""
        return sum(score.accuracy for score in self.test.values()) / len(self.test)


class Versus(Record):
    """The winner against another contestant on one task, with Holm's correction for all such comparisons."""

    role: Role  # of the other contestant
    task: str
    one: str
    other: str
    images: int  # of the test
    found: Comparison
    adjusted_p: float


class Counts(Record):
    """The labeled training images of a task."""

    judged: int  # all choices were made on these
    fitted: int  # tested classifiers were fitted on these
    labeled: int  # all


class UnderDamage(Record):
    """The winner's tested classifier on some test images, as they are and damaged; it is not fitted again."""

    clean: Score
    damaged: dict[str, Score]  # by damage


class StudyReport(Record):
    """All results of a study."""

    schema_version: Literal[2] = SCHEMA_VERSION
    stage: Literal["study"] = "study"
    verdict: tuple[str, ...]
    winner: str  # the best on validation
    contenders: tuple[Contender, ...]
    comparisons: tuple[Versus, ...]
    probe: dict[str, Probed] = Field(default_factory=dict)  # linear, of the winner on all labeled images, by task
    probe_kind: ProbeKind = "logistic"
    checks: dict[str, Checks] = Field(default_factory=dict)  # of that probe (empty in older files)
    notes: tuple[str, ...] = ()  # what a reader of these numbers must know (empty in older files)
    # by task, what training is worth in labels: the winner is "encoder", its untrained network "random_init"
    worth: dict[str, LabelEfficiency] = Field(default_factory=dict)
    damage: dict[str, UnderDamage] = Field(default_factory=dict)  # of the winner, by task (empty in older files)
    budget: float  # seconds
    seconds: float  # taken
    image_size: int
    unlabeled: str  # the images that were learned from
    unlabeled_images: int
    repeated: int  # images left out of pretraining because they repeat a test image
    data: dict[str, DataFacts]  # by task
    classes: dict[str, tuple[str, ...]]  # by task
    sizes: Sizes
    counts: dict[str, Counts] = Field(default_factory=dict)  # by task (empty in older files)
    protocol: str
    left_out: tuple[str, ...] = ()
    made: Made | None = None  # None in older files

    @property
    def raced(self) -> bool:
        """Whether any network was trained to restore images."""
        return any(one.kind == "restoring" for one in self.contenders)

    def named(self, name: str) -> Contender:
        """The contestant of this name."""
        return next(one for one in self.contenders if one.name == name)


def touched(
    contenders: Sequence[Contender],
    probed: bool,
    worth: Mapping[str, LabelEfficiency],
    damage: Mapping[str, UnderDamage] | None = None,
) -> str:
    """How many classifiers were tested on the same images, which matters if the best of them is quoted.

    Args:
        probed: whether the winner has a linear probe on all labeled images.
        worth: what the winner's training is worth in labels, by task.
        damage: the winner on damaged images, by task.
    """
    curves = [len(point.draws) for one in worth.values() for curve in one.curves.values() for point in curve]
    drawn = sum(curves) // max(1, len(worth))  # on each task
    parts = [
        f"{len(contenders):,} contestants",
        *(["the winner's linear probe"] if probed else []),
        *([f"{drawn:,} fitted on fewer labels, for what its training is worth"] if drawn else []),
    ]
    joined = " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))
    all_ = len(contenders) + probed + drawn
    again = next(iter((damage or {}).values()), None)
    copies = (
        f", and damaged copies of {again.clean.n:,} of them {len(again.damaged)} times, by the winner" if again else ""
    )
    return f"each task's test images were used by {all_:,} classifiers, once each: {joined}{copies}"


def read_results(path: str | Path) -> StudyReport:
    """Read the results of ``retouch study``: a ``results.json``, or the run folder around it.

    Raises:
        UserError: there is no such file, it is damaged, or another stage or version of Retouch wrote it.
    """
    return load_results(path, TypeAdapter(StudyReport), ("study",))
