"""What results do not show, in plain English: pure functions from facts to sentences."""

from __future__ import annotations

from collections import Counter
from statistics import stdev

from common.words import counted, first_upper, headed
from finetune.records import GENERATED as GENERATED_IMAGES
from finetune.records import NONE_LEFT, DataFacts
from finetune.results import Score
from retouch.reporting.answer import trained_once
from retouch.reporting.compare import FROZEN, PIXELS, SCRATCH, UNTRAINED
from retouch.reporting.facts import RANDOM_ATOMS, Facts
from retouch.reporting.falls import falls
from retouch.reporting.names import in_text
from retouch.reporting.sentences import NAMED, chance, distinct, half_width, listed, number, uneven
from retouch.reporting.several import several_limits
from retouch.reporting.trained import crossed
from retouch.reporting.training import wrong

FEW_TO_CHOOSE = 200  # images: an accuracy on fewer is known to within seven points at best
TUNED_OVER = {SCRATCH: "training from scratch", FROZEN: "a linear probe of the frozen encoder"}
GENERATED = {"shapes": "drawn by a program", "photos": "patches of two photographs"}


def limits(facts: Facts) -> list[str]:
    """What these results do not show."""
    return distinct(
        [
            *_few_images(facts),
            *_few_per_class(facts),
            *_imbalance(facts),
            *_no_better_than_guessing(facts),
            *_chosen_on_few(facts),
            *(one.sentence for one in falls(facts) if one.large),
            *_ends_of_neighbors(facts),
            *several_limits(facts),
            *_one_seed(facts),
            *_one_twin(facts),
            *_one_draw(facts),
            *_best_of_many(facts),
            *_no_baseline(facts),
            *_generated(facts),
            *_not_compared(facts),
            *_not_probed(facts),
            *wrong(facts),
            *_memorized(facts),
            *_notes(facts),
            *(f"Left out: {one}." for one in facts.left_out),
        ]
    )


def _tests(facts: Facts) -> list[tuple[str, tuple[str, ...], DataFacts, Score]]:
    """Each task of each data set once: what a sentence begins with, classes, data, and a score on its test images."""
    each = [
        (entry.task, facts.about(entry.task), entry.result.classes, entry.result.data, entry.result.linear.test)
        for entry in facts.entries
    ]
    each += [
        (run.result.task, facts.about(run.result.task), run.result.classes, run.result.data, run.result.tuned.test)
        for run in facts.finetuning
    ]
    each += [(one.task, facts.about_winner(one), one.classes, one.data, one.score) for one in facts.winners]
    found: dict[tuple[str, str], tuple[str, tuple[str, ...], DataFacts, Score]] = {}
    for task, about, classes, data, score in each:
        found.setdefault((task, data.test), (about, classes, data, score))
    return list(found.values())


def _few_images(facts: Facts) -> list[str]:
    sizes = distinct(f"{score.n}" for *_, score in _tests(facts))
    return [
        f"{counted(int(n), 'test image')}: the interval of an accuracy extends up to {number(half_width(int(n)))} "
        "points to either side."
        for n in sizes
    ]


def _few_per_class(facts: Facts) -> list[str]:
    found = []
    for about, classes, _, score in _tests(facts):
        counts = {name: sum(row) for name, row in zip(classes, score.confusion, strict=True) if sum(row)}
        if len(counts) < 2:
            continue
        name, fewest = min(counts.items(), key=lambda item: item[1])
        which = f"of {name}, the smallest class" if fewest < max(counts.values()) else "per class"
        found.append(
            f"{about}{counted(fewest, 'test image')} {which}: the interval of a class's accuracy extends "
            f"up to {number(half_width(fewest))} points to either side."
        )
    return found


def _imbalance(facts: Facts) -> list[str]:
    return [
        headed(
            about,
            f"always answering the most frequent class would be right for {number(chance(score))}% of the images.",
        )
        for about, _, _, score in _tests(facts)
        if uneven(score)
    ]


def _no_better_than_guessing(facts: Facts) -> list[str]:
    answered = [(entry.task, entry.encoder, entry.result.linear.test) for entry in facts.entries]
    answered += [(run.result.task, run.origin.name, run.result.tuned.test) for run in facts.finetuning]
    answered += [(one.task, one.name, one.score) for one in facts.winners]
    return [
        f"{facts.about(task)}{name} is not shown to be better than always answering the most frequent class."
        for task, name, score in answered
        if score.ci95[0] <= chance(score)
    ]


def _chosen_on_few(facts: Facts) -> list[str]:
    images = [(entry.task, entry.result.linear.n_val) for entry in facts.entries]
    images += [(run.result.task, run.result.tuned.n_val) for run in facts.finetuning]
    images += [(one.task, one.counts.judged) for one in facts.winners if one.counts is not None]
    return [
        headed(
            facts.about(task),
            f"choices were made on {counted(count, 'training image')}, where an accuracy is known "
            f"only to within {number(half_width(count))} points: other choices may be as good.",
        )
        for task, count in images
        if count < FEW_TO_CHOOSE
    ]


def _ends_of_neighbors(facts: Facts) -> list[str]:
    """Where k-NN chose the smallest or largest number of neighbors; probes have notes about the ends of other grids."""
    found: dict[tuple[int, ...], list[str]] = {}
    for entry in facts.entries:
        knn, probed = entry.origin.settings.knn, entry.result.subjects["encoder"].probes.get("knn")
        tried = () if knn is None else tuple(sorted(set(knn.k)))
        if len(tried) > 1 and probed is not None and probed.choice.setting.get("k") in (tried[0], tried[-1]):
            found.setdefault(tried, []).append(f"{entry.encoder} on {entry.task}")
    return [
        f"k-NN tried only {listed([f'{k:,}' for k in tried])} neighbors (knn.k), and chose the fewest or the most for "
        f"{listed(who) if len(who) <= NAMED else f'{len(who)} encoders and tasks'}: another number may be better."
        for tried, who in found.items()
    ]


def _one_seed(facts: Facts) -> list[str]:
    networks = Counter((run.result.task, run.result.start) for run in facts.finetuning)
    once = bool(networks) and max(networks.values()) == 1
    studied = any(one.kind == "restoring" for run in facts.studies for one in run.report.contenders)
    return [
        f"Each {what} was trained once. The intervals cover the choice of test images, but not how much another "
        f"{seed} would change the accuracy."
        for what, seed, found in (
            ("encoder", "pretraining seed", trained_once(facts)),
            ("network", "fine-tuning seed", once),
            ("contestant of a study", "seed", studied),
        )
        if found
    ]


def _one_draw(facts: Facts) -> list[str]:
    """The variance over draws of the labeled training images, and its size for fewer labels if that was measured."""
    if not (facts.entries or facts.studies or facts.several or facts.finetuning):
        return []
    spreads = []
    for entry in facts.entries:
        if (found := entry.result.label_efficiency) is not None:
            several = [point for point in found.curves["encoder"] if len(point.draws) > 1]
            spreads += [
                f"on {entry.task}, the accuracy of {entry.encoder} over draws of {most.labels:,} labels has a standard "
                f"deviation of {number(stdev(most.draws))} points"
                for most in several[-1:]
            ]
    measured = f" Draws of fewer labels show how much: {listed(distinct(spreads)[:NAMED])}." if spreads else ""
    return [
        "The labeled images that classifiers learned from are one random draw. Another draw would change every "
        f"accuracy, which the intervals do not cover.{measured}"
    ]


def _one_twin(facts: Facts) -> list[str]:
    twins = {entry.result.encoder.sha256 for entry in facts.entries if UNTRAINED in entry.result.subjects}
    probed = trained_once(facts) and bool(twins - facts.dictionaries)
    raced = any(one.over_twin for run in facts.studies for one in run.report.contenders)
    found = []
    if trained_once(facts) and twins & facts.dictionaries:
        found.append(
            "Each gain of a dictionary is over a single draw of random atoms. Other draws can differ from it by more "
            "than the interval says."
        )
    if not (probed or raced):
        return found
    return [
        *found,
        "Each gain is over a single untrained network, the one that training began with. Networks with other random "
        "weights can differ from it by more than the interval says. To compare five with five, pretrain with seeds=5 "
        "and probe that folder.",
    ]


def _best_of_many(facts: Facts) -> list[str]:
    encoders = [len({entry.result.encoder.sha256 for entry in facts.of_task(task)}) for task in facts.tasks]
    networks = Counter((run.result.task, run.result.data.test) for run in facts.finetuning)
    return [
        f"{most} {what} were tested on the same images. Using the one that is best on them means choosing on the test "
        "set, and its accuracy is then slightly too high. Choose by validation accuracy instead."
        for what, most in (("encoders", max(encoders, default=0)), ("networks", max(networks.values(), default=0)))
        if most > 1
    ]


def _no_baseline(facts: Facts) -> list[str]:
    found = []
    for baseline, text in (
        (UNTRAINED, RANDOM_ATOMS if facts.only_dictionaries else "the same network untrained"),
        (PIXELS, "raw pixels"),
    ):
        # raw pixels are the same for every encoder, so one probe per task is enough
        have = {entry.task for entry in facts.entries if baseline in entry.result.subjects}
        missing = [task for task in facts.tasks if task not in have]
        if missing:
            found.append(f"No comparison with {text} on {listed(missing)}.")
    across = {(one.run, one.kind) for one in crossed(facts)}
    for run in facts.finetuning:
        have = {*run.result.tuned.compared, *(kind for name, kind in across if name == run.origin.name)}
        lacking = [text for name, text in TUNED_OVER.items() if name not in have]
        if lacking and run.result.start != "scratch":
            found.append(f"{run.origin.name} was not compared with {listed(lacking, 'or')}.")
    return found


def _generated(facts: Facts) -> list[str]:
    named = [entry.result.data.train for entry in facts.entries]
    named += [run.result.data.train for run in facts.finetuning]
    named += [entry.result.data.train for entry in facts.several]
    named += [one.data.train for one in facts.winners]
    schemes = distinct(name.partition(":")[0].partition(" ")[0] for name in named)
    return [
        f"The images of {scheme} are {GENERATED[scheme]}; what holds for them may not hold for yours."
        for scheme in schemes
        if scheme in GENERATED
    ]


def _not_compared(facts: Facts) -> list[str]:
    """Images that were not, or not all, compared with the test images."""
    data = [entry.result.data for entry in facts.entries]
    data += [entry.result.data for entry in facts.several]
    data += [run.result.data for run in facts.finetuning if run.result.start != "scratch"]
    data += [one for run in facts.studies for one in run.report.data.values()]
    return [
        f"It is not fully known whether {images} images repeat test images of {in_text(one.test)}: {why}."
        for one in data
        for key, images in (("near_duplicates", "training"), ("in_pretraining", "pretraining"))
        for why in [one.not_compared.get(key, "")]
        if why and why not in (GENERATED_IMAGES, NONE_LEFT)
    ]


def _not_probed(facts: Facts) -> list[str]:
    probed = {entry.result.encoder.sha256 for entry in facts.entries}
    started = {run.result.start for run in facts.finetuning}
    missing = [
        run.origin.name
        for run in facts.pretraining
        if run.results.encoder_sha256 not in probed and not any(run.origin.name in start for start in started)
    ]
    return [f"Not probed here: {listed(missing)}."] if missing and facts.entries else []


def _memorized(facts: Facts) -> list[str]:
    """Restoration that was measured on training images, since too few images were there to hold some out."""
    unseen = [run for run in facts.pretraining if run.results.ruler is not None and not run.results.ruler.held_out]
    return [
        f"{run.origin.name}: what it restores are images that it was trained on"
        f"{'' if run.passes is None else f', each {run.passes:,.0f} times'}, as none were held out: it may have "
        "memorized them, and may restore others worse."
        for run in unseen
    ]


def _notes(facts: Facts) -> list[str]:
    """The notes in the results of the stages."""
    several = len(facts.probes) + len(facts.pretraining) + len(facts.finetuning) + len(facts.studies) > 1
    named = [(run.origin.name, run.report.notes) for run in facts.probes]
    named += [(run.origin.name, run.result.notes) for run in facts.finetuning]
    named += [(run.origin.name, run.results.notes) for run in facts.pretraining]
    for run in facts.studies:  # whose notes begin with the task
        only = [f"{task}: " for task in run.report.classes if not facts.about(task)]
        named.append((run.origin.name, tuple(note.removeprefix("".join(only)) for note in run.report.notes)))
    return [f"{name}: {note}." if several else f"{first_upper(note)}." for name, notes in named for note in notes]
