"""Records that the results of all kinds of probes share: what was chosen, on which data, and of which encoder."""

from __future__ import annotations

from abc import abstractmethod

from pydantic import Field

from common.data.originals import Originals
from common.encoders.base import View
from common.runs.results import Record

Setting = dict[str, int | float]  # hyperparameters by name: {"l2": 0.001}, {"k": 20}; {} if a probe has none


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


class Calibration(Record):
    """How far the confidence of a classifier can be trusted, before and after one temperature.

    The errors are expected calibration errors on the test images, in [0, 1].
    """

    temperature: float  # what logits are divided by; 1 if it was not fitted
    fitted_on: int  # held-out training images; 0: it was not fitted
    error_before: float
    error_after: float


# why images of pretraining are not compared, or need not be
NONE_LEFT = "those that repeat test images were left out of pretraining"
GENERATED = "drawn by a program, so that none is a test image"


class Repeat(Record):
    """A test image, and an image that repeats it."""

    test: str  # where it comes from
    other: str
    alike: float  # correlation of gray thumbnails; 1 only if the pixels are the same


class NearDuplicates(Record):
    """Test images that other images repeat: the same pixels, or another size, compression or coloring of them."""

    test_images: int
    pairs: int  # all of them are in duplicates.csv
    most_alike: tuple[Repeat, ...]  # at most 20
    # images that the test images were compared with, and how many there are that can be read (None: older files)
    compared: int | None = None
    of: int | None = None

    @property
    def partial(self) -> bool:
        """Whether some images were not compared."""
        return self.compared is not None and self.of is not None and self.compared < self.of


class DataFacts(Record):
    """The data of one task."""

    train: str  # as the user gave it, with its split if it was split
    test: str
    image_size: int
    duplicates: int  # test images that are also training images
    # test images that those of training, and of pretraining, repeat at least nearly; None: not known
    near_duplicates: NearDuplicates | None = None
    in_pretraining: NearDuplicates | None = None
    # of these two: which images were not compared, and why (older files: none); nor is it said where none are known of
    not_compared: dict[str, str] = Field(default_factory=dict)
    left_out: int = 0  # training images, since they repeat test images (data.leaks=drop)
    # None: generated, or measured by a Retouch that did not look
    originals: Originals | None = None
    test_originals: Originals | None = None


class EncoderFacts(Record):
    """The frozen encoder that was measured."""

    path: str
    name: str
    view: View
    pretext: str | None  # the pretext it was trained with, if its folder records one
    method: str | None = None  # what that is called (None in older files)
    sha256: str

    @property
    def title(self) -> str:
        """Its display name: the method, or else the network."""
        return self.method or self.pretext or self.name


class CodeProperties(Record):
    """Properties of the code (the encoder's last map), independent of the task."""

    size: int  # entries, D*h*w
    nonzeros: float  # mean count per image
    bytes: float  # per image, in the smaller of two formats: dense, or non-zeros with their indices
    invariance: dict[str, float | None]  # score by change: 1 is unchanged, 0 is as far as another image


ALARM = 1e-3  # how seldom a sound null check is noted


class NullCheck(Record):
    """The linear probe with training labels at random, which must be as accurate as chance.

    Where images have several labels, an accuracy here is a mean average precision; with masks, it is a mean IoU.
    """

    accuracy: float  # mean of the repetitions
    # one by the number of classes; of several labels that of an order and its reverse, on average, which is about their
    # share of the images; what the same answers reach on masks of other images
    chance: float
    ci95: tuple[float, float]  # of the accuracy, if labels mean nothing
    p_value: float | None = None  # of an accuracy this high by chance; None: from an earlier version
    images: int  # that it was fitted on
    repetitions: int
    unconverged: int = 0  # fits, compared or tested, that did not converge

    @property
    def above_chance(self) -> bool:
        """Whether it is so far above that a sound check seldom is; of the 95% intervals, one in 40 would be."""
        return self.p_value is not None and self.p_value < ALARM


class Checks(Record):
    """What is true of every sound measurement."""

    frozen: bool | None  # no tensor of the encoder or its twin changed, buffers included
    null: NullCheck | None
    missing: dict[str, str] = Field(default_factory=dict)  # by check that is None: why (empty in older files)
    # of the encoder and its twin: of all their tensors, before and after the measurement (empty in older files)
    sha256: dict[str, tuple[str, str]] = Field(default_factory=dict)
