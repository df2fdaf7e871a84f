"""Tables that people read: everything in 100 columns, shared baselines once, gray encoders marked."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from finetune.table import (
    damage_table,
    data_names,
    lines,
    markdown_table,
    purposes_table,
    results_table,
    table_columns,
    table_rows,
)


def scores(accuracy: float, **more: Any) -> dict[str, Any]:
    return {
        "test_accuracy": accuracy,
        "ci95": [accuracy - 0.01, accuracy + 0.01],
        "layer": "0+1+2",
        "pooling": "avg",
    } | more


def result(task: str, accuracy: float, pretext: str = "denoise", view: str = "rgb") -> dict[str, Any]:
    def subject(value: float) -> dict[str, Any]:
        return scores(value, l2=0.001, n_test=10_000, knn=scores(value / 2, k=20))

    return {
        "task": task,
        "data": {"train": "shapes:train:20000", "test": "shapes:test:4000", "image_size": 32},
        "n_train": 20_000,
        "encoder": {"name": "small_cnn", "pretext": pretext, "view": view, "path": "e"},
        **subject(accuracy),
        "baselines": {"random_init": subject(accuracy - 0.2), "pixels": subject(0.25)},
        "damaged": {"gaussian sigma=0.1": scores(0.3), "gray": scores(0.2)},
        "purposes": {
            "compact": {"code_size": 2048, "nonzeros": 12.3, "bytes": 98.4},
            "invariant": {"gaussian": 0.912, "shift": -1.234, "flip": None, "brightness": 1.0, "gray": -0.001},
            "abstract": accuracy,
        },
    }


def printed(table: Any) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_three_tasks_fit_100_columns_with_interval_layer_and_strength() -> None:
    text = printed(results_table([result(task, 0.712) for task in ("shape", "color", "texture")]))
    assert max(map(len, text.splitlines())) <= 100
    for expected in ("71.2 [70.2, 72.2]", "layer 0+1+2, l2 0.001", "k 20", "10,000 test images", "raw pixels, linear"):
        assert text.count(expected) >= 3 or expected == "raw pixels, linear"
        assert expected in text


def test_many_tasks_go_one_below_the_other() -> None:
    text = printed(results_table([result(f"task{number}", 0.5) for number in range(5)]))
    assert max(map(len, text.splitlines())) <= 100
    assert all(f"task{number}" in text for number in range(5))
    assert "50.0 [49.0, 51.0]" in text


def test_several_encoders_share_their_pixels_and_keep_their_own_random_twins() -> None:
    text = printed(results_table([result("shape", 0.7), result("shape", 0.6, "mask")]))
    assert text.count("raw pixels, linear") == 1
    assert "random init (denoise), linear" in text
    assert "random init (mask), linear" in text


def test_a_gray_encoder_is_marked_on_tasks_about_colour_alone() -> None:
    rows = table_rows([result("color", 0.3, "colorize", "gray"), result("shape", 0.6, "colorize", "gray")])
    column = {name: index for index, name in enumerate(table_columns())}
    marked = {(row[column["task"]], row[column["method"]]) for row in rows if row[column["note"]] == "saw gray only"}
    methods = ("colorize, linear", "colorize, k-NN", "random init, linear", "random init, k-NN")
    assert marked == {("color", method) for method in methods}
    assert "saw gray only" in printed(results_table([result("color", 0.3, "colorize", "gray")]))
    assert "saw gray only" not in printed(results_table([result("color", 0.3)]))


def test_markdown_has_methods_down_and_tasks_across() -> None:
    lines = markdown_table([result("shape", 0.712), result("color", 0.5)]).splitlines()
    assert lines[0] == "| method | shape | color |"
    assert lines[1] == "| --- | --- | --- |"
    assert lines[2] == "| denoise, linear | 71.2 [70.2, 72.2] | 50.0 [49.0, 51.0] |"
    assert len(lines) == 2 + 6


def test_data_sets_that_differ_in_their_test_alone_have_columns_of_their_own() -> None:
    one, other = result("shape", 0.712), result("shape", 0.5)
    other["data"] = {**other["data"], "test": "folder:photos"}
    other["n_test"] = 50
    for subject in other["baselines"].values():
        subject["n_test"] = 50
    assert data_names([one, other]) == ["tested on shapes:test:4000", "tested on folder:photos"]
    found = {(line.task, line.method): (line.test_accuracy, line.n_test) for line in lines([one, other])}
    assert found["shape (tested on shapes:test:4000)", "denoise, linear"] == (0.712, 10_000)
    assert found["shape (tested on folder:photos)", "denoise, linear"] == (0.5, 50)
    text = printed(results_table([one, other]))
    for expected in ("10,000 test images", "50 test images", "71.2 [70.2, 72.2]", "50.0 [49.0, 51.0]"):
        assert text.count(expected) == 1
    assert text.count("raw pixels, linear") == 1
    assert "tested on folder:photos" in printed(damage_table([one, other]))
    assert markdown_table([one, other]).splitlines()[2].count("[") == 2


def test_names_of_data_are_as_short_as_tells_them_apart() -> None:
    one, other, third = (result("shape", 0.5) for _ in range(3))
    assert data_names([one, other]) == ["", ""]
    other["n_train"] = 500
    assert data_names([one, other]) == ["20,000 training images", "500 training images"]
    other["data"] = {**other["data"], "train": "folder:a", "test": "folder:b"}
    assert data_names([one, other]) == ["shapes:train:20000", "folder:a"]
    third["data"] = {**third["data"], "train": "folder:a"}
    assert data_names([one, other, third])[1:] == [
        "folder:a, tested on folder:b",
        "folder:a, tested on shapes:test:4000",
    ]


def test_damage_stands_beside_the_clean_accuracy_with_intervals() -> None:
    several = result("shape", 0.712)
    several["damaged"]["holes ratio=0.25"] = scores(0.4)
    text = printed(damage_table([several]))
    assert max(map(len, text.splitlines())) <= 100
    for expected in ("clean", "71.2", "[70.2, 72.2]", "gaussian", "30.0", "[29.0, 31.0]", "gray", "20.0", "Wilson"):
        assert text.count(expected) == 1
    assert "[39.0, 41.0]" in text


def test_purposes_fit_100_columns_and_what_tasks_share_stands_once() -> None:
    shared = [result("shape", 0.712), result("color", 0.5)]
    text = printed(purposes_table([*shared, result("texture", 0.4, "mask")]))
    assert max(map(len, text.splitlines())) <= 100
    for once in ("denoise", "mask", "shape 71.2", "color 50.0", "texture 40.0", "brightness", "non-zero"):
        assert text.count(once) == 1
    for twice in ("12 of 2,048", "98", "0.91", "-1.23", "1.00"):  # once an encoder
        assert text.count(twice) == 2
    assert "-0.00" not in text
    without = result("shape", 0.7)
    del without["purposes"]
    assert "shape" not in printed(purposes_table([without, result("color", 0.5)]))


def test_rows_for_wandb_are_as_long_as_their_columns() -> None:
    rows = table_rows([result("shape", 0.712)])
    assert len(rows) == 6
    assert {len(row) for row in rows} == {len(table_columns())}
