"""The end of a study: every contestant is tested once, by one protocol, and the winner is compared with the others."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from common.data import Loader
from common.encoders import Classifier, build_encoder
from common.engine.gradient import GradientLearner
from common.engine.pace import measure_pace
from common.files import write_json
from common.machine.distributed import World
from common.recipes import stage_config
from common.runs.results import RESULTS
from common.runs.tracking import WandbConfig
from finetune.config import FinetuneConfig
from finetune.data import LabeledImages, Sources, data_facts
from finetune.full import Supervised, decayed_groups, finetune
from finetune.metrics import compare, score
from finetune.predictions import Predictions, read_predictions, write_predictions
from finetune.results import DataFacts, Probed, Score
from pretrain.config import GradientPretraining
from retouch.report.compare import holm
from retouch.studies.config import StudyConfig
from retouch.studies.contestants import SCRATCH, Field, Restoring
from retouch.studies.images import LabelSet, titled_tasks
from retouch.studies.parts import Parts
from retouch.studies.plan import Plan
from retouch.studies.race import better
from retouch.studies.results import CONTESTANTS, Contender, Role, StudyReport, Validation, Versus
from retouch.studies.verdict import verdict

log = logging.getLogger("retouch")

Answers = dict[str, dict[str, Tensor]]  # predictions, int64 [n] each, by contestant and task
CHECKS = 8  # times that the network from scratch is validated


# ---- the network from scratch


def scratch_config(config: StudyConfig, field: Field, size: int, task: str, steps: int) -> FinetuneConfig:
    """Supervised training from random weights, of the network of the first contestant in the race."""
    recipe = next(one.config for one in field.restoring)
    assert isinstance(recipe, GradientPretraining)
    start = {"name": recipe.encoder.name, "model_args": recipe.encoder.model_args, "stem": recipe.encoder.stem}
    found = stage_config(FinetuneConfig, "full", ["encoder.from_scratch=true"])
    return found.model_copy(
        update={
            "encoder": found.encoder.model_copy(update={**start, "image_size": size}),
            "out": config.out / CONTESTANTS / f"{SCRATCH}_{task}",
            "seed": config.seed,
            "steps": steps,
            "layer_decay": 1.0,
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
    settings = scratch_config(config, field, size, task, 1)
    labels = first.images.tasks[task][0]
    encoder = build_encoder(settings.encoder, image_size=size)
    model = Supervised(Classifier(encoder, labels.names), settings.label_smoothing, settings.augment).to(here.device)
    learner = GradientLearner(model, settings, here, groups=decayed_groups(model, settings))
    loader = Loader(first.images.train, labels=labels.values, batch_size=settings.batch_size, seed=config.seed)
    return measure_pace(learner, loader).step


def run_scratch(
    config: StudyConfig, field: Field, sets: Sequence[LabelSet], size: int, steps: int
) -> dict[str, Tensor] | None:
    """Train on the labels that all classifiers are fitted on, and predict the test images.

    Returns:
        Predictions by task, int64 ``[n]`` each; None if a signal stopped training.
    """
    found = {}
    for number, (title, part, task) in enumerate(
        (title, part, task) for part, tasks in titled_tasks(sets) for title, task in tasks.items()
    ):
        settings = scratch_config(config, field, size, str(number + 1), steps)
        if not (settings.out / RESULTS).is_file():
            resumed = (settings.out / "config.yaml").is_file()
            images = _of_task(part, task)
            if finetune(settings.model_copy(update={"resume": resumed}), images) is None:
                return None
        [said] = read_predictions(settings.out)
        found[title] = said.answers["tuned"]
    return found


def _of_task(part: LabelSet, task: str) -> LabeledImages:
    """The fitted rows and the test images with one task."""
    known, asked = part.images.tasks[task]
    known = known._replace(values=known.values[part.fitted])
    return part.images._replace(train=part.images.train.only(part.fitted), tasks={task: (known, asked)})


# ---- comparisons


def rivals_of(winner: str, field: Field, ranked: Sequence[str]) -> dict[Role, str]:
    """Whom the winner is compared with, by what they are to it.

    Args:
        ranked: all that were judged, the best on validation first.
    """
    of = {one.name: one for one in (*field.ready, *field.simple, *field.restoring)}

    def best(kind: str) -> str | None:
        return next((name for name in ranked if of[name].kind == kind and name != winner), None)

    leader = winner if of[winner].kind == "restoring" else best("restoring")
    twin = next((one.twin for one in field.restoring if one.name == leader), None)
    found: dict[Role, str | None] = {
        "untrained": twin or best("untrained"),
        "pixels": "pixels",
        "simple": best("simple"),
        "restoring": best("restoring"),
        "pretrained": best("pretrained"),
    }
    if of[winner].kind == "untrained":
        del found["untrained"]  # of another network
    return {role: name for role, name in found.items() if name is not None and name != winner}


def compared(winner: str, rivals: dict[Role, str], answers: Answers, labels: dict[str, Tensor]) -> tuple[Versus, ...]:
    """The winner against its rivals on every task, corrected together.

    Args:
        labels: of the test images, by task.
    """
    pairs = [
        (role, other, task, compare(said, answers[other][task], labels[task]))
        for role, other in rivals.items()
        for task, said in answers[winner].items()
    ]
    adjusted = holm([found.p_value for *_, found in pairs])
    return tuple(
        Versus(role=role, task=task, one=winner, other=other, images=len(labels[task]), found=found, adjusted_p=p)
        for (role, other, task, found), p in zip(pairs, adjusted, strict=True)
    )


def labels_of_tests(sets: Sequence[LabelSet]) -> dict[str, Tensor]:
    """Labels of the test images by task, int64 ``[n]`` each."""
    return {
        title: part.images.tasks[task][1].values for part, tasks in titled_tasks(sets) for title, task in tasks.items()
    }


def predictions(sets: Sequence[LabelSet], answers: Answers) -> list[Predictions]:
    """All answers to each task, for ``predictions.parquet``."""
    return [
        Predictions.of(
            part.images.test,
            torch.arange(len(part.images.test)),
            title,
            part.images.tasks[task][1].names,
            part.images.tasks[task][1].values,
            {name: said[title] for name, said in answers.items()},
        )
        for part, tasks in titled_tasks(sets)
        for title, task in tasks.items()
    ]


# ---- results


def finish(parts: Parts, plan: Plan) -> StudyReport | None:
    """Test everybody once, compare the winner, and write results and predictions; None if a signal stopped training."""
    config, images, field, journal = parts.config, parts.images, parts.field, parts.journal
    competing = [*(one.name for one in field.ready), *plan.simple, *plan.steps]
    winner = _winner(parts, plan)
    log.info("\n%s is best on validation; now everybody is tested once", winner)

    answers: Answers = {}
    if plan.scratch:
        said = run_scratch(config, field, images.sets, images.size, plan.scratch)
        if said is None:
            return None
        answers[SCRATCH] = said
    for name in competing:
        tested = parts.judge.test(field.named(name))
        answers[name] = {task: one.predictions for task, one in tested.items()}
    labels, classes = labels_of_tests(images.sets), _classes(images.sets)
    scores = {
        name: {task: score(said, labels[task], len(classes[task])) for task, said in of.items()}
        for name, of in answers.items()
    }
    ranked = sorted(competing, key=lambda name: -journal.last(name).mean)
    rivals = rivals_of(winner, field, ranked)
    if plan.scratch:
        rivals["scratch"] = SCRATCH
    comparisons = compared(winner, rivals, answers, labels)
    contenders = tuple(_contender(parts, plan, name, scores[name], answers, labels) for name in answers)
    probed = _probe(parts, plan, winner)

    [leader] = [one for one in contenders if one.name == winner]
    report = StudyReport(
        verdict=verdict(leader, comparisons),
        winner=winner,
        contenders=tuple(sorted(contenders, key=lambda one: -one.mean)),
        comparisons=comparisons,
        probe=probed,
        budget=config.seconds,
        seconds=round(journal.clock.taken, 1),
        image_size=images.size,
        unlabeled=images.pool.source.spec,
        unlabeled_images=len(images.pool),
        identical=images.identical,
        data=_facts(images.sets),
        classes=classes,
        sizes=plan.sizes,
        protocol=_protocol(parts),
        left_out=plan.left_out,
    )
    write_predictions(config.out, predictions(images.sets, answers))
    write_json(config.out / RESULTS, report.model_dump(mode="json"))
    parts.run.tracker.summary({"verdict": " ".join(report.verdict), "winner": winner})
    return report


def _winner(parts: Parts, plan: Plan) -> str:
    """The best on validation of those who trained to the end and those who are judged once."""
    last = len(plan.rungs)
    judged = [one for one in parts.journal.memory.judgments if one.rung in (None, last)]
    return better(judged, 1)[0]


def _probe(parts: Parts, plan: Plan, winner: str) -> dict[str, Probed]:
    """The usual linear probe of the winner, if there is time left for what was planned."""
    if not plan.probe:
        return {}
    found = {task: one.outcome for task, one in parts.judge.probe(parts.field.named(winner)).items()}
    for task, one in found.items():
        log.info(
            "%s: linear probe on all %s labeled images: %.1f%% on %s",
            *(winner, f"{one.n_train:,}", 100 * one.test.accuracy, task),
        )
    return found


def _contender(
    parts: Parts, plan: Plan, name: str, test: dict[str, Score], answers: Answers, labels: dict[str, Tensor]
) -> Contender:
    if name == SCRATCH:
        return Contender(name=name, kind="scratch", view="rgb", planned=plan.scratch, test=test)
    one = parts.field.named(name)
    twin = one.twin if isinstance(one, Restoring) else None
    return Contender(
        name=name,
        kind=one.kind,
        view=one.encoder().view,
        twin=twin,
        planned=plan.steps.get(name, 0),
        validations=tuple(
            Validation(rung=j.rung, steps=j.steps, seconds=j.seconds, accuracy=j.accuracy)
            for j in parts.journal.memory.judgments
            if j.name == name
        ),
        test=test,
        over_twin={}
        if twin is None
        else {task: compare(said, answers[twin][task], labels[task]) for task, said in answers[name].items()},
    )


def _classes(sets: Sequence[LabelSet]) -> dict[str, tuple[str, ...]]:
    return {
        title: part.images.tasks[task][0].names for part, tasks in titled_tasks(sets) for title, task in tasks.items()
    }


def _facts(sets: Sequence[LabelSet]) -> dict[str, DataFacts]:
    return {
        title: data_facts(Sources(part.images.train.source, part.images.test.source), part.images)
        for part, tasks in titled_tasks(sets)
        for title in tasks
    }


def _protocol(parts: Parts) -> str:
    images = parts.images
    return (
        f"frozen encoders, all layers; chosen by cross-validated ridge regression on {images.judged:,} labeled "
        f"training images; tested once, by ridge regression on {images.fitted:,}; the network from scratch is trained "
        f"on the same {images.fitted:,} and keeps its best step on a held-out tenth; differences are paired, with "
        "Holm's correction for all comparisons of the winner"
    )
