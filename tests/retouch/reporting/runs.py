"""Runs made by hand, as folders and as facts: small, quick, and with planted results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from common.files import write_json
from finetune.embedding import Embedding
from finetune.metrics import compare, score
from finetune.predictions import Predictions, write_predictions
from finetune.records import CodeProperties, DataFacts, EncoderFacts, ProbeChoice, SpaceScore
from finetune.results import (
    FinetuneResult,
    Probed,
    ProbeReport,
    ProbeResult,
    StepChoice,
    SubjectResult,
    Tuned,
    write_results,
)
from finetune.worth import LabelEfficiency, LabelPoint, Worth
from pretrain.results import CodeStorage, PretrainResults
from pretrain.ruler.health import Health
from pretrain.ruler.measured import Measured
from pretrain.ruler.verdicts import Kind, Verdict
from retouch.reporting.facts import Facts
from retouch.reporting.logs import Log
from retouch.reporting.runs import Origin, Probing, Settings

CLASSES = ("cat", "dog", "owl")
RIGHT = {"encoder": 0.8, "random_init": 0.5, "pixels": 0.4}  # accuracy by subject
EVIL = "<img src=x onerror=alert(1)>"

LABELS = LabelEfficiency(
    protocol="nested draws",
    curves={
        "encoder": (LabelPoint(labels=60, draws=(0.3, 0.4)), LabelPoint(labels=600, draws=(0.5,))),
        "random_init": (LabelPoint(labels=60, draws=(0.2, 0.2)), LabelPoint(labels=600, draws=(0.37,))),
        "pixels": (LabelPoint(labels=60, draws=(0.15, 0.2)), LabelPoint(labels=600, draws=(0.36,))),
    },
    worth={
        "random_init": (
            Worth(labels=60, equals=457, ci95=(301, None)),
            Worth(labels=600, equals=None, ci95=(None, None)),
        )
    },
)


def space(layer: str, accuracy: float, pooling: str = "avg", fitted_on: int | None = None) -> SpaceScore:
    return SpaceScore(
        layer=layer,
        pooling=pooling,
        features=8,
        setting={"l2": 0.01},
        val_accuracy=accuracy,
        fitted_on=fitted_on,
    )


def answers_of(labels: Tensor, accuracy: float, classes: int) -> Tensor:
    """Right for the first share of the images in a fixed shuffled order, so a better classifier is right on more."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    wrong = order[round(accuracy * len(labels)) :]
    answers = labels.clone()
    answers[wrong] = (labels[wrong] + 1) % classes
    return answers


def probe_result(
    right: Mapping[str, float] = RIGHT,
    *,
    task: str = "animal",
    classes: Sequence[str] = CLASSES,
    n: int = 300,
    pretext: str = "denoise",
    sha256: str = "a" * 64,
    gray: bool = False,
    needs_color: bool = False,
    damage: Sequence[str] = (),
    code: bool = False,
    compared: bool = True,
    train: str = "folder:animals",
    duplicates: int = 0,
) -> tuple[ProbeResult, Predictions]:
    """A result of two probes whose linear ones have these accuracies; k-NN is right half as often."""
    labels = torch.arange(n) % len(classes)
    accuracies = {
        (subject, probe): share if probe == "linear" else share / 2
        for subject, share in right.items()
        for probe in ("linear", "knn")
    }
    answers = {key: answers_of(labels, share, len(classes)) for key, share in accuracies.items()}

    def probed(subject: str, probe: str) -> Probed:
        test = score(answers[subject, probe], labels, len(classes))
        others = [other for other in right if other != "encoder"] if subject == "encoder" and compared else []
        setting: dict[str, int | float] = {"l2": 0.01} if probe == "linear" else {"k": 20}
        return Probed(
            choice=ProbeChoice(
                val_accuracy=accuracies[subject, probe],
                how="5-fold cross-validation",
                layer="0+1+2",
                pooling="avg",
                features=8,
                setting=setting,
                at_end_of_grid=probe == "knn",
                spaces=(space("0", 0.3), space("0+1+2", 0.4)),
            ),
            n_train=600,
            n_val=600,
            test=test,
            seconds=1.5,
            compared={other: compare(answers[subject, probe], answers[other, probe], labels) for other in others},
            damaged=dict.fromkeys(damage, test) if (subject, probe) == ("encoder", "linear") else {},
        )

    subjects = {
        subject: SubjectResult(
            view="gray" if gray and subject != "pixels" else "rgb",
            probes={probe: probed(subject, probe) for probe in ("linear", "knn")},
        )
        for subject in right
    }
    invariance: dict[str, float | None] = {"shift": 0.91, "flip": -0.2}
    result = ProbeResult(
        task=task,
        classes=tuple(classes),
        needs_color=needs_color,
        data=DataFacts(train=train, test=f"{train}-test", image_size=16, duplicates=duplicates),
        protocol="frozen encoder; tested once",
        encoder=EncoderFacts(
            path=f"runs/{pretext}/encoder",
            name="small_cnn",
            view="gray" if gray else "rgb",
            pretext=pretext,
            sha256=sha256,
        ),
        subjects=subjects,
        code=CodeProperties(size=64, nonzeros=12.0, bytes=96.0, invariance=invariance) if code else None,
    )
    said = {f"{subject}.{probe}": found for (subject, probe), found in answers.items()}
    paths = tuple(f"animals/{row}.png" for row in range(n))
    sure = {name: torch.linspace(0.4, 0.9, n) for name in said}
    return result, Predictions(task, tuple(classes), torch.arange(n), paths, labels, said, sure)


def write_probe(
    folder: Path, *found: tuple[ProbeResult, Predictions], notes: Sequence[str] = (), config: str = "", version: int = 2
) -> Path:
    """A finished run of ``retouch probe``."""
    start(folder, "probe", config or "seed: 3\ndata: {train: animals, image_size: 16}\n")
    report = ProbeReport(results=tuple(result for result, _ in found), notes=tuple(notes))
    write_results(folder, report)
    if version == 1:
        tree = json.loads((folder / "results.json").read_text())
        write_json(folder / "results.json", tree | {"schema_version": 1})
    write_predictions(folder, [predictions for _, predictions in found])
    return folder


def write_pretraining(
    folder: Path,
    *,
    method: str = "denoise",
    sha256: str = "a" * 64,
    log: str = "",
    panel: Image.Image | None = None,
    notes: Sequence[str] = (),
    wrong: str = "",
    kind: Kind = "copying",
    error: float | None = None,
    held_out: bool = True,
) -> Path:
    """A finished run of ``retouch pretrain``; ``wrong``, of this kind, is what its ruler found.

    Args:
        error: of images that are restored from their codes.
    """
    start(folder, "pretrain", "seed: 7\nbatch_size: 64\nresume: true\ndata: {source: my/pictures, image_size: 16}\n")
    results = PretrainResults(
        method=method,
        steps=300,
        seconds=43.21,
        encoder_sha256=sha256,
        code=CodeStorage(code_size=64, nonzeros=32.5, bytes_dense=256, bytes_sparse=260.0),
        relative_reconstruction_error=error,
        notes=tuple(notes),
        ruler=MEASURED.model_copy(
            update={"verdicts": (Verdict(kind=kind, text=wrong),) if wrong else (), "held_out": held_out}
        ),
    )
    write_json(folder / "results.json", results.model_dump(mode="json"))
    (folder / "train.log").write_text(log or LOG, encoding="utf-8")
    lines = [
        {
            "step": step,
            "loss": 1 / step,
            "lr": 0.01 * (1 - step / 300),
            "images_per_second": 100 + step,
            "memory_gb": 1.5,
        }
        for step in (50, 100, 200, 300)
    ]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines) + '{"step": 3')
    if panel is not None:
        (folder / "panels").mkdir()
        panel.save(folder / "panels" / "step-0000300.png")
    return folder


HEALTH = Health(features=8, effective_rank=4.0, dead=0.0, constant=0.0, similarity=0.5)
MEASURED = Measured(
    step=300,
    images=24,
    held_out=True,
    psnr=27.1,
    restorers={"nothing": 20.0, "non-local means": 25.9},
    training_loss=0.01,
    held_out_loss=0.012,
    health=HEALTH,
    untrained=HEALTH,
    verdicts=(),
)
LOG = """\
2026-01-31 12:00:00 INFO    1,200 unlabeled images and 24 held out from my/pictures; encoder small_cnn: 0.29M parameters
2026-01-31 12:00:00 DEBUG   versions: Python 3.12.1, torch 2.11.0
2026-01-31 12:00:01 WARNING 2 of 1,202 images cannot be read and are left out: a.png (cut off)
"""


def write_finetuning(
    folder: Path, tuned: float = 0.9, scratch: float | None = 0.6, start_from: str = "runs/denoise"
) -> Path:
    """A finished run of ``retouch finetune``."""
    start(folder, "finetune", "seed: 1\nbatch_size: 32\ndata: {train: animals}\n")
    labels = torch.arange(300) % 3
    answers = {"tuned": answers_of(labels, tuned, 3)}
    if scratch is not None:
        answers["from_scratch"] = answers_of(labels, scratch, 3)

    def outcome(name: str, *others: str) -> Tuned:
        return Tuned(
            choice=StepChoice(val_accuracy=0.8, how="held-out 10%", step=90, of_steps=100),
            n_train=540,
            n_val=60,
            test=score(answers[name], labels, 3),
            seconds=12.0,
            compared={other: compare(answers[name], answers[other], labels) for other in others if other in answers},
        )

    result = FinetuneResult(
        task="animal",
        classes=CLASSES,
        data=DataFacts(train="folder:animals", test="folder:animals-test", image_size=16, duplicates=0),
        protocol="whole encoder trained; tested once",
        start=start_from,
        encoder_sha256="f" * 64,
        tuned=outcome("tuned", "from_scratch"),
        from_scratch=None if scratch is None else outcome("from_scratch"),
    )
    write_results(folder, result)
    paths = tuple(f"animals/{row}.png" for row in range(300))
    write_predictions(folder, [Predictions("animal", CLASSES, torch.arange(300), paths, labels, answers)])
    return folder


def start(folder: Path, stage: str, config: str) -> None:
    """A run that has started."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(f"# retouch {stage}\n{config}", encoding="utf-8")


def facts_of(*found: tuple[ProbeResult, Predictions], notes: Sequence[str] = (), left_out: Sequence[str] = ()) -> Facts:
    """A report on one probe run per result."""
    runs = []
    for number, (result, predictions) in enumerate(found):
        origin = Origin(Path("runs") / f"probe-{number}", f"probe-{number}", "probe", Settings(), (), Log())
        report = ProbeReport(results=(result,), notes=tuple(notes))
        runs.append(Probing(origin, report, (predictions,)))
    return Facts(probes=tuple(runs), left_out=tuple(left_out))


def clusters(n: int = 90, classes: int = 3, noise: float = 0.1) -> Embedding:
    """Rows in random order; those of one class (``row % classes``) are close together."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randperm(n, generator=generator)
    centers = 3 * torch.eye(max(classes, 8))[:, :8]
    return Embedding((centers[rows % classes] + noise * torch.randn(n, 8, generator=generator)).half(), rows)
