"""The judge: closed-form ridge regression on frozen features, cross-validated on labeled training images.

The same rule for all contestants: the same rows, the same regularization strengths, all layers of an encoder at once.
Nothing is chosen on test images.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from common.data import Images, Labels
from common.encoders import Encoder
from common.errors import UserError
from finetune.checks import before_and_after, check_null, state_digests, why_no_null
from finetune.config import DAMAGES, LabelEfficiencyConfig
from finetune.efficiency import Right, draw_rows, label_efficiency, right_answers
from finetune.embedding import Embedding, embedded
from finetune.features import Extraction, Features, extract
from finetune.kinds.classes import run_probe, under_damage
from finetune.metrics import score
from finetune.pooling import Space, build_spaces
from finetune.probes import Candidates, Fitted, Linear, Search, build_task
from finetune.probes.search import FEW_IMAGES
from finetune.records import Checks
from finetune.results import Probed
from finetune.worth import LabelEfficiency
from retouch.studies.contestants import Contestant
from retouch.studies.fits import JudgeCost, ProbeKind
from retouch.studies.images import LabelSet, chosen_rows, titled_tasks
from retouch.studies.journal import ProbedOnce
from retouch.studies.results import UnderDamage

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
RIDGE = Linear(kind="ridge", l2=STRENGTHS)
PROBES: dict[ProbeKind, Linear] = {  # on all labeled images; ridge regression is for sets that are large
    "logistic": Linear(),  # the usual linear probe
    "ridge": Linear(kind="ridge", l2=(1e-3, 3e-3, 1e-2, 3e-2, 1e-1)),
}
SEARCH = Search(search_images=None)
WIDEST = 8192  # features: if there would be more, the next pooling is tried


def probe_of(kind: ProbeKind, images: int) -> Linear:
    """The linear probe of the winner, fitted on so many images: few need the stronger penalties of the judge."""
    return RIDGE if kind == "ridge" and images < FEW_IMAGES else PROBES[kind]


class Judged(NamedTuple):
    """Validation accuracy by task, and its cost."""

    accuracy: dict[str, float]
    cost: JudgeCost


class Tested(NamedTuple):
    """A classifier on the test images of one task."""

    outcome: Probed
    predictions: Tensor  # int64 [n]
    fitted: Fitted


class Probing(NamedTuple):
    """The winner on the test images."""

    tested: dict[str, Tested]  # by task, in the same way as all contestants
    probed: dict[str, ProbedOnce]  # by task, with a linear probe on all labeled images; empty without one
    embeddings: list[Embedding]  # one per label set
    places: list[int]  # of each task's embedding in this list
    damage: dict[str, UnderDamage]  # by task, in the same way as all contestants; empty if not asked for


def space_of(encoder: Encoder, poolings: Sequence[str]) -> Space:
    """All layers with the first pooling that is narrow enough, or else with the last one."""
    for pooling in poolings:
        try:
            return build_spaces(encoder.layer_shapes, ["all"], [pooling], WIDEST)[0][0]
        except UserError:
            continue
    return build_spaces(encoder.layer_shapes, ["all"], [poolings[-1]], 1 << 30)[0][0]


class Judge:
    """Judges encoders on the labeled images of a study."""

    def __init__(self, sets: Sequence[LabelSet], how: Extraction, seed: int) -> None:
        self.sets, self.how, self.seed = tuple(sets), how, seed

    def validate(self, one: Contestant) -> Judged:
        """Cross-validated accuracy on the judged rows."""
        encoder = one.encoder()
        space = space_of(encoder, one.poolings)
        accuracy: dict[str, float] = {}
        extraction, started = 0.0, time.perf_counter()
        for part, tasks in titled_tasks(self.sets):
            images = part.images.train.only(part.judged)
            begun = time.perf_counter()
            features = self._features(encoder, space, images)
            extraction += time.perf_counter() - begun
            for title, name in tasks.items():
                task = build_task(_labels(images, name, features), SEARCH, self.seed)
                candidates = Candidates(features, [space], self.how.device)
                accuracy[title] = RIDGE.choose(candidates, task).val_accuracy
        fitting = time.perf_counter() - started - extraction
        return Judged(accuracy, JudgeCost(width=space.width, extraction=extraction, fitting=fitting))

    def test(self, one: Contestant) -> dict[str, Tested]:
        """Choose a strength and fit on the fitted rows, then predict the test images once; by task."""
        found = {}
        for part, tasks, candidates, test in self._fitted(one):
            images, train = part.images.train.only(part.fitted), candidates.features
            for title, name in tasks.items():
                found[title] = self._tested(RIDGE, candidates, _labels(images, name, train), test, part, name)
        return found

    def probe(self, one: Contestant, kind: ProbeKind | None, damaged: int = 0) -> Probing:
        """The test, a checked linear probe on all labeled training images, embeddings, and the test on damaged images.

        The first three use the same features, which take most of the time.

        Args:
            kind: of the linear probe; None: without one.
            damaged: test images of each set that are tested again when they are damaged; 0: none.
        """
        encoder = one.encoder()
        before = state_digests([encoder])
        space = space_of(encoder, one.poolings)
        found = Probing({}, {}, [], [], {})
        for part, tasks in titled_tasks(self.sets):
            images = part.images.train if kind else part.images.train.only(part.fitted)
            train, test = self._features(encoder, space, images), self._features(encoder, space, part.images.test)
            fitted = train.only(torch.isin(train.index, part.fitted).nonzero().squeeze(1)) if kind else train
            some, every = (Candidates(rows, [space], self.how.device) for rows in (fitted, train))
            found.embeddings.append(embedded(test, part.images.test, [space]))
            for title, name in tasks.items():
                found.places.append(len(found.embeddings) - 1)
                found.tested[title] = self._tested(RIDGE, some, _labels(images, name, fitted), test, part, name)
                if kind is None:
                    continue
                labels, true = _labels(images, name, train), part.images.tasks[name][1].values[test.index]
                linear = probe_of(kind, len(train))
                outcome = self._tested(linear, every, labels, test, part, name).outcome
                null = check_null(linear, SEARCH, self.seed, every, space, labels, test, true)
                after = state_digests([encoder])
                digests = before_and_after(["encoder"], before, after)
                checks = Checks(
                    frozen=after == before, null=null, missing=why_no_null(null, asked=True), sha256=digests
                )
                found.probed[title] = ProbedOnce(outcome=outcome, checks=checks)
            if damaged:
                found.damage.update(self._under_damage(encoder, part, tasks, found.tested, damaged))
        return found

    def _under_damage(
        self, encoder: Encoder, part: LabelSet, tasks: dict[str, str], tested: dict[str, Tested], count: int
    ) -> dict[str, UnderDamage]:
        """The tested classifiers on some test images, as they are and damaged."""
        rows = chosen_rows(next(iter(part.images.tasks.values()))[1], count, self.seed)
        some = part.images.only(test=rows)
        labels = {title: some.tasks[name][1] for title, name in tasks.items()}
        fitted = {title: tested[title].fitted for title in tasks}
        found = under_damage(encoder, some.test, fitted, labels, DAMAGES, self.how, self.seed)
        return {
            title: UnderDamage(
                clean=score(tested[title].predictions[rows], labels[title].values, len(labels[title].names)),
                damaged=scores,
            )
            for title, scores in found.items()
        }

    def worth(self, one: Contestant, other: Contestant, draws: LabelEfficiencyConfig) -> dict[str, LabelEfficiency]:
        """How many labels one contestant saves compared with another, by task.

        Both are fitted again on draws of the fitted rows. In the result, ``one`` is called ``encoder``, and ``other``
        ``random_init``.
        """
        rights = [self._right(contestant, draws) for contestant in (one, other)]
        return {
            title: label_efficiency({"encoder": rights[0][title], "random_init": rights[1][title]}, self.seed)
            for title in rights[0]
        }

    def _fitted(self, one: Contestant) -> Iterator[tuple[LabelSet, dict[str, str], Candidates, Features]]:
        """Each label set with its tasks by title, the features of the fitted rows, and those of the test images."""
        encoder = one.encoder()
        space = space_of(encoder, one.poolings)
        for part, tasks in titled_tasks(self.sets):
            train = self._features(encoder, space, part.images.train.only(part.fitted))
            test = self._features(encoder, space, part.images.test)
            yield part, tasks, Candidates(train, [space], self.how.device), test

    def _right(self, one: Contestant, how: LabelEfficiencyConfig) -> dict[str, Right]:
        """Which test images are classified correctly, by task, from few labels to all of the fitted rows."""
        found = {}
        for part, tasks, candidates, test in self._fitted(one):
            images, train = part.images.train.only(part.fitted), candidates.features
            for title, name in tasks.items():
                labels, true = _labels(images, name, train), part.images.tasks[name][1].values[test.index]
                draws = draw_rows(labels, how, self.seed) | {len(train): [torch.arange(len(train))]}
                found[title] = right_answers(RIDGE, SEARCH, candidates, labels, test, true, draws, self.seed)
        return found

    def _tested(
        self, probe: Linear, candidates: Candidates, labels: Labels, test: Features, part: LabelSet, task: str
    ) -> Tested:
        ran = run_probe(probe, candidates, build_task(labels, SEARCH, self.seed), test, part.images.tasks[task][1])
        return Tested(ran.outcome, ran.answers.classes, ran.fitted)

    def _features(self, encoder: Encoder, space: Space, images: Images) -> Features:
        return extract(encoder, images, list(space.parts), self.how)


def _labels(images: Images, task: str, features: Features) -> Labels:
    """Labels of the rows that have features."""
    labels = images.labels(task)
    return labels._replace(values=labels.values[features.index])
