"""Results of several labels per image and of masks, made by hand, and the facts of a report on them."""

from __future__ import annotations

from pathlib import Path

import torch

from finetune.dense.cells import overlaps
from finetune.dense.scores import bootstrap, compare_masks, score_masks
from finetune.ranking import compare_labels, halves, score_labels
from finetune.records import Checks, DataFacts, EncoderFacts, ProbeChoice
from finetune.results import ProbeReport, write_results
from finetune.structured_results import DenseProbed, DenseResult, LabelProbed, LabelResult
from retouch.reporting.facts import Facts
from retouch.reporting.reading import read_facts
from tests.retouch.reporting.runs import start

NAMES = ("sea", "sky", "<img src=x>")  # of labels and classes; the last is rare
BASELINES = ("random_init", "pixels")
SUBJECTS = ("encoder", *BASELINES)


def label_result(
    gap: float = 2.0, pretext: str = "denoise", train: str = "folder:a", unseen: bool = False
) -> LabelResult:
    """An encoder whose scores of 200 images are better than those of its baselines by a gap.

    Args:
        unseen: no image has the last label, or shows the last class.
    """
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(200, 3, generator=generator) < torch.tensor([0.5, 0.3, 0.1])
    if unseen:
        truth[:, 2] = False
    noise = torch.randn(3, 200, 3, generator=generator)
    signal = torch.tensor([0.5 + gap, 0.5, 0.4])
    scores = dict(zip(SUBJECTS, noise + signal[:, None, None] * truth, strict=True))
    drawn = {name: halves(one, truth) for name, one in scores.items()}
    tests = {name: score_labels(one, truth, drawn[name]) for name, one in scores.items()}
    compared = {
        name: compare_labels(tests["encoder"], tests[name], drawn["encoder"], drawn[name]) for name in BASELINES
    }
    choice = ProbeChoice(
        val_accuracy=0.7, how="5-fold cross-validation", layer="0+1", pooling="avg", features=8, setting={"l2": 0.01},
        at_end_of_grid=False,
    )  # fmt: skip
    return LabelResult(
        task="tags",
        labels=NAMES,
        data=DataFacts(train=train, test=f"{train} (test)", image_size=16, duplicates=0),
        protocol="frozen encoder; each label by itself",
        encoder=encoder(pretext),
        subjects={
            name: LabelProbed(
                view="rgb", choice=choice, n_train=500, n_val=500, test=test, seconds=1.0,
                compared=compared if name == "encoder" else {},
            )
            for name, test in tests.items()
        },
        checks=Checks(frozen=True, null=None),
    )  # fmt: skip


def mask_result(
    right: float = 0.9, pretext: str = "denoise", train: str = "folder:a", unseen: bool = False
) -> DenseResult:
    """An encoder that is right on a share of the pixels of 60 images; its baselines on half of them."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, 2 if unseen else 3, (60, 8, 8), generator=generator)
    truth[:58][truth[:58] == 2] = 0  # two images show the last class
    chance = torch.rand(60, 8, 8, generator=generator)
    shares = {"encoder": right, "random_init": 0.5, "pixels": 0.5}
    answers = {name: torch.where(chance < share, truth, (truth + 1) % 3) for name, share in shares.items()}
    counts = {name: overlaps(one, truth, 3) for name, one in answers.items()}
    drawn = {name: bootstrap(one) for name, one in counts.items()}
    compared = {
        name: compare_masks(counts["encoder"], counts[name], drawn["encoder"], drawn[name]) for name in BASELINES
    }
    choice = ProbeChoice(
        val_accuracy=0.7, how="5-fold cross-validation", layer="2", pooling="8x8 cells", features=64,
        setting={"l2": 0.01, "prior": 0.5}, at_end_of_grid=False,
    )  # fmt: skip
    return DenseResult(
        task="masks",
        classes=NAMES,
        data=DataFacts(train=train, test=f"{train} (test)", image_size=8, duplicates=0),
        protocol="frozen encoder; each cell by itself",
        encoder=encoder(pretext),
        subjects={
            name: DenseProbed(
                view="rgb", choice=choice, n_train=500, n_val=500, test=score_masks(counts[name], drawn[name]),
                seconds=1.0, compared=compared if name == "encoder" else {},
            )
            for name in counts
        },
        checks=Checks(frozen=True, null=None),
    )  # fmt: skip


def encoder(pretext: str) -> EncoderFacts:
    """An encoder of its own for each pretext."""
    return EncoderFacts(path=f"runs/{pretext}", name="cnn", view="rgb", pretext=pretext, sha256=pretext[0] * 64)


def report_on(folder: Path, *results: LabelResult | DenseResult) -> Facts:
    """A report on one probe run per result, next to what else is in the folder."""
    for number, result in enumerate(results):
        start(folder / f"probe-{number}", "probe", "seed: 3\ndata: {train: a}\n")
        labels = (result,) if isinstance(result, LabelResult) else ()
        masks = (result,) if isinstance(result, DenseResult) else ()
        write_results(folder / f"probe-{number}", ProbeReport(results=(), multilabel=labels, dense=masks))
    return read_facts([folder])
