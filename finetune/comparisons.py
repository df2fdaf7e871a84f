"""What a fine-tuned encoder is compared with: the settings of its baselines, and the comparison image by image."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from finetune.checks import tuned_checks
from finetune.config import FROM_SCRATCH, FinetuneConfig, ProbeConfig
from finetune.metrics import compare
from finetune.predictions import Predictions
from finetune.results import Comparison, FinetuneResult, ProbeResult
from finetune.summary import finetune_notes


def scratch_settings(config: FinetuneConfig) -> FinetuneConfig:
    """The same recipe from random initialization, in a folder of its own."""
    started = (config.out / FROM_SCRATCH / "config.yaml").exists()
    return config.from_random().model_copy(
        update={
            "out": config.out / FROM_SCRATCH,
            "resume": config.resume and started,
            "overwrite": config.overwrite,
            "wandb": config.wandb.model_copy(update={"name": f"{config.wandb.name_of(config.out)}-from-scratch"}),
        }
    )


def probe_settings(config: FinetuneConfig, feature_cache: bool) -> ProbeConfig:
    """The linear probe of ``retouch probe``, with its defaults, on the same images and the same task."""
    folder = config.out / "linear_probe"
    return ProbeConfig.model_validate(
        {
            "out": folder,
            "seed": config.seed,
            "encoder": config.encoder.path,
            "data": config.data.model_dump(),
            "precision": config.precision,
            # only the linear probe is compared; retouch probe reports the rest
            "knn": None,
            "baselines": {"random_init": False, "pixels": False},
            "damage": [],
            "properties": False,
            "feature_cache": feature_cache,
            "overwrite": (folder / "config.yaml").exists(),
            "wandb": config.wandb.model_copy(update={"name": f"{config.wandb.name_of(config.out)}-probe"}).model_dump(),
        }
    )


class Tested(NamedTuple):
    """A network that was tested once."""

    result: FinetuneResult
    predictions: Predictions  # of the test images


class TestedProbe(NamedTuple):
    """The linear probe of the frozen encoder, on the same images."""

    result: ProbeResult
    predictions: Predictions


def with_baselines(mine: Tested, scratch: Tested | None, linear: TestedProbe | None) -> Tested:
    """Result and predictions with those of the baselines, compared image by image."""
    result, predictions = mine
    answers, confidences = dict(predictions.answers), dict(predictions.confidences)
    kept = dict(predictions.calibrated)
    baselines = [
        *([] if scratch is None else [(FROM_SCRATCH, scratch.predictions, "tuned")]),
        *([] if linear is None else [("linear_probe", linear.predictions, "encoder.linear")]),
    ]
    for name, said, column in baselines:
        answers[name] = said.answers[column]
        if column in said.confidences:
            confidences[name] = said.confidences[column]
        if column in said.calibrated:
            kept[name] = said.calibrated[column]

    def compared(one: str, *others: str) -> dict[str, dict[str, Comparison]]:
        found = {name: compare(answers[one], answers[name], predictions.labels) for name in others if name in answers}
        return {"compared": found}

    tuned = result.tuned.model_copy(update=compared("tuned", FROM_SCRATCH, "linear_probe"))
    known: dict[str, object] = {"tuned": tuned}
    if scratch is not None:
        known["from_scratch"] = scratch.result.tuned
    if linear is not None:
        known["linear_probe"] = linear.result.linear.model_copy(update=compared("linear_probe", FROM_SCRATCH))
        known["linear_probe_protocol"] = linear.result.protocol
        known["checks"] = tuned_checks(linear.result.checks)
    result = result.model_copy(update=known)
    result = result.model_copy(update={"notes": finetune_notes(result)})
    return Tested(result, replace(predictions, answers=answers, confidences=confidences, calibrated=kept))
