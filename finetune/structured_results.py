"""Results of probes that give several answers for each image: several labels, or masks.

SeveralScore    how well the answers are, on one set of images: LabelScore, DenseScore
SeveralProbed   a probe of one subject: choice, score, comparisons with the baselines: LabelProbed, DenseProbed
SeveralResult   everything measured on one data set: LabelResult, DenseResult
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, ClassVar, Generic, Self, TypeVar

from pydantic import Field, model_validator

from common.encoders.base import View
from common.runs.results import Record
from finetune.records import Calibration, Checks, CodeProperties, DataFacts, EncoderFacts, ProbeChoice
from finetune.spreads import Measure


class LabelComparison(Record):
    """Two probes on the same test images."""

    difference: float  # of their mean average precisions or mean IoUs, positive where the first is better
    ci95: tuple[float, float]  # paired: by the same halves, or the same draws, of the images
    # two-sided, normal, by the deviation of these differences (None: an older file, whose interval then gives it)
    p_value: float | None = None

    @property
    def p(self) -> float:
        """The chance of a difference as large if there were none; not corrected for other comparisons."""
        low, high = self.ci95
        return _normal_p(self.difference, (high - low) / (2 * 1.96)) if self.p_value is None else self.p_value

    @classmethod
    def of(cls, difference: float, low: float, high: float, deviation: float) -> Self:
        """A difference with its interval, and its p-value by its standard deviation."""
        return cls(difference=difference, ci95=(low, high), p_value=_normal_p(difference, deviation))


def _normal_p(difference: float, deviation: float) -> float:
    """The two-sided p-value of a difference that is normal around zero with this deviation."""
    return math.erfc(abs(difference) / deviation / math.sqrt(2)) if deviation else float(difference == 0)


class SeveralScore(Record):
    """How well a probe predicts several labels, or the classes of pixels, on one set of images."""

    ci95: tuple[float, float]  # of the mean
    n: int  # images

    @property
    @abstractmethod
    def mean(self) -> float:
        """The number that stands for the whole: what the results call ``SeveralResult.measure``, in [0, 1]."""

    @property
    @abstractmethod
    def each(self) -> tuple[float | None, ...]:
        """The same for every label or class; None for one that no image shows."""

    @property
    @abstractmethod
    def shown_by(self) -> tuple[int, ...]:
        """How many images show each."""

    @property
    @abstractmethod
    def shares(self) -> tuple[float, ...]:
        """The share of each: of the images, or of the pixels."""

    @property
    @abstractmethod
    def others(self) -> dict[str, float]:
        """Other numbers of the whole, by their display names; keys of logs are these in lower case with underscores."""

    @property
    @abstractmethod
    def chance(self) -> float:
        """The mean of answers that ignore the images."""


S = TypeVar("S", bound=SeveralScore, covariant=True)


class SeveralProbed(Record, Generic[S]):
    """A probe of one subject: chosen on validation, tested once."""

    view: View  # what the subject sees of the images
    choice: ProbeChoice  # its val_accuracy is the mean of the score on validation images
    n_train: int  # images that the tested classifiers were fitted on
    n_val: int  # images that the choice was made on; in cross-validation, each is held out once
    test: S
    seconds: float
    compared: dict[str, LabelComparison] = Field(default_factory=dict)  # with random_init and pixels


P = TypeVar("P", bound=SeveralProbed[SeveralScore], covariant=True)


class SeveralResult(Record, Generic[P]):
    """Everything measured on one data set."""

    measure: ClassVar[Measure]

    task: str  # the column of labels, all of them joined by +; or the column of masks, or their folder
    data: DataFacts
    protocol: str
    encoder: EncoderFacts
    subjects: dict[str, P]  # encoder, random_init, pixels
    code: CodeProperties | None = None
    checks: Checks
    # of the encoder's probe: its folder in that of the run, which `retouch predict` reads (None in older files)
    classifier: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _checks_of_older_files(cls, values: Any) -> Any:
        """In older files, what is in ``checks`` now stands next to it."""
        if not isinstance(values, dict) or "checks" in values or "frozen" not in values:
            return values
        of_checks = {key: values[key] for key in ("frozen", "null", "missing") if key in values}
        others = {key: value for key, value in values.items() if key not in of_checks}
        return others | {"checks": {"null": None} | of_checks}

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The labels, or the classes."""

    @property
    def linear(self) -> P:
        """The encoder's linear probe: the headline result."""
        return self.subjects["encoder"]


Several = SeveralResult[SeveralProbed[SeveralScore]]


# ---- several labels per image


class LabelScore(SeveralScore):
    """How well a probe ranks one set of images by each of several labels; intervals by the delete-half jackknife."""

    mean_average_precision: float  # over the labels that images have, in [0, 1]
    per_label: tuple[float | None, ...]  # average precision; None for a label that no image has
    positives: tuple[int, ...]  # images that have each label: their share is what a random order reaches
    # of the answer "more likely than not"; the mean over labels, and of all answers together
    macro_f1: float
    micro_f1: float

    @property
    def mean(self) -> float:
        return self.mean_average_precision

    @property
    def each(self) -> tuple[float | None, ...]:
        return self.per_label

    @property
    def shown_by(self) -> tuple[int, ...]:
        return self.positives

    @property
    def shares(self) -> tuple[float, ...]:
        return tuple(count / self.n for count in self.positives)

    @property
    def others(self) -> dict[str, float]:
        return {"macro F1": self.macro_f1, "micro F1": self.micro_f1}

    @property
    def chance(self) -> float:
        """The mean average precision of a random order, about."""
        shown = [share for share in self.shares if share]
        return sum(shown) / len(shown)


class LabelProbed(SeveralProbed[LabelScore]):
    """A probe of one subject's features for several labels per image."""

    converged: bool = True  # whether the fits of the tested classifiers did


class LabelResult(SeveralResult[LabelProbed]):
    """Everything measured on one data set with several labels per image."""

    measure: ClassVar[Measure] = "mean_average_precision"

    labels: tuple[str, ...]
    # of the encoder's probe, over the answers to all labels together (None in older files)
    calibration: Calibration | None = None

    @property
    def names(self) -> tuple[str, ...]:
        return self.labels


# ---- masks


class DenseScore(SeveralScore):
    """How well a probe tells the classes of pixels apart, over all pixels of some images that count.

    Intervals are by the bootstrap over images.
    """

    mean_iou: float  # intersection over union, averaged over the classes that have pixels, in [0, 1]
    per_class: tuple[float | None, ...]  # IoU; None for a class without pixels
    pixel_accuracy: float  # share of the pixels
    pixels: tuple[int, ...]  # of each class
    images: tuple[int, ...]  # that show each class

    @property
    def mean(self) -> float:
        return self.mean_iou

    @property
    def each(self) -> tuple[float | None, ...]:
        return self.per_class

    @property
    def shown_by(self) -> tuple[int, ...]:
        return self.images

    @property
    def shares(self) -> tuple[float, ...]:
        total = sum(self.pixels)
        return tuple(count / total for count in self.pixels)

    @property
    def others(self) -> dict[str, float]:
        return {"pixel accuracy": self.pixel_accuracy}

    @property
    def chance(self) -> float:
        """The mean IoU of always answering the most frequent class."""
        return max(self.shares) / sum(count > 0 for count in self.pixels)


class DenseProbed(SeveralProbed[DenseScore]):
    """A probe of one subject's maps, cell by cell; the pooling of its choice is the cells of the map."""


class DenseResult(SeveralResult[DenseProbed]):
    """Everything measured on one data set with masks."""

    measure: ClassVar[Measure] = "mean_iou"

    classes: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return self.classes
