"""The facts of a report, over all its runs (runs.py has those of one). Names and paths are UTF-8."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeVar

from common.runs.made import Made
from finetune.embedding import Embedding
from finetune.lines import task_names
from finetune.multilabel.scores import ReadScores
from finetune.predictions import Predictions
from finetune.records import DataFacts, EncoderFacts
from finetune.results import FinetuneResult, ProbeResult
from finetune.structured_results import DenseResult, LabelResult, Several
from retouch.reporting.runs import (
    DICTIONARY,
    FineTuning,
    Group,
    Origin,
    Pretraining,
    Probing,
    Studied,
    Winner,
    method_name,
)

RANDOM_ATOMS = "random atoms"


@dataclass(frozen=True)
class Entry:
    """One encoder on one task."""

    encoder: str  # a name that is unique among encoders
    task: str  # a name that is unique among tasks
    result: ProbeResult
    origin: Origin
    predictions: Predictions | None
    embedding: Embedding | None = None

    @property
    def blind(self) -> bool:
        """Whether the encoder could not see what the task is about."""
        return self.result.needs_color and self.result.encoder.view == "gray"


Probed = ProbeResult | Several


R = TypeVar("R", bound=Several, covariant=True)


@dataclass(frozen=True)
class SeveralEntry(Generic[R]):
    """One encoder on one task with several labels per image, or with masks."""

    encoder: str  # its name; if it was probed several times on the task, with the run
    task: str
    result: R
    origin: Origin
    scores: ReadScores | None = None  # of labels, for the test images


@dataclass(frozen=True)
class Facts:
    """All facts of a report."""

    pretraining: tuple[Pretraining, ...] = ()
    probes: tuple[Probing, ...] = ()
    finetuning: tuple[FineTuning, ...] = ()
    studies: tuple[Studied, ...] = ()
    groups: tuple[Group, ...] = ()
    left_out: tuple[str, ...] = ()  # what a folder of runs holds that is not reported, and why

    @property
    def winners(self) -> tuple[Winner, ...]:
        """The winner of each study on each task."""
        return tuple(winner for run in self.studies for winner in run.winners)

    @property
    def origins(self) -> tuple[Origin, ...]:
        """The origin of every run, in the order of the pipeline."""
        kinds = (self.studies, self.pretraining, self.probes, self.finetuning)
        return tuple(run.origin for runs in kinds for run in runs)

    @property
    def made(self) -> tuple[Made, ...]:
        """What the runs were made with, as far as it is known."""
        found = [run.report.made for run in self.studies]
        found += [run.results.made for run in self.pretraining]
        found += [run.report.made for run in self.probes]
        found += [run.result.made for run in self.finetuning]
        return tuple(one for one in found if one is not None)

    @cached_property
    def entries(self) -> tuple[Entry, ...]:
        """Every encoder on every task that it was probed on."""
        found = [(run, number) for run in self.probes for number in range(len(run.report.results))]
        results = [run.report.results[number] for run, number in found]
        tasks = task_names(results)
        named = [(run.origin, run.report.results[number]) for run, number in found]
        names = _with_run(self._titles(results), named, tasks)
        return tuple(
            Entry(
                encoder=name,
                task=task,
                result=result,
                origin=run.origin,
                predictions=run.predictions[number] if run.predictions else None,
                embedding=run.embeddings[number] if run.embeddings else None,
            )
            for (run, number), name, result, task in zip(found, names, results, tasks, strict=True)
        )

    @cached_property
    def label_entries(self) -> tuple[SeveralEntry[LabelResult], ...]:
        """Every encoder on every task with several labels per image."""
        found = self._several([(run.origin, result) for run in self.probes for result in run.report.multilabel])
        scores = [
            run.label_scores[number] if run.label_scores else None
            for run in self.probes
            for number in range(len(run.report.multilabel))
        ]
        return tuple(replace(entry, scores=one) for entry, one in zip(found, scores, strict=True))

    @cached_property
    def dense_entries(self) -> tuple[SeveralEntry[DenseResult], ...]:
        """Every encoder on every task with masks."""
        return self._several([(run.origin, result) for run in self.probes for result in run.report.dense])

    @property
    def several(self) -> tuple[SeveralEntry[Several], ...]:
        """Tasks with several labels per image, and with masks."""
        return (*self.label_entries, *self.dense_entries)

    @property
    def probed(self) -> tuple[Entry | SeveralEntry[Several], ...]:
        """Every encoder on every task, of all kinds."""
        return (*self.entries, *self.several)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes and labels of all results."""
        studied = [names for run in self.studies for names in run.report.classes.values()]
        one, several = (result.classes for result in self._results), (result.names for result in self._several_results)
        return tuple(dict.fromkeys(name for names in (*studied, *one, *several) for name in names))

    @property
    def sources(self) -> tuple[str, ...]:
        """The images of all runs, as named in their settings."""
        return (*self.unlabeled_sources, *(text for data in self._labeled for text in (data.train, data.test)))

    @property
    def unlabeled_sources(self) -> tuple[str, ...]:
        """The images of pretraining."""
        return tuple(run.origin.settings.data.source or "" for run in self.pretraining)

    @property
    def labeled_sources(self) -> tuple[str, ...]:
        """The labeled images that classifiers learned from."""
        return tuple(data.train for data in self._labeled)

    @property
    def measured_sources(self) -> tuple[str, ...]:
        """Those of probes and fine-tuning."""
        return tuple(data.train for data in self._measured)

    @property
    def _labeled(self) -> list[DataFacts]:
        return [*(data for run in self.studies for data in run.report.data.values()), *self._measured]

    @property
    def _measured(self) -> list[DataFacts]:
        one, several = (result.data for result in self._results), (result.data for result in self._several_results)
        return [*one, *several]

    @property
    def _results(self) -> list[ProbeResult | FinetuneResult]:
        tuned = [run.result for run in self.finetuning]
        return [*(result for run in self.probes for result in run.report.results), *tuned]

    @property
    def _several_results(self) -> list[Several]:
        reports = [run.report for run in self.probes]
        return [result for report in reports for result in (*report.multilabel, *report.dense)]

    def _several(self, found: Sequence[tuple[Origin, R]]) -> tuple[SeveralEntry[R], ...]:
        tasks = task_names([result for _, result in found])
        names = _with_run(self._encoder_names, found, tasks)
        return tuple(
            SeveralEntry(name, task, result, origin)
            for name, task, (origin, result) in zip(names, tasks, found, strict=True)
        )

    @property
    def encoders(self) -> tuple[str, ...]:
        """Names of the encoders that were probed; one that was probed twice appears once."""
        return tuple(self._encoder_names.values())

    @cached_property
    def _encoder_names(self) -> dict[str, str]:
        """By sha256; those that were probed on images with one label each come first."""
        classes = [result for run in self.probes for result in run.report.results]
        return self._titles([*classes, *self._several_results])

    def title_of(self, encoder: EncoderFacts) -> str:
        """Its short name, which others may have too."""
        return method_name(encoder.title)

    @cached_property
    def dictionaries(self) -> frozenset[str]:
        """The sha256 of the probed encoders that are dictionaries of patches: their twins have random atoms."""
        return frozenset(one.result.encoder.sha256 for one in self.probed if one.result.encoder.name == DICTIONARY)

    @property
    def only_dictionaries(self) -> bool:
        """Whether all probed encoders are."""
        return bool(self.probed) and {one.result.encoder.sha256 for one in self.probed} == self.dictionaries

    @property
    def untrained(self) -> str:
        """What encoders are compared with: the network before its training, or a dictionary whose atoms are noise."""
        return RANDOM_ATOMS if self.only_dictionaries else "the untrained network"

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(entry.task for entry in self.entries))

    def about(self, task: str) -> str:
        """What a sentence about a task begins with: ``animal: ``, or nothing if there is only one task."""
        named = {one.task for one in (*self.probed, *self.winners)} | {run.result.task for run in self.finetuning}
        return f"{task}: " if len(named) > 1 else ""

    def about_winner(self, one: Winner) -> str:
        """What a sentence about the winner of a study begins with: the study's name if there are several, the task."""
        return f"{one.origin.name}: {self.about(one.task)}" if len(self.studies) > 1 else self.about(one.task)

    def group_of(self, origin: Origin) -> Group | None:
        """The group that a run belongs to."""
        return next((group for group in self.groups if group.folder == origin.folder.parent), None)

    def of_task(self, task: str) -> tuple[Entry, ...]:
        """Every encoder on this task."""
        return tuple(entry for entry in self.entries if entry.task == task)

    def _titles(self, results: Sequence[Probed]) -> dict[str, str]:
        """A name for each encoder, by its sha256: short, or longer if two would have the same name."""
        encoders = {result.encoder.sha256: result.encoder for result in results}
        trained = {run.results.encoder_sha256: run.origin.name for run in self.pretraining}
        ways: list[Callable[[EncoderFacts], str]] = [
            self.title_of,
            lambda encoder: _named(self.title_of(encoder), trained.get(encoder.sha256) or _run_of(encoder.path)),
            lambda encoder: f"{self.title_of(encoder)} ({encoder.sha256[:8]})",
        ]
        for way in ways:
            named = {sha: way(encoder) for sha, encoder in encoders.items()}
            if len(set(named.values())) == len(named):
                break
        return named


def _with_run(titles: Mapping[str, str], found: Sequence[tuple[Origin, Probed]], tasks: Sequence[str]) -> list[str]:
    """The encoder's name for each result; with the name of the run if it was probed several times on the task."""
    keys = [(result.encoder.sha256, task) for (_, result), task in zip(found, tasks, strict=True)]
    times = Counter(keys)
    return [
        f"{titles[key[0]]}, {origin.name}" if times[key] > 1 else titles[key[0]]
        for key, (origin, _) in zip(keys, found, strict=True)
    ]


def _named(title: str, run: str) -> str:
    """The name of the run if it contains the title, as it often does; otherwise both."""
    return run if title in run else f"{title} ({run})"


def _run_of(encoder: str) -> str:
    """The name of the run that contains an encoder."""
    path = Path(encoder)
    return path.parent.name if path.name == "encoder" else path.name
