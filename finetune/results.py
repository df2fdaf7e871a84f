"""What the transfer stages find, as types: ``results.json`` is exactly the dump of one of these, and reads back.

report = read_results("runs/probe/results.json")     # a ProbeReport
report.results[0].subjects["encoder"].probes["linear"].test.accuracy

ProbeReport     results, notes
ProbeResult     one task of one data set: data, encoder, protocol, subjects, properties of the code
SubjectResult   one thing measured: the encoder, its untrained twin, raw pixels
Probed          one probe of it: what validation chose, and the score on the test set
FinetuneResult  the fine-tuned network and its baselines
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from common.encoders.base import View
from common.errors import UserError
from common.files import write_json

SCHEMA_VERSION: Final = 1  # raise it whenever an older reader would misread a field
RESULTS = "results.json"

Setting = dict[str, int | float]  # hyperparameters by name: {"l2": 0.001}, {"k": 20}; {} where a probe has none


class Record(BaseModel):
    """A frozen block of results. Unknown keys are errors, so that nothing is read as what it is not."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Score(Record):
    """Predictions on one set of labelled images."""

    accuracy: float  # in [0, 1]
    ci95: tuple[float, float]  # Wilson's 95% interval
    per_class: tuple[float | None, ...]  # accuracy on the images of each class; None for a class without images
    confusion: tuple[tuple[int, ...], ...]  # counts [true][predicted]
    n: int  # images


def choice_text(layer: str, pooling: str, setting: str) -> str:
    """``layer 2, avg, l2 0.001``, without what is empty."""
    return ", ".join(filter(None, [f"layer {layer}" if layer else "", pooling, setting]))


class Choice(Record):
    """What the validation split chose."""

    val_accuracy: float

    @property
    def cells(self) -> tuple[str, str, str]:
        """Layer, pooling and setting, as tables show them; empty where there is none."""
        raise NotImplementedError

    @property
    def text(self) -> str:
        """One line for people."""
        return choice_text(*self.cells)


class ProbeChoice(Choice):
    """The features and hyperparameters of a probe."""

    layer: str  # 2, or 0+1+2
    pooling: str  # avg, or avg+avg2+max
    features: int  # width of the space
    setting: Setting
    at_end_of_grid: bool  # the setting is the first or last of its grid: a wider grid may have a better one

    @property
    def cells(self) -> tuple[str, str, str]:
        return self.layer, self.pooling, ", ".join(f"{name} {value:g}" for name, value in self.setting.items())


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
    n_val: int  # images that the choice was made on
    test: Score
    seconds: float


class Probed(Outcome[ProbeChoice]):
    """A probe of frozen features."""

    damaged: dict[str, Score] = {}  # the same classifier on damaged test images, by damage


class Tuned(Outcome[StepChoice]):
    """A network whose weights were all trained."""


class DataFacts(Record):
    """The data of one task."""

    train: str  # as the user named it, or what was made of that
    test: str
    image_size: int
    duplicates: int  # test images that are also training images


class EncoderFacts(Record):
    """The frozen encoder that was measured."""

    path: str
    name: str
    view: View
    pretext: str | None  # what it learned from, where its folder says so
    sha256: str

    @property
    def title(self) -> str:
        """What people call it: its pretext, or else its network."""
        return self.pretext or self.name


class SubjectResult(Record):
    """One thing measured on one task."""

    view: View  # what it saw of the images
    probes: dict[str, Probed]  # by name: linear, knn, ...


class CodeProperties(Record):
    """What the code (the encoder's last map) is like, whatever the task."""

    size: int  # entries, D*h*w
    nonzeros: float  # mean count per image
    bytes: float  # per image: of the smaller of two forms, dense, or non-zeros with their indices
    invariance: dict[str, float | None]  # by change: 1 does not move, 0 moves as far as to another image


class ProbeResult(Record):
    """Everything measured on one task of one data set."""

    task: str
    classes: tuple[str, ...]
    needs_color: bool  # known to need colour
    data: DataFacts
    protocol: str
    encoder: EncoderFacts
    subjects: dict[str, SubjectResult]  # encoder, random_init, pixels
    code: CodeProperties | None = None

    @property
    def linear(self) -> Probed:
        """The linear probe of the encoder: the number that people quote."""
        return self.subjects["encoder"].probes["linear"]

    @property
    def baselines(self) -> dict[str, SubjectResult]:
        """The subjects that the encoder is measured against."""
        return {name: subject for name, subject in self.subjects.items() if name != "encoder"}


class ProbeReport(Record):
    """``results.json`` of ``retouch probe``."""

    schema_version: Literal[1] = SCHEMA_VERSION
    stage: Literal["probe"] = "probe"
    results: tuple[ProbeResult, ...]
    notes: tuple[str, ...] = ()


class FinetuneResult(Record):
    """``results.json`` of ``retouch finetune``."""

    schema_version: Literal[1] = SCHEMA_VERSION
    stage: Literal["finetune"] = "finetune"
    task: str
    classes: tuple[str, ...]
    data: DataFacts
    protocol: str
    start: str  # the exported encoder or network it started from, or scratch
    encoder_sha256: str  # of the trained encoder
    tuned: Tuned
    from_scratch: Tuned | None = None  # the same network and recipe at random initialisation
    linear_probe: Probed | None = None  # of the frozen encoder, on the same images


class EmbedResult(Record):
    """The file that ``retouch embed`` wrote, and what its features take."""

    path: Path
    rows: int  # images
    width: int  # features per image
    nonzeros: int  # of all images together; exact zeros are all that is left out
    bytes_on_disk: int  # of the columns that hold features, compressed

    @property
    def bytes_dense(self) -> int:
        """As a float32 array, uncompressed."""
        return 4 * self.rows * self.width

    @property
    def nonzeros_per_image(self) -> float:
        return self.nonzeros / max(self.rows, 1)

    @property
    def zero_share(self) -> float:
        """Zeros among all entries, in [0, 1]."""
        return 1 - self.nonzeros / max(self.rows * self.width, 1)


Written = ProbeReport | FinetuneResult


def write_results(folder: Path, found: Written) -> None:
    """Write ``results.json`` in ``folder``, atomically."""
    write_json(folder / RESULTS, found.model_dump(mode="json"))


def read_results(path: str | Path) -> Written:
    """Read what ``retouch probe`` or ``retouch finetune`` wrote: a ``results.json``, or the run folder that holds it.

    Raises:
        UserError: there is no such file, it is damaged, or another stage or version of Retouch wrote it.
    """
    path = Path(path)
    path = path / RESULTS if path.is_dir() else path
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give the {RESULTS} of a finished retouch probe or finetune") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}; run the stage again") from None
    version = found.get("schema_version") if isinstance(found, dict) else None
    if version is None:
        raise UserError(
            f"{path} has no schema_version: another stage or an older Retouch wrote it; give the {RESULTS} of "
            "retouch probe or finetune, or run the stage again"
        )
    if version != SCHEMA_VERSION:
        raise UserError(
            f"{path} has schema_version {version!r}, and this Retouch reads {SCHEMA_VERSION}: read it with the version "
            "that wrote it, or run the stage again"
        )
    try:
        return _READER.validate_python(found)
    except ValidationError as error:
        raise UserError(*_problems(error), title=f"{path} is damaged; run the stage again:") from None


_READER: TypeAdapter[Written] = TypeAdapter(Annotated[ProbeReport | FinetuneResult, Field(discriminator="stage")])


def _problems(error: ValidationError, most: int = 5) -> Sequence[str]:
    found = [f"{'.'.join(map(str, item['loc']))}: {item['msg'].lower()}" for item in error.errors(include_url=False)]
    return [*found[:most], *([f"and {len(found) - most} more"] if len(found) > most else [])]
