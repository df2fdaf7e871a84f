"""The network trained on the labels alone, for comparison: fine-tuning from random weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from common.data import Loader
from common.encoders import Classifier, build_encoder
from common.engine.gradient import GradientLearner
from common.engine.pace import measure_pace
from common.engine.settings import StopConfig
from common.machine.distributed import World
from common.recipes import stage_config
from common.runs.results import RESULTS
from common.runs.tracking import WandbConfig
from finetune.config import FinetuneConfig
from finetune.full import finetune
from finetune.predictions import read_predictions
from finetune.results import FinetuneResult, read_results
from finetune.supervised import Supervised, decayed_groups
from pretrain.config import GradientPretraining
from retouch.studies.config import StudyConfig
from retouch.studies.field import Field
from retouch.studies.images import LabelSet, titled_tasks
from retouch.studies.plan import Plan
from retouch.studies.results import CONTESTANTS, SCRATCH

CHECKS = 8  # validations during training


def scratch_config(config: StudyConfig, field: Field, size: int, number: int, steps: int) -> FinetuneConfig:
    """Settings of supervised training from random weights, with the network of the first contestant in the race.

    Args:
        number: of the task, from 1.
    """
    recipe = next(one.config for one in field.restoring)
    assert isinstance(recipe, GradientPretraining)
    start = {"name": recipe.encoder.name, "model_args": recipe.encoder.model_args, "stem": recipe.encoder.stem}
    found = stage_config(FinetuneConfig, "full", ["encoder.from_scratch=true"]).from_random()
    return found.model_copy(
        update={
            "encoder": found.encoder.model_copy(update={**start, "image_size": size}),
            "out": _folder(config, number),
            "seed": config.seed,
            "steps": steps,
            "base_lr": recipe.base_lr,
            "batch_size": recipe.batch_size,
            "evaluate_every": max(1, steps // CHECKS),
            "wandb": WandbConfig(mode="disabled"),
        }
    )


def scratch_pace(config: StudyConfig, field: Field, sets: Sequence[LabelSet], size: int, here: World) -> float:
    """Seconds per step of the network from scratch."""
    [first, *_] = sets
    task = next(iter(first.images.tasks))
    settings = scratch_config(config, field, size, 1, 1)
    labels = first.images.tasks[task][0]
    encoder = build_encoder(settings.encoder, image_size=size)
    model = Supervised(Classifier(encoder, labels.names), settings.label_smoothing, settings.augment).to(here.device)
    learner = GradientLearner(model, settings, here, groups=decayed_groups(model, settings))
    loader = Loader(first.images.train, labels=labels.values, batch_size=settings.batch_size, seed=config.seed)
    return measure_pace(learner, loader).step


def run_scratch(
    config: StudyConfig, field: Field, sets: Sequence[LabelSet], size: int, plan: Plan
) -> tuple[dict[str, Tensor], Plan] | None:
    """Train on the same labeled images as all tested classifiers, and predict the test images.

    Training ends at the step that the plan has for a task, or once it takes the most seconds that it allows.

    Returns:
        Predictions by task, int64 ``[n]`` each, and the plan with the steps where training ended early; None if a
        signal stopped training.
    """
    tasks = [(title, part, task) for part, tasks in titled_tasks(sets) for title, task in tasks.items()]
    found, ends = {}, dict(plan.scratch_ends)
    for number, (title, part, task) in enumerate(tasks, start=1):
        settings = scratch_config(config, field, size, number, plan.scratch)
        stop = StopConfig(at=plan.scratch_ends.get(title), after=plan.scratch_most)
        if not (settings.out / RESULTS).is_file():
            resumed = settings.model_copy(update={"resume": (settings.out / "config.yaml").is_file()})
            if finetune(resumed, part.images.of_task(task).only(train=part.fitted), stop=stop) is None:
                return None
        [said] = read_predictions(settings.out)
        found[title] = said.answers["tuned"]
        if (taken := _result(config, number).tuned.choice.of_steps) < plan.scratch:
            ends[title] = taken
    return found, plan.model_copy(update={"scratch_ends": ends})


def scratch_seconds(config: StudyConfig, sets: Sequence[LabelSet]) -> float:
    """Seconds of training of the networks from scratch, over all tasks."""
    count = sum(len(tasks) for _, tasks in titled_tasks(sets))
    return round(sum(_result(config, number).tuned.seconds for number in range(1, count + 1)), 1)


def _result(config: StudyConfig, number: int) -> FinetuneResult:
    found = read_results(_folder(config, number))
    assert isinstance(found, FinetuneResult)
    return found


def _folder(config: StudyConfig, number: int) -> Path:
    return config.out / CONTESTANTS / f"{SCRATCH}_{number}"
