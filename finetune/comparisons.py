"""What a fine-tuned encoder is compared with: the settings of its baselines, and the comparison image by image."""

from __future__ import annotations

from dataclasses import replace

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


def with_baselines(
    result: FinetuneResult,
    mine: Predictions,
    scratch: tuple[FinetuneResult, Predictions] | None,
    linear: tuple[ProbeResult, Predictions] | None,
) -> tuple[FinetuneResult, Predictions]:
    """Result and predictions with those of the baselines, compared image by image."""
    answers, confidences = dict(mine.answers), dict(mine.confidences)
    if scratch is not None:
        result = result.model_copy(update={"from_scratch": scratch[0].tuned})
        answers["from_scratch"] = scratch[1].answers["tuned"]
        confidences["from_scratch"] = scratch[1].confidences["tuned"]
    if linear is not None:
        answers["linear_probe"] = linear[1].answers["encoder.linear"]
        if "encoder.linear" in linear[1].confidences:
            confidences["linear_probe"] = linear[1].confidences["encoder.linear"]

    def compared(one: str, *baselines: str) -> dict[str, dict[str, Comparison]]:
        found = {name: compare(answers[one], answers[name], mine.labels) for name in baselines if name in answers}
        return {"compared": found}

    if linear is not None:
        probed = linear[0].linear.model_copy(update=compared("linear_probe", "from_scratch"))
        checks = tuned_checks(linear[0].checks)
        result = result.model_copy(
            update={"linear_probe": probed, "linear_probe_protocol": linear[0].protocol, "checks": checks}
        )
    tuned = result.tuned.model_copy(update=compared("tuned", "from_scratch", "linear_probe"))
    result = result.model_copy(update={"tuned": tuned})
    result = result.model_copy(update={"notes": finetune_notes(result)})
    return result, replace(mine, answers=answers, confidences=confidences)
