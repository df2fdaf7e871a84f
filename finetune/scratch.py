"""Training from scratch with fewer labels: the encoder's network, trained on a few draws of the labels alone."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from common.data.rows import even_rows
from common.errors import UserError
from common.recipes import stage_config
from common.runs.tracking import WandbConfig
from finetune.config import FROM_SCRATCH, FinetuneConfig, LabelEfficiencyConfig, ProbeConfig
from finetune.data import LabeledData, LabeledImages
from finetune.efficiency import Right, draw_rows
from finetune.predictions import read_predictions

log = logging.getLogger("retouch")

BUDGETS = 3  # numbers of labels that it is trained with, all of them included
FEWEST = 10  # labels per class: with fewer, a tenth cannot be held out to choose the step on


def scratch_right(config: ProbeConfig, how: LabelEfficiencyConfig, images: LabeledImages, task: str) -> Right:
    """Which test images the network from scratch gets right, for a few of the budgets: bool ``[draws n]`` of each.

    It is fine-tuning from scratch (``retouch finetune``), in a folder of its own for each budget and draw. Each draw
    has a seed of its own; of all labels there is one draw, so that there the seed alone differs.

    Raises:
        UserError: a signal stopped training.
    """
    labels, _ = images.tasks[task]
    # it learns from these labeled images alone, whatever the encoder has seen
    unseen = images._replace(leaks=images.leaks._replace(pretraining=None, unseen=()))
    draws = draw_rows(labels, how, config.seed)
    draws[len(labels.values)] = [torch.arange(len(labels.values))] * how.draws
    right = Right()
    for count in budgets(list(draws), len(torch.unique(labels.values))):
        answers = []
        for number, rows in enumerate(draws[count][: how.scratch_draws]):
            log.info("%s: the network from scratch, with %s labels, draw %d", task, f"{count:,}", number + 1)
            settings = scratch_config(config, how, images, f"{task}-{count}-{number + 1}", config.seed + number)
            answers.append(train_once(settings, unseen.of_task(task).only(train=rows)))
        right[count] = torch.stack(answers)
    return right


def train_once(settings: FinetuneConfig, images: LabeledImages) -> Tensor:
    """Train once, and say which test images the network gets right: bool ``[n]``."""
    from finetune.full import finetune  # which runs probes, and so imports the probe

    if finetune(settings, images) is None:
        raise UserError("label_efficiency.from_scratch: training was stopped; start over with overwrite=true")
    [said] = read_predictions(settings.out)
    return said.answers["tuned"] == said.labels


def budgets(counts: list[int], classes: int) -> list[int]:
    """A few of these numbers of labels, spread evenly over those that are enough; the last is among them."""
    enough = [count for count in counts if count >= FEWEST * classes] or counts[-1:]
    return [enough[place] for place in even_rows(len(enough), BUDGETS).tolist()]


def scratch_config(
    config: ProbeConfig, how: LabelEfficiencyConfig, images: LabeledImages, name: str, seed: int
) -> FinetuneConfig:
    """Fine-tuning of the encoder's network at random initialization."""
    folder = config.out / FROM_SCRATCH / name
    found = stage_config(FinetuneConfig, "full", [f"encoder={config.encoder}"]).from_random()
    return found.model_copy(
        update={
            "out": folder,
            "seed": seed,
            "steps": how.scratch_steps,
            "precision": config.precision,
            "data": LabeledData(
                train=images.train.source.spec, image_size=images.train.size, workers=config.data.workers
            ),
            "overwrite": (folder / "config.yaml").exists(),
            "wandb": WandbConfig(mode="disabled"),
        }
    )
