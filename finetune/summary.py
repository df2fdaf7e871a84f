"""What transfer says: notes, the tables of a probe on the console, and the numbers that are logged."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from common.runs.folder import Run
from common.runs.results import RESULTS
from common.runs.screen import print_line, screen
from finetune.config import FinetuneConfig, ProbeConfig
from finetune.kinds.masks import strengths
from finetune.lines import data_names, finetune_lines, probe_lines, task_names
from finetune.records import Checks, CodeProperties, DataFacts, ProbeChoice
from finetune.results import FinetuneResult, Probed, ProbeReport, ProbeResult
from finetune.spreads import MEASURES
from finetune.structured_results import LabelProbed, Several
from finetune.table import (
    damage_table,
    efficiency_table,
    properties_table,
    results_table,
    several_table,
    worth_lines,
)
from finetune.tracked import finetune_shown, probe_shown, send

log = logging.getLogger("retouch")

NEAR = 1.001  # strengths that differ by less are the same
SHOWN = 0.05  # McNemar's p below which a difference is shown, if its interval excludes zero too


def notes(config: ProbeConfig, report: ProbeReport) -> tuple[str, ...]:
    """What a reader of these numbers has to know."""
    found, results, multilabel, dense = [], report.results, report.multilabel, report.dense
    encoders = [one.encoder for some in (results, multilabel, dense) for one in some]
    if encoders[0].view == "gray":
        found.append("this encoder and its untrained twin saw gray only; raw pixels keep their color")
    linear = [(result.task, result.linear.choice) for result in results]
    linear += [(many.task, many.linear.choice) for many in multilabel]
    found += _at_end("probe.l2", linear, config.probe.strengths)
    found += _at_end("probe.l2", [(masks.task, masks.linear.choice) for masks in dense], strengths(config))
    for result in results:
        for subject, measured in result.subjects.items():
            for key, one in measured.probes.items():
                found += [f"{result.task}: {line}" for line in unconverged(f"the {key} probe of {subject}", one)]
        if result.label_efficiency is not None:
            found += [
                f"{result.task}: in the label efficiency of {subject}, {count} fits did not converge: its accuracies "
                "may be too low"
                for subject, count in result.label_efficiency.unconverged.items()
            ]
        found += [f"{result.task}: {line}" for line in failed(result.checks)]
        found += [f"{result.task}: {line}" for line in leaks(result.data, result.linear.test.n)]
    for many in multilabel:
        for subject, probed in many.subjects.items():
            found += [f"{many.task}: {line}" for line in unconverged(f"the linear probe of {subject}", probed)]
    for several in (*multilabel, *dense):
        measure = MEASURES[several.measure]
        found += [f"{several.task}: {line}" for line in failed(several.checks, measure)]
        found += [f"{several.task}: {line}" for line in leaks(several.data, several.linear.test.n)]
    return tuple(dict.fromkeys(found))


def _at_end(key: str, choices: Sequence[tuple[str, ProbeChoice]], grid: Sequence[float]) -> list[str]:
    """Of which tasks a wider grid of strengths may be better, and the setting to type for it."""
    tasks = [task for task, choice in choices if choice.at_end_of_grid]
    if not tasks:
        return []
    chosen = [float(choice.setting["l2"]) for _, choice in choices if choice.at_end_of_grid]
    return [
        f"the chosen L2 strength is at an end of the grid for {', '.join(tasks)}, which goes from {grid[0]:g} to "
        f"{grid[-1]:g}; try a wider one: {key}=[{','.join(f'{value:.3g}' for value in wider(grid, chosen))}]"
    ]


def wider(grid: Sequence[float], chosen: Sequence[float]) -> list[float]:
    """The same strengths, weakest first, and two decades more at each end that was chosen, to two digits."""
    below = min(chosen) <= grid[0] * NEAR
    above = max(chosen) >= grid[-1] / NEAR
    more = [10 ** (half / 2) for half in range(1, 5)]
    return [
        *(_rounded(grid[0] / factor) for factor in reversed(more) if below),
        *grid,
        *(_rounded(grid[-1] * factor) for factor in more if above),
    ]


def _rounded(value: float) -> float:
    """To two digits: 1 for 0.999."""
    return float(f"{value:.2g}")


def tuned_or_frozen(result: FinetuneResult) -> list[str]:
    """Whether the linear probe of the frozen encoder would do as well or better, in a sentence; none if it is worse."""
    found, probed = result.tuned.compared.get("linear_probe"), result.linear_probe
    if found is None or probed is None:
        return []
    low, high = found.ci95
    if low > 0 and found.p_value < SHOWN:
        return []
    if high < 0 and found.p_value < SHOWN:
        return [
            f"the linear probe of the frozen encoder is {-100 * found.difference:.1f} points better: use it, with "
            "retouch probe linear and the same encoder and data"
        ]
    return [
        "the trained network is not shown to be better or worse than the linear probe of the frozen encoder "
        f"({100 * result.tuned.test.accuracy:.1f} against {100 * probed.test.accuracy:.1f})"
    ]


def finetune_notes(result: FinetuneResult) -> tuple[str, ...]:
    """The same for a fine-tuned network and its baselines."""
    found = [f"{result.task}: {line}" for line in leaks(result.data, result.tuned.test.n)]
    trained = {"the trained network": result.tuned, "the same network from scratch": result.from_scratch}
    for name, one in trained.items():
        if one is not None and one.choice.step == one.choice.of_steps:
            found.append(
                f"{result.task}: {name} was best on validation at its last step, {one.choice.of_steps:,}: more steps "
                "may be better"
            )
    if not result.start_converged:
        found.append(
            f"{result.task}: the linear probe at which the classifier started did not converge: head_start=random may "
            "be as good"
        )
    if (probed := result.linear_probe) is not None:
        found += [f"{result.task}: {line}" for line in tuned_or_frozen(result)]
        found += [f"{result.task}: {line}" for line in unconverged("the linear probe", probed)]
        found += [f"{result.task}: {line}" for line in failed(result.checks)]
        if probed.choice.at_end_of_grid:
            found.append(
                f"{result.task}: the linear probe's L2 strength is at an end of its grid: retouch probe with a wider "
                "probe.l2 may be more accurate"
            )
    return tuple(dict.fromkeys(found))


def failed(checks: Checks | None, measure: str = "accuracy") -> list[str]:
    """What is wrong with the measurement itself."""
    lines = []
    if checks is not None and checks.frozen is False:
        lines.append(
            "the encoder or its untrained twin changed while it was measured, so these are not numbers of frozen "
            "encoders; this should not happen: please report it"
        )
    null = None if checks is None else checks.null
    if null is not None and null.above_chance:
        low, high = null.ci95
        lines.append(
            f"with training labels at random, the {measure} of the linear probe is {null.accuracy:.1%} "
            f"[{low:.1%}, {high:.1%}] on the test images, and chance is {null.chance:.1%}: something seems to tell it "
            f"the test labels, so its {measure} may be too high"
        )
    if null is not None and null.unconverged:
        lines.append(
            f"with training labels at random, {null.unconverged} fits of the linear probe did not converge, so that "
            "check may miss what it looks for"
        )
    return lines


def leaks(data: DataFacts, total: int) -> list[str]:
    """Which test images were seen before."""
    lines = []
    if data.duplicates:
        lines.append(f"{data.duplicates:,} of {total:,} test images are also training images")
    near, pool = data.near_duplicates, data.in_pretraining
    of = "" if pool is None or not pool.partial else f" ({pool.compared:,} of {pool.of:,} were compared)"
    if near is not None and near.test_images > data.duplicates:
        lines.append(f"{near.test_images:,} of {total:,} test images repeat training images, at least nearly")
    if lines and data.left_out:
        lines = [f"{', and '.join(lines)}; these {data.left_out:,} training images were left out"]
    if pool is not None and pool.test_images:
        lines.append(
            f"{pool.test_images:,} of {total:,} test images repeat images of pretraining, at least nearly{of}: the "
            "encoder has seen them, without labels"
        )
    elif of:
        lines.append(f"no test image repeats one of the images of pretraining that were looked at{of}")
    return lines


def unconverged(name: str, one: Probed | LabelProbed) -> list[str]:
    """Which fits of a probe did not converge."""
    lines = [] if one.converged else [f"{name} did not converge: its accuracy may be too low"]
    if one.choice.unconverged:
        lines.append(f"{name} was chosen among fits of which {one.choice.unconverged} did not converge")
    return lines


def print_report(run: Run, report: ProbeReport) -> None:
    """The tables and notes, on the console."""
    console = screen()
    if report.results:
        console.print(results_table(probe_lines(report.results)))
    for many in (*report.multilabel, *report.dense):
        console.print(several_table(many))
    if any(result.linear.damaged for result in report.results):
        console.print(damage_table(report.results))
    if any(result.code for result in report.results):
        console.print(properties_table(report.results))
    if any(result.label_efficiency for result in report.results):
        console.print(efficiency_table(report.results))
    for task, result in zip(task_names(report.results), report.results, strict=True):
        if result.label_efficiency is not None:
            for line in worth_lines(task, result.encoder.title, result.label_efficiency):
                print_line(console, f"  {line}")
    for note in report.notes:
        print_line(console, f"  {note}")
    print_line(console, f"  all results: {run.folder / RESULTS}")


def log_report(run: Run, report: ProbeReport) -> None:
    """Log to ``metrics.jsonl`` and W&B."""
    run.cut_back(-1)  # a probe that is run again logs everything again
    # several data sets can share a task name
    named = [
        {f"{data}/{result.task}/{key}" if data else f"{result.task}/{key}": value for key, value in numbers.items()}
        for data, result, numbers in zip(
            data_names(report.results), report.results, map(logged_numbers, report.results), strict=True
        )
    ]
    named += _named(report.multilabel)
    named += _named(report.dense)
    for step, numbers in enumerate(named):
        run.log(numbers, step)
    run.tracker.summary({key: value for numbers in named for key, value in numbers.items()})
    send(run.tracker, probe_shown(report))


def print_finetuned(config: FinetuneConfig, result: FinetuneResult) -> None:
    """The table and the notes of fine-tuning, on the console."""
    console = screen()
    console.print(results_table(finetune_lines(result)))
    for note in result.notes:
        print_line(console, f"  {note}")
    log.info("classifier written to %s, results to %s", config.out / "classifier", config.out / RESULTS)


def log_finetuned(run: Run, result: FinetuneResult) -> None:
    """Log to ``metrics.jsonl`` and W&B."""
    tuned = result.tuned
    numbers = {
        f"{result.task}/test_accuracy": tuned.test.accuracy,
        f"{result.task}/val_accuracy": tuned.choice.val_accuracy,
    }
    # a separate step: a finished run that is resumed removes it and tests again
    run.log(numbers, tuned.choice.of_steps + 1)
    run.tracker.summary({**numbers, "best_step": tuned.choice.step, "trained_encoder_sha256": result.encoder_sha256})
    send(run.tracker, finetune_shown(result))


def _named(results: Sequence[Several]) -> list[dict[str, float]]:
    """The logged numbers of each result, after its task, and its data where tasks share a name."""
    tasks = [result.task for result in results]
    shared = [data if tasks.count(one.task) > 1 else "" for data, one in zip(data_names(results), results, strict=True)]
    names = [f"{data}/{task}" if data else task for data, task in zip(shared, tasks, strict=True)]
    return [
        {f"{name}/{key}": value for key, value in logged_several(result).items()}
        for name, result in zip(names, results, strict=True)
    ]


def logged_numbers(result: ProbeResult) -> Mapping[str, float]:
    """The logged numbers: ``test_accuracy`` of the encoder's linear probe, ``pixels_knn_test_accuracy``, ..."""
    numbers = {"val_accuracy": result.linear.choice.val_accuracy}
    for subject, measured in result.subjects.items():
        for key, outcome in measured.probes.items():
            name = [*([] if subject == "encoder" else [subject]), *([] if key == "linear" else [key])]
            numbers["_".join([*name, "test_accuracy"])] = outcome.test.accuracy
    return numbers | _code_numbers(result.code)


def logged_several(result: Several) -> Mapping[str, float]:
    """The logged numbers: ``mean_iou`` and ``pixel_accuracy`` of the encoder's probe, ``pixels_mean_iou``, ..."""
    numbers = {f"val_{result.measure}": result.linear.choice.val_accuracy}
    for subject, one in result.subjects.items():
        name = "" if subject == "encoder" else f"{subject}_"
        numbers[f"{name}{result.measure}"] = one.test.mean
        numbers |= {f"{name}{key.lower().replace(' ', '_')}": value for key, value in one.test.others.items()}
    return numbers | _code_numbers(result.code)


def _code_numbers(code: CodeProperties | None) -> dict[str, float]:
    if code is None:
        return {}
    found = {f"invariance_{change}": value for change, value in code.invariance.items() if value is not None}
    return {f"code_{key}": getattr(code, key) for key in ("size", "nonzeros", "bytes")} | found
