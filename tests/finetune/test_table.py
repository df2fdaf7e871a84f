"""Result tables: everything fits in 100 columns, shared baselines appear once, gray encoders are marked."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from common.runs.spread import Spread
from finetune.lines import Line, data_names, finetune_lines, probe_lines
from finetune.results import FinetuneResult, StepChoice, Tuned
from finetune.spreads import Measure, Seeds, SubjectSpread
from finetune.table import (
    damage_table,
    markdown,
    properties_table,
    results_markdown,
    results_table,
    seeds_table,
    several_table,
)
from tests.finetune.toys import gain_of, probe_result, score_of
from tests.retouch.reporting.several import label_result, mask_result


def printed(table: Any, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined]


TASKS = ("shape", "color", "texture")


def test_three_tasks_fit_100_columns_without_wrapped_cells() -> None:
    gray = [probe_result(task, 0.3, "colorize", "gray") for task in TASKS]
    lines = probe_lines([*(probe_result(task, 0.712) for task in TASKS), *gray])
    text = printed(results_table(lines))
    rows = text.splitlines()
    assert max(map(len, rows)) <= 100
    # title, frame and header; and for each task a line of its own, two encoders, two twins and the pixels
    assert len(rows) == 1 + 3 + len(TASKS) * 6 + len(TASKS) - 1 + 1


def test_a_row_has_the_accuracy_the_gain_over_the_untrained_twin_and_the_neighbors() -> None:
    rows = printed(results_table(probe_lines([probe_result("shape", 0.712)]))).splitlines()
    cells = [[cell.strip() for cell in row.strip("│┃").replace("┃", "│").split("│")] for row in rows]
    assert ["method", "accuracy", "gain over untrained", "k-NN"] in cells
    assert ["denoise", "71.2 [70.2, 72.2]", "+20.0 [+18.0, +22.0]", "35.6"] in cells
    assert ["untrained", "51.2 [50.2, 52.2]", "", "25.6"] in cells
    assert ["raw pixels", "25.0 [24.0, 26.0]", "", "12.5"] in cells
    assert "held-out 10%" in rows[0]


@pytest.mark.parametrize("name", ["[/b]", "[red]", "a [bold]b", ":train:", "end\\"])
def test_the_name_of_a_task_is_no_markup(name: str) -> None:
    results = [probe_result(name, 0.5)]
    for table in (results_table(probe_lines(results)), damage_table(results), properties_table(results)):
        console = Console(file=io.StringIO(), width=100, emoji=False)
        console.print(table)
        assert name in console.file.getvalue()  # type: ignore[attr-defined]


def test_each_task_states_its_chance_level_and_its_images() -> None:
    result = probe_result("shape", 0.5)
    score = result.linear.test.model_copy(update={"confusion": ((30, 10), (20, 20)), "n": 80})
    linear = result.linear.model_copy(update={"test": score})
    subject = result.subjects["encoder"].model_copy(update={"probes": {"linear": linear}})
    text = printed(results_table(probe_lines([result.model_copy(update={"subjects": {"encoder": subject}})])))
    assert "shape, chance 50.0, 80 test images" in text


def test_tasks_and_ways_to_choose_are_named_once() -> None:
    few = probe_result("color", 0.5)
    choice = few.linear.choice.model_copy(update={"how": "5-fold cross-validation"})
    linear = few.linear.model_copy(update={"choice": choice})
    few.subjects["encoder"].probes["linear"] = linear
    text = printed(results_table(probe_lines([probe_result("shape", 0.712), few])))
    assert text.count("held-out 10% or 5-fold cross-validation") == 1
    assert text.count("color, chance") == text.count("shape, chance") == 1


def test_without_an_untrained_twin_there_is_no_column_of_gains() -> None:
    result = probe_result("shape", 0.7)
    probes = {key: one.model_copy(update={"compared": {}}) for key, one in result.subjects["encoder"].probes.items()}
    subject = result.subjects["encoder"].model_copy(update={"probes": probes})
    alone = result.model_copy(update={"subjects": {"encoder": subject}})
    assert "gain" not in printed(results_table(probe_lines([alone])))


def test_further_probes_have_columns_of_their_own() -> None:
    result = probe_result("shape", 0.7)
    result.subjects["encoder"].probes["nearest_mean"] = result.linear
    text = printed(results_table(probe_lines([result])))
    assert "nearest mean" in text
    assert max(map(len, text.splitlines())) <= 100


def test_several_encoders_share_the_pixel_baseline_and_keep_their_own_untrained_twins() -> None:
    text = printed(results_table(probe_lines([probe_result("shape", 0.7), probe_result("shape", 0.6, "mask")])))
    assert text.count("raw pixels") == 1
    assert "untrained (denoise)" in text
    assert "untrained (mask)" in text


def test_the_untrained_twin_of_an_encoder_that_sees_gray_is_named_after_that() -> None:
    both = [probe_result("shape", 0.7), probe_result("shape", 0.6, "colorize", "gray")]
    assert {line.method for line in probe_lines(both)} == {
        *("denoise", "untrained", "colorize", "untrained, gray", "raw pixels")
    }
    assert {line.method for line in probe_lines(both[1:])} == {"colorize", "untrained", "raw pixels"}
    three = [*both, probe_result("shape", 0.5, "mask")]
    assert {line.method for line in probe_lines(three) if "untrained" in line.method} == {
        *("untrained (denoise)", "untrained (mask)", "untrained, gray")
    }


def test_encoders_that_see_gray_only_are_marked_on_tasks_that_need_color() -> None:
    gray = [probe_result(task, 0.3, "colorize", "gray") for task in ("color", "shape")]
    marked = {(line.task, line.method, line.probe) for line in probe_lines(gray) if line.note == "saw gray only"}
    assert marked == {("color", method, probe) for method in ("colorize", "untrained") for probe in ("linear", "knn")}
    # the name does not matter: the source declares which tasks need color
    named = probe_result("color", 0.3, "colorize", "gray").model_copy(update={"needs_color": False})
    assert not any(line.note for line in probe_lines([named]))


def test_markdown_has_a_row_per_task_and_method() -> None:
    text = results_markdown(probe_lines([probe_result("shape", 0.712), probe_result("color", 0.5)]))
    lines = text.splitlines()
    assert lines[0] == "| task | method | accuracy | gain over untrained | k-NN |"
    assert lines[1] == "| --- | --- | --- | --- | --- |"
    chance = 100 * max(map(sum, probe_result("shape", 0.712).linear.test.confusion)) / 10_000
    assert lines[2] == f"| shape (chance {chance:.1f}) | denoise | 71.2 [70.2, 72.2] | +20.0 [+18.0, +22.0] | 35.6 |"
    assert lines[3].startswith("|  | untrained | ")  # a task is named once
    assert len(lines) == 2 + 6


def test_numbers_in_markdown_can_be_aligned_to_the_right() -> None:
    assert markdown(["code", "n"], [["pca", "64"]], right=True) == "| code | n |\n| --- | ---: |\n| pca | 64 |\n"


def test_data_sets_that_differ_only_in_their_test_set_have_separate_blocks() -> None:
    one, other = probe_result("shape", 0.712), probe_result("shape", 0.5, n=50, test="folder:photos")
    assert data_names([one, other]) == ["tested on shapes:test:4000", "tested on folder:photos"]
    lines = probe_lines([one, other])
    found = {(line.task, line.method, line.probe): (line.test_accuracy, line.n_test) for line in lines}
    assert found["shape (tested on shapes:test:4000)", "denoise", "linear"] == (0.712, 10_000)
    assert found["shape (tested on folder:photos)", "denoise", "linear"] == (0.5, 50)
    text = printed(results_table(lines))
    for expected in ("10,000 test images", " 50 test images", "71.2 [70.2, 72.2]", "50.0 [49.0, 51.0]"):
        assert text.count(expected) == 1
    assert text.count("raw pixels") == 2
    assert "tested on folder:photos" in printed(damage_table([one, other]))


def test_names_of_data_are_as_short_as_needed_to_distinguish_them() -> None:
    one, fewer = probe_result("shape", 0.5), probe_result("shape", 0.5)
    assert data_names([one, fewer]) == ["", ""]
    subject = fewer.subjects["encoder"]
    linear = subject.probes["linear"].model_copy(update={"n_train": 500})
    itself = subject.model_copy(update={"probes": {"linear": linear}})
    fewer = fewer.model_copy(update={"subjects": {"encoder": itself}})
    assert data_names([one, fewer]) == ["20,000 training images", "500 training images"]
    other = fewer.model_copy(update={"data": probe_result("shape", 0.5, train="folder:a", test="folder:b").data})
    assert data_names([one, other]) == ["shapes:train:20000", "folder:a"]
    third = probe_result("shape", 0.5, train="folder:a")
    assert data_names([one, other, third])[1:] == [
        "folder:a, tested on folder:b",
        "folder:a, tested on shapes:test:4000",
    ]


def test_damage_is_shown_next_to_the_clean_accuracy_with_intervals() -> None:
    several = probe_result("shape", 0.712)
    several.linear.damaged["holes ratio=0.25"] = score_of(0.4)
    text = printed(damage_table([several]))
    assert max(map(len, text.splitlines())) <= 100
    for expected in ("clean", "71.2", "[70.2, 72.2]", "gaussian", "30.0", "[29.0, 31.0]", "gray", "20.0", "Wilson"):
        assert text.count(expected) == 1
    assert "[39.0, 41.0]" in text


def test_properties_fit_100_columns_and_shared_values_appear_once() -> None:
    shared = [probe_result("shape", 0.712), probe_result("color", 0.5)]
    text = printed(properties_table([*shared, probe_result("texture", 0.4, "mask")]))
    assert max(map(len, text.splitlines())) <= 100
    for once in ("denoise", "mask", "shape 71.2", "color 50.0", "texture 40.0", "brightness", "non-zero"):
        assert text.count(once) == 1
    for twice in ("12 of 2,048", "98", "0.91", "−1.23", "1.00"):  # once per encoder
        assert text.count(twice) == 2
    assert "-0.00" not in text
    without = probe_result("shape", 0.7).model_copy(update={"code": None})
    assert "shape" not in printed(properties_table([without, probe_result("color", 0.5)]))


def test_fine_tuning_is_shown_by_the_same_table_as_its_baselines() -> None:
    result = probe_result("shape", 0.5)

    def tuned(accuracy: float, step: int, **gains: float) -> Tuned:
        choice = StepChoice(val_accuracy=accuracy, step=step, of_steps=1000)
        compared = {name: gain_of(gain) for name, gain in gains.items()}
        return Tuned(choice=choice, n_train=90, n_val=10, test=score_of(accuracy, 80), seconds=1.0, compared=compared)

    found = FinetuneResult(
        task="shape",
        classes=result.classes,
        data=result.data,
        protocol="",
        start="runs/denoise/encoder",
        encoder_sha256="",
        tuned=tuned(0.6, 450, from_scratch=0.2, linear_probe=0.1),
        from_scratch=tuned(0.4, 1000),
        linear_probe=result.linear,
    )
    lines = finetune_lines(found)
    assert [(line.method, line.layer, line.setting) for line in lines] == [
        ("fine-tuned", "", "step 450 of 1,000"),
        ("linear probe of the frozen encoder", "0+1+2", "l2 0.001"),
        ("same network from scratch", "", "step 1,000 of 1,000"),
    ]
    text = printed(results_table(lines))
    assert max(map(len, text.splitlines())) <= 100
    gains = ("gain over from scratch", "+20.0 [+18.0, +22.0]")
    for expected in ("60.0 [59.0, 61.0]", "50.0 [49.0, 51.0]", "40.0 [39.0, 41.0]", *gains):
        assert text.count(expected) == 1
    alone = found.model_copy(update={"start": "scratch", "from_scratch": None, "linear_probe": None})
    assert [line.method for line in finetune_lines(alone)] == ["trained from scratch"]


def test_rows_for_wandb_are_as_long_as_their_columns() -> None:
    lines = probe_lines([probe_result("shape", 0.712)])
    assert len(lines) == 6
    assert {len(line) for line in lines} == {len(Line._fields)}


def test_masks_and_classes_of_one_name_have_rows_of_their_own() -> None:
    def one(measure: Measure, value: float) -> SubjectSpread:
        spread = Spread.of([value, value + 0.02])
        return SubjectSpread(task="shape", subject="encoder", probe="linear", measure=measure, spread=spread)

    spreads = (one("accuracy", 0.7), one("mean_iou", 0.1))
    table = seeds_table(Seeds(over="probing", seeds=(0, 1), runs=("a", "b"), spreads=spreads), "denoise")
    said = printed(table)
    for words in ("shape, test accuracy", "71.0 ± 1.4", "shape, mean IoU", "11.0 ± 1.4"):
        assert words in said


def test_several_labels_and_masks_fit_100_columns_without_wrapped_cells() -> None:
    for result in (mask_result(), label_result()):
        table = several_table(result)
        table.title = None
        assert printed(table) == printed(table, width=200)
