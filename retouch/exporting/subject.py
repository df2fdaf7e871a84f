"""What is exported: a trained network whose view, standardization and pooling are inside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from common.encoders import Encoder
from common.encoders.card import CONFIG, EncoderCard
from common.encoders.hub import on_hub
from common.encoders.load import encoder_folder, load_classifier, load_encoder, read_encoder_card
from common.errors import UserError
from common.files import run_stage
from retouch.exporting.settings import ExportConfig, Output

CLASSIFIER = "classifier"  # the folder of a fine-tuned network in the folder of its run
IMAGES, FEATURES, LOGITS, PROBABILITIES = "images", "features", "logits", "probabilities"  # input and outputs


class Features(nn.Module):
    """Images ``[B 3 S S]``, RGB in [0, 1] -> ``features`` ``[B D]``: the average of the last map, as ``encode``."""

    names = (FEATURES,)

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps: Tensor = self.encoder(images)
        return {FEATURES: maps.float().mean(dim=(2, 3))}


class Classes(nn.Module):
    """Images ``[B 3 S S]``, RGB in [0, 1] -> ``logits`` and ``probabilities`` ``[B classes]``.

    Probabilities are the softmax of logits divided by ``temperature``: calibrated, where one was fitted.
    """

    names = (LOGITS, PROBABILITIES)

    def __init__(self, logits: nn.Module, temperature: float) -> None:
        super().__init__()
        self.logits, self.temperature = logits, temperature

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        logits: Tensor = self.logits(images).float()
        return {LOGITS: logits, PROBABILITIES: (logits / self.temperature).softmax(dim=1)}


@dataclass(frozen=True)
class Subject:
    """A network to export, and what is known of it.

    Attributes:
        network: on the CPU, in eval mode.
        encoder: the one inside it; of a fine-tuned network, with its classifier.
        card: of the folder of ``encoder``.
        folder: the one that was opened.
        run: the run folder around it, if it is in one.
        sha256: of everything that decides the outputs, as ``folder`` says.
        class_names: of the outputs; none, if they are features.
    """

    network: Features | Classes
    encoder: Encoder
    card: EncoderCard
    folder: Path
    run: Path | None
    sha256: str
    class_names: tuple[str, ...] = ()

    @property
    def output(self) -> Output:
        return "features" if isinstance(self.network, Features) else "classifier"


def open_subject(config: ExportConfig) -> Subject:
    """Open what the settings name.

    Raises:
        UserError: there is no such run, it has no classifier where one is asked for, or its files are damaged.
    """
    folder = _folder(config)
    card = read_encoder_card(folder)
    output = config.output or ("classifier" if card.class_names else "features")
    run = None if on_hub(config.run) or run_stage(folder.parent) is None else folder.parent
    if output == "classifier":
        if not card.class_names:
            raise UserError(f"{config.run} has no classifier: set output=features, or export a run of retouch finetune")
        classifier = load_classifier(folder)
        network = Classes(classifier, 1.0).eval()
        return Subject(network, classifier.encoder, card, folder, run, card.sha256, classifier.class_names)
    encoder = load_encoder(folder)
    return Subject(Features(encoder).eval(), encoder, card, folder, run, card.sha256)


def _folder(config: ExportConfig) -> Path:
    """The folder of a run to export: of the classifier, unless features are asked for."""
    if on_hub(config.run):
        return encoder_folder(config.run)
    folder = Path(config.run).expanduser()
    inside = folder / CLASSIFIER
    if config.output != "features" and not (folder / CONFIG).is_file() and (inside / CONFIG).is_file():
        return inside
    return encoder_folder(folder)


def facts(subject: Subject) -> Mapping[str, Any]:
    """What a program that uses the export has to know."""
    card = subject.card
    return {
        "input": f"{IMAGES}: float32 [B 3 {card.image_size} {card.image_size}], RGB in [0, 1]",
        "outputs": list(subject.network.names),
        "image_size": card.image_size,
        "resize": card.resize,
        "class_names": list(subject.class_names),
        "temperature": subject.network.temperature if isinstance(subject.network, Classes) else None,
        "sha256": subject.sha256,
        "encoder": card.name,
    }
