"""What probes report, as torchmetrics computes it."""

from __future__ import annotations

import pytest
import torch
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_jaccard_index,
    multilabel_average_precision,
    multilabel_f1_score,
)

from finetune.dense.cells import intersection_over_union, mean_iou, overlaps
from finetune.metrics import score
from finetune.ranking import average_precision, f1, mean_average_precision

CLASSES = 7


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_scores_of_one_label_per_image() -> None:
    labels = torch.cat([torch.arange(CLASSES), torch.randint(0, CLASSES, (400,))])
    answers = torch.where(torch.rand(len(labels)) < 0.6, labels, torch.randint(0, CLASSES, (len(labels),)))
    found = score(answers, labels, CLASSES)
    assert found.accuracy == pytest.approx(float(multiclass_accuracy(answers, labels, CLASSES, average="micro")))
    assert found.balanced_accuracy == pytest.approx(
        float(multiclass_accuracy(answers, labels, CLASSES, average="macro"))
    )
    assert found.macro_f1 == pytest.approx(float(multiclass_f1_score(answers, labels, CLASSES, average="macro")))
    each = multiclass_accuracy(answers, labels, CLASSES, average="none").tolist()
    assert list(found.per_class) == pytest.approx(each)
    assert [list(row) for row in found.confusion] == multiclass_confusion_matrix(answers, labels, CLASSES).tolist()


def test_scores_of_several_labels_per_image() -> None:
    labels = torch.rand(300, 5) < torch.tensor([0.05, 0.1, 0.3, 0.5, 0.9])
    scores = labels.float() + torch.randn(300, 5)
    probabilities = scores.sigmoid()  # torchmetrics asks for these, and their order is the same
    each = multilabel_average_precision(probabilities, labels.long(), 5, average="none")
    torch.testing.assert_close(average_precision(scores, labels).float(), each)
    assert float(mean_average_precision(scores, labels)) == pytest.approx(float(each.mean()), abs=1e-6)
    for place, average in enumerate(("micro", "macro")):
        expected = float(multilabel_f1_score(probabilities, labels.long(), 5, average=average))
        assert f1(scores, labels)[place] == pytest.approx(expected)


def test_scores_of_masks() -> None:
    truth = torch.randint(-1, 4, (6, 16, 16))  # -1 does not count
    answers = torch.where(torch.rand(6, 16, 16) < 0.5, truth.clamp_min(0), torch.randint(0, 4, (6, 16, 16)))
    counts = overlaps(answers, truth, 4).sum(0)
    each = multiclass_jaccard_index(answers, truth, 4, average="none", ignore_index=-1)
    torch.testing.assert_close(intersection_over_union(counts).float(), each)
    assert float(mean_iou(counts)) == pytest.approx(float(each.mean()), abs=1e-6)
