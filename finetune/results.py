"""Typed results of the transfer stages: ``results.json`` is the exact dump of one of them, and can be read back.

report = read_results("runs/probe/results.json")     # a ProbeReport
report.results[0].subjects["encoder"].probes["linear"].test.accuracy

ProbeReport     results, multilabel, dense, notes
ProbeResult     one task of one data set: data, encoder, protocol, subjects, properties of the code
SubjectResult   one subject: the encoder, its untrained twin, or raw pixels
Probed          one probe of a subject: the choice made on validation, the test score, comparisons with the baselines
LabelResult     one data set with several labels per image (structured_results.py)
DenseResult     one data set with masks (structured_results.py)
FinetuneResult  the fine-tuned network and its baselines

What is chosen, data and encoders are in records.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import Field, TypeAdapter

from common.encoders.base import View
from common.files import write_json
from common.runs.made import Made
from common.runs.results import RESULTS, SCHEMA_VERSION, Record, load_results
from finetune.records import Calibration, Checks, Choice, CodeProperties, DataFacts, EncoderFacts, ProbeChoice
from finetune.spreads import Seeds
from finetune.structured_results import DenseResult, LabelResult
from finetune.worth import LabelEfficiency


class Score(Record):
    """Predictions on one set of labeled images."""

    accuracy: float  # in [0, 1]
    ci95: tuple[float, float]  # Wilson's 95% interval
    # where large classes decide over the accuracy; in these two, every class counts the same (None in older files)
    balanced_accuracy: float | None = None  # mean accuracy of the classes that have images
    macro_f1: float | None = None  # mean F1 of the classes that have images or predictions
    per_class: tuple[float | None, ...]  # accuracy on the images of each class; None for a class without images
    confusion: tuple[tuple[int, ...], ...]  # counts [true][predicted]
    n: int  # images


class Comparison(Record):
    """Two classifiers on the same test images, image by image."""

    difference: float  # of their accuracies, in [-1, 1]: positive where the first is better
    ci95: tuple[float, float]  # paired bootstrap interval of the difference
    p_value: float  # McNemar's exact test, two-sided
    n10: int  # images that only the first gets right
    n01: int  # images that only the second gets right


class StepChoice(Choice):
    """The training step of a fine-tuned network."""

    step: int
    of_steps: int

    @property
    def cells(self) -> tuple[str, str, str]:
        return "", "", f"step {self.step:,} of {self.of_steps:,}"


C = TypeVar("C", bound=Choice, covariant=True)


class Outcome(Record, Generic[C]):
    """One method on one task: chosen on validation, tested once."""

    choice: C
    n_train: int  # images that the tested classifier was fitted on
    n_val: int  # images that the choice was made on; in cross-validation, each is held out once
    test: Score
    seconds: float
    compared: dict[str, Comparison] = Field(default_factory=dict)  # with random_init, pixels, from_scratch, ...


class Probed(Outcome[ProbeChoice]):
    """A probe of frozen features."""

    converged: bool = True  # whether the fit of the tested classifier did
    damaged: dict[str, Score] = Field(default_factory=dict)  # the same classifier on damaged test images, by damage


class Tuned(Outcome[StepChoice]):
    """A network whose weights were all trained."""


class SubjectResult(Record):
    """One subject on one task."""

    view: View  # what it sees of the images
    probes: dict[str, Probed]  # by name: linear, knn, ...


class ProbeResult(Record):
    """Everything measured on one task of one data set."""

    task: str
    classes: tuple[str, ...]
    needs_color: bool  # the task is known to need color
    data: DataFacts
    protocol: str
    encoder: EncoderFacts
    subjects: dict[str, SubjectResult]  # encoder, random_init, pixels
    code: CodeProperties | None = None
    label_efficiency: LabelEfficiency | None = None
    checks: Checks | None = None  # None in older files
    # of the encoder's linear probe (None in older files)
    calibration: Calibration | None = None
    classifier: str | None = None  # its folder in that of the run, which `retouch predict` reads

    @property
    def linear(self) -> Probed:
        """The encoder's linear probe: the headline result."""
        return self.subjects["encoder"].probes["linear"]

    @property
    def baselines(self) -> dict[str, SubjectResult]:
        """The subjects that the encoder is compared with."""
        return {name: subject for name, subject in self.subjects.items() if name != "encoder"}


class ProbeReport(Record):
    """``results.json`` of ``retouch probe``; of several seeds, with the results of each, one seed after the other."""

    schema_version: Literal[1, 2] = SCHEMA_VERSION
    stage: Literal["probe"] = "probe"
    results: tuple[ProbeResult, ...]
    multilabel: tuple[LabelResult, ...] = ()  # of data sets with several labels per image
    dense: tuple[DenseResult, ...] = ()  # of data sets with masks
    notes: tuple[str, ...] = ()
    seeds: Seeds | None = None  # of several seeds: what they are of, and mean and spread
    made: Made | None = None  # None in older files


class FinetuneResult(Record):
    """``results.json`` of ``retouch finetune``."""

    schema_version: Literal[1, 2] = SCHEMA_VERSION
    stage: Literal["finetune"] = "finetune"
    task: str
    classes: tuple[str, ...]
    data: DataFacts
    protocol: str
    start: str  # the exported encoder or network it started from, or scratch
    encoder_sha256: str  # of the trained encoder
    tuned: Tuned
    start_converged: bool = True  # whether the fit of the linear probe at which its classifier started did
    from_scratch: Tuned | None = None  # the same network and recipe from random initialization
    linear_probe: Probed | None = None  # of the frozen encoder, on the same images
    linear_probe_protocol: str | None = None  # how it was chosen and fitted
    calibration: Calibration | None = None  # of the fine-tuned network (None in older files)
    made: Made | None = None  # None in older files
    notes: tuple[str, ...] = ()  # empty in older files
    checks: Checks | None = None  # null: of the linear probe; frozen: None, as the network is trained (None: older)


Written = ProbeReport | FinetuneResult


def write_results(folder: Path, found: Written) -> None:
    """Write ``results.json`` in ``folder``, atomically."""
    write_json(folder / RESULTS, found.model_dump(mode="json"))


_READER: TypeAdapter[Written] = TypeAdapter(Annotated[ProbeReport | FinetuneResult, Field(discriminator="stage")])


def read_results(path: str | Path) -> Written:
    """Read the results of ``retouch probe`` or ``retouch finetune``: a ``results.json``, or the run folder around it.

    Raises:
        UserError: there is no such file, it is damaged, or another stage or version of Retouch wrote it.
    """
    return load_results(path, _READER, ("probe", "finetune"))
