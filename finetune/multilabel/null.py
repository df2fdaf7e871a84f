"""The null check of several labels per image: with the label rows of training images exchanged, nothing is learned."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from common.data import MultiLabels
from common.data.rows import even_rows
from common.errors import UserError
from finetune.checks import FREEDOM, NULL_IMAGES, NULL_TESTS, null_of_repetitions
from finetune.features import Features
from finetune.multilabel.task import build_multilabel_task
from finetune.pooling import Space
from finetune.probes import Candidates, Probe, Search
from finetune.ranking import mean_average_precision
from finetune.records import NullCheck


def check_null_labels(
    probe: Probe,
    search: Search,
    seed: int,
    candidates: Candidates,
    space: Space,
    train: MultiLabels,
    test: Features,
    truth: Tensor,
) -> NullCheck | None:
    """Choose, fit and test the probe with label rows exchanged among training images; ``None`` if too few have a label.

    Whole rows are exchanged, so that labels occur together as often as before. An order is then as likely as its
    reverse, and chance is the mean of both. It is each label's share of the test images, and more where images of a
    label look alike: then orders are good or bad as a whole, and average precision gains more from a good one than it
    loses from a bad one.

    Args:
        space: the features that the probe itself chose; its strength is chosen again.
        train: labels of the training images.
        truth: bool ``[n L]``, the labels of ``test``.
    """
    some = even_rows(len(test), NULL_TESTS)
    test, truth = test.only(some), truth[some]
    images = min(NULL_IMAGES, len(train.values))
    found, chance, unconverged = [], [], 0
    for number in range(FREEDOM):
        random = np.random.default_rng([seed, number])
        rows = torch.from_numpy(np.sort(random.permutation(len(train.values))[:images]))
        labels = train._replace(values=train.values[rows][torch.from_numpy(random.permutation(images))])
        drawn = candidates.of(rows, [space])
        try:
            task = build_multilabel_task(labels, search, seed)
        except UserError:  # too few of the drawn images have a label
            return None
        fitted, failed = probe.choose_and_fit(drawn, task)
        unconverged += failed
        scores = fitted.predict(test)
        reached, reverse = mean_average_precision(torch.stack([scores, -scores]), truth).tolist()
        found.append(reached)
        chance.append((reached + reverse) / 2)
    return null_of_repetitions(found, chance, images).model_copy(update={"unconverged": unconverged})
