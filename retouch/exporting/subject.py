"""The network to export, with its view, standardization and pooling inside."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import JsonValue
from torch import Tensor, nn

from common.encoders import Encoder
from common.encoders.card import CONFIG, RESIZE, EncoderCard
from common.encoders.head import Answers
from common.encoders.hub import local_folder, on_hub
from common.encoders.load import encoder_folder, load_encoder, read_encoder_card
from common.encoders.provenance import Provenance
from common.errors import UserError
from common.files import run_stage
from common.runs.results import Record
from finetune.applied import likely
from finetune.classifier import CARD, CLASSIFIER, CLASSIFIERS, open_classifier, places
from retouch.exporting.settings import ExportConfig, Output

# inputs and outputs
IMAGES, HIDDEN = "images", "hidden"
FEATURES, LOGITS, PROBABILITIES, RESTORED = "features", "logits", "probabilities", "restored"


class Exportable(nn.Module):
    """Images ``[B 3 S S]``, RGB in [0, 1] -> outputs by name."""

    output: ClassVar[Output]
    inputs: ClassVar[tuple[str, ...]] = (IMAGES,)
    names: tuple[str, ...]  # of the outputs

    @property
    def varies(self) -> str:
        """Why its operations depend on the images, so that there is no graph of it; empty if they do not."""
        return ""

    def given(self, images: Tensor) -> tuple[Tensor, ...]:
        """The inputs for the comparison of an export, from images ``[B 3 S S]`` in [0, 1]."""
        return (images,)


class Features(Exportable):
    """Images ``[B 3 S S]``, RGB in [0, 1] -> ``features`` ``[B D]``: the average of the last map, as in ``encode``."""

    output = "features"
    names = (FEATURES,)

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps: Tensor = self.encoder(images)
        return {FEATURES: maps.float().mean(dim=(2, 3))}


class Classes(Exportable):
    """Images ``[B 3 S S]``, RGB in [0, 1] -> ``logits`` and ``probabilities`` ``[B classes]``.

    Probabilities are per class, or per label if images have several, from logits divided by ``temperature``:
    calibrated if one was fitted. For masks, only ``logits`` ``[B classes S S]``, which are not calibrated.
    """

    output = "classifier"

    def __init__(self, logits: nn.Module, temperature: float, answers: Answers = "class") -> None:
        super().__init__()
        self.logits, self.temperature, self.answers = logits, temperature, answers
        self.names = (LOGITS,) if answers == "mask" else (LOGITS, PROBABILITIES)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        logits: Tensor = self.logits(images).float()
        if self.answers == "mask":
            return {LOGITS: logits}
        return {LOGITS: logits, PROBABILITIES: likely(logits, self.answers, self.temperature)}


@dataclass(frozen=True)
class Subject:
    """A network to export, and facts about it.

    Attributes:
        network: on the CPU, in eval mode.
        encoder: the one inside it; for a fine-tuned network, with its classifier.
        card: of the encoder folder that holds the whole network; None for a probe's classifier or a decoder, which are
            in folders next to their encoder.
        folder: the folder that was opened.
        encoder_at: the folder of the encoder next to a probe's classifier or a decoder; None if there is none.
        run: the run folder around it, if it is in one.
        sha256: of what was opened, as its own file names it: ``config.json`` of an encoder or a fine-tuned network,
            ``classifier.json`` of a probe's classifier, ``decoder.json`` of a restorer. ``export.json``, the facts in
            a program and the model card name this one, and a folder that Retouch opens keeps it. (Where only the
            encoder of a fine-tuned ``classifier/`` is exported, the folder has one of its own.)
        image_size: side in px of the images it takes.
        class_names: of the outputs; empty if they are features.
        class_numbers: of the classes in masks; empty for other networks.
    """

    network: Exportable
    encoder: Encoder
    card: EncoderCard | None
    folder: Path
    run: Path | None
    sha256: str
    image_size: int
    provenance: Provenance
    class_names: tuple[str, ...] = ()
    class_numbers: tuple[int, ...] = ()
    encoder_at: Path | None = None

    @property
    def output(self) -> Output:
        return self.network.output

    @property
    def answers(self) -> Answers | None:
        """The kind of its answers; None if it is not a classifier."""
        return self.network.answers if isinstance(self.network, Classes) else None

    @property
    def temperature(self) -> float:
        """The divisor of logits for calibrated probabilities; 1 if none was fitted."""
        return self.network.temperature if isinstance(self.network, Classes) else 1.0


def open_subject(config: ExportConfig) -> Subject:
    """Open the encoder or classifier that the settings name.

    Raises:
        UserError: there is no such run, it has no classifier but one is asked for, or its files are damaged.
    """
    if config.output == "classifier" or (config.output is None and _has_classifier(config.run)):
        return _open_classifier(config)
    if config.task is not None:
        raise UserError("task: it chooses a classifier, but features are exported; remove task")
    folder = encoder_folder(config.run)
    encoder, card = load_encoder(folder), read_encoder_card(folder)
    network = Features(encoder).eval()
    run, sha256 = run_around(config.run, folder), card.sha256
    if card.class_names:  # only the encoder of the classifier is exported, so its file will be a different one
        card = card.model_copy(update={"class_names": (), "sha256": ""})
    return Subject(network, encoder, card, folder, run, sha256, card.image_size, card.provenance)


def _open_classifier(config: ExportConfig) -> Subject:
    applied = open_classifier(config.run, config.task, config.encoder)
    kept = places(config.run, config.task, config.encoder)
    folder = _tuned_folder(config.run) if kept is None else kept.classifier
    return Subject(
        network=Classes(applied, applied.temperature, applied.answers).eval(),
        encoder=applied.encoder,
        card=read_encoder_card(folder) if kept is None else None,
        folder=folder,
        run=run_around(config.run, folder),
        sha256=applied.sha256,
        image_size=applied.image_size,
        provenance=applied.provenance,
        class_names=applied.class_names,
        class_numbers=applied.class_numbers,
        encoder_at=None if kept is None else kept.encoder,
    )


def _has_classifier(run: str) -> bool:
    """Whether a run, or a folder in it, holds a classifier rather than an encoder alone."""
    folder = local_folder(run)
    if (folder / CONFIG).is_file():
        return bool(read_encoder_card(folder).class_names)
    files = (f"{CLASSIFIER}/{CONFIG}", CARD, f"*/{CARD}", f"{CLASSIFIERS}/*/{CARD}")
    return any(next(folder.glob(file), None) is not None for file in files)


def _tuned_folder(run: str) -> Path:
    """The folder of a fine-tuned network, from that folder itself or from its run."""
    folder = local_folder(run)
    return folder if (folder / CONFIG).is_file() else folder / CLASSIFIER


def run_around(run: str, folder: Path) -> Path | None:
    """The run folder that contains this folder, or is this folder; None if there is none."""
    around = () if on_hub(run) else (folder, folder.parent, folder.parent.parent)
    return next((place for place in around if run_stage(place) is not None), None)


class ExportFacts(Record):
    """Facts for programs that use the export."""

    input: str  # of each input, its name, type, shape and range
    outputs: tuple[str, ...]
    image_size: int
    resize: str = RESIZE
    class_names: tuple[str, ...]
    answers: Answers | None = None  # of a classifier
    class_numbers: tuple[int, ...] | None = None  # of the classes in masks
    temperature: float
    sha256: str
    encoder: str

    def content(self) -> dict[str, JsonValue]:
        """All facts, as written to files."""
        return self.model_dump(mode="json", exclude_none=True)


def facts(subject: Subject) -> ExportFacts:
    """Facts for programs that use the export of ``subject``."""
    size = subject.image_size
    described = {
        IMAGES: f"float32 [B 3 {size} {size}], RGB in [0, 1]",
        HIDDEN: f"float32 [B 1 {size} {size}], 1 where a pixel is to be filled, else 0",
    }
    return ExportFacts(
        input="; ".join(f"{name}: {described[name]}" for name in subject.network.inputs),
        outputs=subject.network.names,
        image_size=size,
        class_names=subject.class_names,
        answers=subject.answers,
        class_numbers=subject.class_numbers or None,
        temperature=subject.temperature,
        sha256=subject.sha256,
        encoder=subject.encoder.name,
    )
