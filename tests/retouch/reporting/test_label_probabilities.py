"""How far the probabilities of several labels per image can be trusted, as the page shows it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from common.data import MultiLabels
from finetune.multilabel.scores import LabelScores, write_scores
from finetune.records import Calibration
from retouch.reporting.page import html
from retouch.reporting.reading import read_facts
from tests.retouch.reporting.several import NAMES, label_result, report_on


def planted(folder: Path, temperature: float) -> None:
    """Scores of 100 images for three labels, which divided by the temperature are called 85, 25 and 5% probable."""
    values = torch.arange(100)[:, None] < torch.tensor([60, 25, 5])
    scores = (temperature * torch.tensor([0.85, 0.25, 0.05]).logit()).repeat(100, 1)
    images: Any = SimpleNamespace(kept=torch.arange(100), where=lambda row: f"{row}.png")
    labels = MultiLabels(values, NAMES, "tags")
    write_scores(folder, [LabelScores(images, torch.arange(100), labels, {"encoder": scores, "pixels": -scores})])


def test_the_page_says_how_far_the_probabilities_of_labels_can_be_trusted(tmp_path: Path) -> None:
    """On each task, those of the encoder with the best choice; nothing where they are not known."""
    sure = Calibration(temperature=2.0, fitted_on=500, error_before=0.2, error_after=0.1)
    results = [label_result().model_copy(update={"calibration": sure}), label_result(pretext="mask")]
    facts = report_on(tmp_path, *results)
    assert "The probabilities that the same probes give to labels" not in html(facts)
    planted(tmp_path / "probe-0", 2.0)
    page = html(read_facts([tmp_path]))
    for said in (
        "tags: linear probe of denoise: mean probability 38.3%, present in 30.0%; mean distance from the line 8.3 "
        "points (2.7 by chance alone; before calibration 18.9)",
        "100 cases: mean probability 85.0%, present in 60.0%",
        "100 cases: mean probability 25.0%, present in 25.0%",
        "100 cases: mean probability 5.0%, present in 5.0%",
    ):
        assert said in page
    assert page.count("mean distance from the line 8.3") == 1
    # of the better of two: without a temperature, its probabilities are not calibrated
    best = results[1].subjects["encoder"]
    better = best.model_copy(update={"choice": best.choice.model_copy(update={"val_accuracy": 0.8})})
    other = tmp_path / "other"
    report_on(other, results[0], results[1].model_copy(update={"subjects": {"encoder": better}}))
    for run in ("probe-0", "probe-1"):
        planted(other / run, 2.0)
    assert "The probabilities that the same probes give to labels" not in html(read_facts([other]))
