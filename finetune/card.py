"""The model cards that fine-tuning writes next to its network and its encoder, with what it has measured."""

from __future__ import annotations

from collections.abc import Iterator

from common.encoders.load import ENCODER, read_encoder_card
from common.encoders.readme import README, About, Section, readme
from common.files import write_text
from finetune.classifier import CLASSIFIER
from finetune.config import FinetuneConfig
from finetune.results import FinetuneResult

BASELINES = {"from_scratch": "the same network from scratch", "linear_probe": "the linear probe of the frozen encoder"}


def write_cards(config: FinetuneConfig, result: FinetuneResult) -> None:
    """Write ``README.md`` next to the classifier and the encoder of the run, atomically."""
    about = _about(config, result)
    for folder in (config.out / CLASSIFIER, config.out / ENCODER):
        write_text(folder / README, readme(read_encoder_card(folder), about))


def _about(config: FinetuneConfig, result: FinetuneResult) -> About:
    tuned = result.tuned
    training = (
        f"Started from {result.start}; {tuned.n_train:,} images, step {tuned.choice.step:,} of "
        f"{tuned.choice.of_steps:,} was kept, seed {config.seed}; all settings are in config.yaml of the run.",
        f"Protocol: {result.protocol}.",
    )
    limits = (
        *(f"{note}." for note in result.notes),
        "Accuracy on other images must be measured on them.",
    )
    return About(
        "fine-tuning",
        (
            Section("Results", tuple(_results(result))),
            Section("Data", (f"Training: {result.data.train}. Test: {result.data.test}.",)),
            Section("Training", training),
            Section("Limits", limits),
        ),
    )


def _results(result: FinetuneResult) -> Iterator[str]:
    test = result.tuned.test
    low, high = test.ci95
    yield f"Accuracy on {test.n:,} test images: {test.accuracy:.1%} [{low:.1%}, {high:.1%}], of {result.task}."
    if test.balanced_accuracy is not None:
        yield f"Every class counted the same: {test.balanced_accuracy:.1%}."
    for name, found in result.tuned.compared.items():
        low, high = found.ci95
        yield (
            f"{100 * found.difference:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}] against {BASELINES[name]} on "
            f"the same images (McNemar's p = {found.p_value:.2g})."
        )
    if (sure := result.calibration) is not None and sure.fitted_on:
        yield (
            f"Expected calibration error: {100 * sure.error_after:.1f} points with the temperature "
            f"{sure.temperature:.2f}, {100 * sure.error_before:.1f} without."
        )
