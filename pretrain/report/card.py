"""The model card that pretraining writes next to an encoder, before any label has been used."""

from __future__ import annotations

from common.data import Images
from common.encoders.provenance import Provenance
from common.encoders.readme import About, Section
from common.engine.loop import Trained
from common.words import counted
from pretrain.config import GradientPretraining, PretrainConfig
from pretrain.ruler.measured import Measured

UNMEASURED = (
    "A probe shows whether it is better than the untrained network on a task: retouch probe linear encoder=FOLDER "
    "data=my/labeled.",
    "retouch report RUN PROBE --markdown -o FOLDER/README.md then replaces this card by one with its results.",
    "What it knows about other images must be measured on them.",
)


def about(
    config: PretrainConfig,
    images: Images,
    method: str,
    training: Trained,
    ruler: Measured | None,
    provenance: Provenance,
) -> About:
    """The images, the training, what the ruler has measured, and the limits."""
    return About(
        method,
        (
            Section("Data", tuple(_data(config, images))),
            Section("Training", tuple(_training(config, method, training, len(images), provenance))),
            *(() if ruler is None else (Section("How well it restores", tuple(_restoring(ruler))),)),
            Section("Limits", (_labels(config, provenance), *UNMEASURED)),
        ),
    )


def _data(config: PretrainConfig, images: Images) -> list[str]:
    found = [f"{counted(len(images), 'image')} of {config.data.source}, without labels."]
    originals = images.originals
    if originals is not None and originals.unreadable:
        found.append(f"Unreadable images that were left out: {originals.unreadable:,}.")
    if originals is not None and originals.sizes is not None:
        sizes = originals.sizes
        small, middle, large = (f"{w:,} × {h:,}" for w, h in (sizes.smallest, sizes.median, sizes.largest))
        found.append(f"Sizes of {sizes.images:,} of them, in px: smallest {small}, median {middle}, largest {large}.")
    if images.levels is not None:
        found.append(f"They have more than 8 bits: the values {images.levels} are black and white.")
    return found


def _labels(config: PretrainConfig, provenance: Provenance) -> str:
    """Whether the network may have learned from labels."""
    named = isinstance(config, GradientPretraining) and config.encoder.pretrained
    if named or provenance.knew_labels:
        return "This training used no labels; earlier training of the network may have."
    return "No labels were used."


def _training(config: PretrainConfig, method: str, training: Trained, images: int, provenance: Provenance) -> list[str]:
    seen = training.step * config.batch_size
    steps = f"{training.step:,} steps of {config.batch_size:,} images: {seen / images:.1f} passes over the images."
    return [
        f"Method: {method}, seed {config.seed}; all settings are in config.yaml of the run.",
        *([f"All trainings of the network, in order: {provenance.story}."] if provenance.before else []),
        *([steps] if training.step else []),
        f"It took {training.seconds:,.0f} seconds.",
    ]


def _restoring(ruler: Measured) -> list[str]:
    return [f"At {ruler.sentence}.", *(one.sentence for one in ruler.verdicts)]
