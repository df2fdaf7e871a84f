"""Typed results of the transfer stages: ``results.json`` is the exact dump of one of them, and can be read back.

report = read_results("runs/probe/results.json")     # a ProbeReport
report.results[0].subjects["encoder"].probes["linear"].test.accuracy

ProbeReport     results, multilabel, dense, notes
ProbeResult     one task of one data set: data, encoder, protocol, subjects, properties of the code
SubjectResult   one subject: the encoder, its untrained twin, or raw pixels
Probed          one probe of a subject: the choice made on validation, the test score, comparisons with the baselines
LabelResult     one data set with several labels per image, likewise
DenseResult      one data set with masks, likewise
FinetuneResult  the fine-tuned network and its baselines
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import Field, TypeAdapter

from common.encoders.base import View
from common.files import write_json
from common.runs.made import Made
from common.runs.results import RESULTS, SCHEMA_VERSION, Record, load_results
from finetune.spreads import Seeds
from finetune.worth import LabelEfficiency

Setting = dict[str, int | float]  # hyperparameters by name: {"l2": 0.001}, {"k": 20}; {} if a probe has none


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


def setting_text(setting: Setting) -> str:
    """``l2 0.001``; empty if there is none."""
    return ", ".join(f"{name} {value:g}" for name, value in setting.items())


def choice_text(layer: str, pooling: str, setting: str) -> str:
    """``layer 2, avg, l2 0.001``; empty parts are skipped."""
    return ", ".join(filter(None, [f"layer {layer}" if layer else "", pooling, setting]))


class Choice(Record):
    """A choice made on training images that the compared classifiers were not fitted on."""

    val_accuracy: float  # on those images
    how: str = ""  # 5-fold cross-validation, or held-out 10%; empty in files of schema version 1

    @property
    @abstractmethod
    def cells(self) -> tuple[str, str, str]:
        """Layer, pooling and setting, as shown in tables; empty if there is none."""

    @property
    def text(self) -> str:
        """One readable line."""
        return choice_text(*self.cells)


class SpaceScore(Record):
    """One comparison of a feature space on validation images, with its best setting."""

    layer: str
    pooling: str
    features: int
    setting: Setting
    val_accuracy: float
    fitted_on: int | None = None  # images of the subsample it was fitted on (search_images); None: all but the held-out


class ProbeChoice(Choice):
    """The features and hyperparameters of a probe."""

    layer: str  # 2, or 0+1+2
    pooling: str  # avg, or avg+avg2+max
    features: int  # width of the space
    setting: Setting
    at_end_of_grid: bool  # a hyperparameter is the smallest or largest of its grid: a wider grid may be better
    unconverged: int = 0  # fits compared on validation that did not converge
    # every comparison, narrow spaces first; a finalist is there twice, first as fitted on the subsample (empty: older)
    spaces: tuple[SpaceScore, ...] = ()

    @property
    def cells(self) -> tuple[str, str, str]:
        return self.layer, self.pooling, setting_text(self.setting)


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


class Repeat(Record):
    """A test image, and an image that repeats it."""

    test: str  # where it comes from
    other: str
    alike: float  # correlation of gray thumbnails; 1 only if the pixels are the same


class NearDuplicates(Record):
    """Test images that other images repeat: the same pixels, or another size, crop or coloring of the same picture."""

    test_images: int
    pairs: int  # all of them are in duplicates.csv
    most_alike: tuple[Repeat, ...]  # at most 20


class DataFacts(Record):
    """The data of one task."""

    train: str  # as the user gave it, with its split if it was split
    test: str
    image_size: int
    duplicates: int  # test images that are also training images
    # test images that those of training, and of pretraining, repeat at least nearly; None: not looked for, or all look
    # too much alike
    near_duplicates: NearDuplicates | None = None
    in_pretraining: NearDuplicates | None = None
    left_out: int = 0  # training images, since they repeat test images (data.leaks=drop)


class EncoderFacts(Record):
    """The frozen encoder that was measured."""

    path: str
    name: str
    view: View
    pretext: str | None  # the pretext it was trained with, if its folder records one
    sha256: str

    @property
    def title(self) -> str:
        """Its display name: the pretext, or else the network."""
        return self.pretext or self.name


class SubjectResult(Record):
    """One subject on one task."""

    view: View  # what it sees of the images
    probes: dict[str, Probed]  # by name: linear, knn, ...


class CodeProperties(Record):
    """Properties of the code (the encoder's last map), independent of the task."""

    size: int  # entries, D*h*w
    nonzeros: float  # mean count per image
    bytes: float  # per image, in the smaller of two formats: dense, or non-zeros with their indices
    invariance: dict[str, float | None]  # score by change: 1 is unchanged, 0 is as far as another image


ALARM = 1e-3  # how seldom a sound null check is noted


class NullCheck(Record):
    """The linear probe with training labels at random, which has to be as accurate as chance.

    Where images have several labels, an accuracy here is a mean average precision; with masks, it is a mean IoU.
    """

    accuracy: float  # mean of the repetitions
    # one by the number of classes; of several labels that of an order and its reverse, on average, which is about their
    # share of the images; what the same answers reach on masks of other images
    chance: float
    ci95: tuple[float, float]  # of the accuracy, if labels mean nothing
    p_value: float | None = None  # of an accuracy as high as this by chance; None: of an earlier version
    images: int  # that it was fitted on
    repetitions: int

    @property
    def above_chance(self) -> bool:
        """Whether it is so far above that a sound check seldom is; of the 95% intervals, one in 40 would be."""
        return self.p_value is not None and self.p_value < ALARM


class Checks(Record):
    """What is true of every sound measurement."""

    frozen: bool | None  # no tensor of the encoder or its twin changed, buffers included
    null: NullCheck | None
    missing: dict[str, str] = Field(default_factory=dict)  # by check that is None: why (empty in older files)


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

    @property
    def linear(self) -> Probed:
        """The encoder's linear probe: the headline result."""
        return self.subjects["encoder"].probes["linear"]

    @property
    def baselines(self) -> dict[str, SubjectResult]:
        """The subjects that the encoder is compared with."""
        return {name: subject for name, subject in self.subjects.items() if name != "encoder"}


class LabelScore(Record):
    """How well a probe ranks one set of images by each of several labels."""

    mean_average_precision: float  # over the labels that images have, in [0, 1]
    ci95: tuple[float, float]  # by the delete-half jackknife over images
    per_label: tuple[float | None, ...]  # average precision; None for a label that no image has
    positives: tuple[int, ...]  # images that have each label: their share is what a random order reaches
    # of the answer "more likely than not"; the mean over labels, and of all answers together
    macro_f1: float
    micro_f1: float
    n: int  # images

    @property
    def chance(self) -> float:
        """The mean average precision of a random order, about."""
        shown = [count / self.n for count in self.positives if count]
        return sum(shown) / len(shown)


class LabelComparison(Record):
    """Two probes on the same test images."""

    difference: float  # of their mean average precisions or mean IoUs, positive where the first is better
    ci95: tuple[float, float]  # paired: by the same halves, or the same draws, of the images

    @property
    def shown(self) -> bool:
        """Whether the interval excludes zero."""
        low, high = self.ci95
        return not low <= 0 <= high


class LabelProbed(Record):
    """A probe of one subject's features for several labels per image: chosen on validation, tested once."""

    view: View  # what the subject sees of the images
    choice: ProbeChoice  # its val_accuracy is a mean average precision
    n_train: int  # images that the tested classifiers were fitted on
    n_val: int  # images that the choice was made on; in cross-validation, each is held out once
    test: LabelScore
    seconds: float
    converged: bool = True  # whether the fits of the tested classifiers did
    compared: dict[str, LabelComparison] = Field(default_factory=dict)  # with random_init and pixels


class LabelResult(Record):
    """Everything measured on one data set with several labels per image."""

    task: str  # the column, or all of them joined by +
    labels: tuple[str, ...]
    data: DataFacts
    protocol: str
    encoder: EncoderFacts
    subjects: dict[str, LabelProbed]  # encoder, random_init, pixels
    code: CodeProperties | None = None
    frozen: bool  # no tensor of the encoder or its twin changed, buffers included
    null: NullCheck | None = None  # None: switched off, too few images, or an older file

    @property
    def checks(self) -> Checks:
        """The same as of one label per image."""
        return Checks(frozen=self.frozen, null=self.null)


class DenseScore(Record):
    """How well a probe tells the classes of pixels apart, over all pixels of some images that count."""

    mean_iou: float  # intersection over union, averaged over the classes that have pixels, in [0, 1]
    ci95: tuple[float, float]  # by the bootstrap over images
    per_class: tuple[float | None, ...]  # IoU; None for a class without pixels
    pixel_accuracy: float  # share of the pixels
    pixels: tuple[int, ...]  # of each class
    images: tuple[int, ...]  # that show each class
    n: int  # images

    @property
    def chance(self) -> float:
        """The mean IoU of always answering the most frequent class."""
        return max(self.pixels) / sum(self.pixels) / sum(count > 0 for count in self.pixels)


class DenseProbed(Record):
    """A probe of one subject's maps, cell by cell: chosen on validation, tested once."""

    view: View  # what the subject sees of the images
    choice: ProbeChoice  # its val_accuracy is a mean IoU, its pooling the cells of the map
    n_train: int  # images that the tested classifier was fitted on
    n_val: int  # images that the choice was made on; in cross-validation, each is held out once
    test: DenseScore
    seconds: float
    compared: dict[str, LabelComparison] = Field(default_factory=dict)  # with random_init and pixels


class DenseResult(Record):
    """Everything measured on one data set with masks."""

    task: str  # the column of masks, or their folder
    classes: tuple[str, ...]
    data: DataFacts
    protocol: str
    encoder: EncoderFacts
    subjects: dict[str, DenseProbed]  # encoder, random_init, pixels
    code: CodeProperties | None = None
    frozen: bool  # no tensor of the encoder or its twin changed, buffers included
    null: NullCheck | None = None  # None: switched off, too few images, or an older file

    @property
    def checks(self) -> Checks:
        """The same as of one label per image."""
        return Checks(frozen=self.frozen, null=self.null)


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
    from_scratch: Tuned | None = None  # the same network and recipe from random initialization
    linear_probe: Probed | None = None  # of the frozen encoder, on the same images
    linear_probe_protocol: str | None = None  # how it was chosen and fitted
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
