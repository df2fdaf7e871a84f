"""A finished study made by hand, with planted results."""

from __future__ import annotations

from pathlib import Path

import torch

from common.files import write_json
from finetune.efficiency import label_efficiency
from finetune.embedding import write_embeddings
from finetune.metrics import compare, score
from finetune.predictions import Predictions, write_predictions
from finetune.records import DataFacts
from retouch.studies.plan import Sizes
from retouch.studies.results import Contender, Counts, Kind, StudyReport, UnderDamage, Validation, Versus
from tests.retouch.reporting.runs import (
    CLASSES,
    EVIL,
    answers_of,
    clusters,
    start,
    write_pretraining,
)

LABELS = torch.arange(300) % 3
RIGHT: dict[str, tuple[Kind, float]] = {
    "colorize": ("restoring", 0.8),
    "mask": ("restoring", 0.79),
    "untrained": ("untrained", 0.6),
    EVIL: ("simple", 0.5),
    "scratch": ("scratch", 0.7),
}
HITS = {
    name: {50: LABELS[None] == end - 1, 200: LABELS[None] < end} for name, end in (("encoder", 2), ("random_init", 1))
}
WORTH = label_efficiency(HITS)
SOME, FEWER = (score(answers_of(LABELS[:100], share, 3), LABELS[:100], 3) for share in (0.75, 0.5))


def contender(name: str, kind: Kind, right: float) -> Contender:
    said, twin = answers_of(LABELS, right, 3), answers_of(LABELS, 0.6, 3)
    once = Validation(rung=None, steps=0, seconds=0.0, accuracy={"animal": right})
    rungs = [
        Validation(rung=rung, steps=10, seconds=10.0 * rung, accuracy={"animal": right - 0.01 * (2 - rung)})
        for rung in (1, 2)
    ]
    validations = {"scratch": (), "restoring": tuple(rungs)}.get(kind, (once,))
    return Contender(
        name=name,
        kind=kind,
        view="rgb",
        twin="untrained" if kind == "restoring" else None,
        planned=90,
        validations=validations,
        test={"animal": score(said, LABELS, 3)},
        over_twin={"animal": compare(said, twin, LABELS)} if kind == "restoring" else {},
    )


def write_study(folder: Path) -> Path:
    """A finished study with one contestant's run."""
    start(folder, "study", "seed: 1\ndata: {source: null}\nlabels: {train: animals}\nbudget: 20m\n")
    write_pretraining(folder / "contestants" / "colorize")
    mine = answers_of(LABELS, 0.8, 3)
    versus = tuple(
        Versus(
            role="untrained",
            task="animal",
            one="colorize",
            other=name,
            images=300,
            adjusted_p=1e-6 if right < 0.75 else 1.0,
            found=compare(mine, answers_of(LABELS, right, 3), LABELS),
        )
        for name, (_, right) in RIGHT.items()
        if name != "colorize"
    )
    report = StudyReport(
        verdict=("Yes: colorize beats the untrained network.", "colorize is not shown to beat mask."),
        winner="colorize",
        contenders=tuple(contender(name, kind, right) for name, (kind, right) in RIGHT.items()),
        comparisons=versus,
        budget=1200.0,
        seconds=1180.0,
        image_size=16,
        unlabeled="folder:animals",
        unlabeled_images=1234,
        repeated=7,
        data={"animal": DataFacts(train="folder:animals", test="folder:tests", image_size=16, duplicates=0)},
        classes={"animal": CLASSES},
        worth={"animal": WORTH},
        damage={"animal": UnderDamage(clean=SOME, damaged={"gray": FEWER, "holes ratio=0.25": SOME})},
        sizes=Sizes(judged=100, fitted=200, tested=300),
        counts={"animal": Counts(judged=100, fitted=200, labeled=500)},
        protocol="ridge",
        left_out=("mixed: needs at least 90 s",),
        notes=("animal: 3 of 300 test images are also training images",),
    )
    write_json(folder / "results.json", report.model_dump(mode="json"))
    answers = {name: answers_of(LABELS, right, 3) for name, (_, right) in RIGHT.items()}
    paths = tuple(f"tests/{row}.png" for row in range(300))
    write_predictions(folder, [Predictions("animal", CLASSES, torch.arange(300), paths, LABELS, answers)])
    write_embeddings(folder, [clusters()], [0])
    return folder
