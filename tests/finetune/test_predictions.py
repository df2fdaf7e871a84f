"""Predictions on disk: read back exactly, readable by anything that reads parquet, foreign files refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from common.errors import UserError
from finetune.metrics import compare
from finetune.predictions import Predictions, read_predictions, write_predictions
from tests.finetune.toys import bright_images

SURE = torch.tensor([0.5, 0.75, 1.0])


def predicted(task: str = "quarter", **answers: list[int]) -> Predictions:
    """Answers to rows 4, 5 and 7 of the toy images."""
    found = {name: torch.tensor(values) for name, values in answers.items()}
    images = bright_images()
    index = torch.tensor([4, 5, 7])
    labels = torch.tensor([1, 2, 1])
    return Predictions.of(
        images, index, task, ("q0", "q1", "q2"), labels, found, {name: SURE for name in found if name != "pixels"}
    )


def same(one: Predictions, other: Predictions) -> bool:
    tensors = [(one.rows, other.rows), (one.labels, other.labels)]
    tensors += [(one.answers[name], other.answers[name]) for name in one.answers]
    tensors += [(one.confidences[name], other.confidences[name]) for name in one.confidences]
    facts = [(p.task, p.classes, p.paths, list(p.answers), list(p.confidences)) for p in (one, other)]
    return facts[0] == facts[1] and all(torch.equal(a, b) for a, b in tensors)


def test_predictions_are_read_back_exactly(tmp_path: Path) -> None:
    both = [predicted(encoder=[1, 2, 0], pixels=[0, 2, 0]), predicted("other", encoder=[2, 2, 2])]
    write_predictions(tmp_path, both)
    for found in (read_predictions(tmp_path), read_predictions(tmp_path / "predictions.parquet")):
        assert len(found) == 2
        assert all(same(one, other) for one, other in zip(both, found, strict=True))


def test_the_file_has_a_row_per_image_with_names_and_places(tmp_path: Path) -> None:
    write_predictions(tmp_path, [predicted(encoder=[1, 2, 0]), predicted("other", encoder=[2, 2, 2], pixels=[1, 1, 1])])
    rows = pq.read_table(tmp_path / "predictions.parquet").to_pylist()
    assert rows[0] == {
        "result": 0, "task": "quarter", "row": 4, "path": "bright[4]", "label": "q1", "encoder": "q1", "pixels": None,
        "encoder.confidence": 0.5,
    }  # fmt: skip
    assert [row["label"] for row in rows] == ["q1", "q2", "q1"] * 2
    assert [row["pixels"] for row in rows] == [None] * 3 + ["q1"] * 3


def test_calibrated_probabilities_are_kept_next_to_the_others_and_preferred(tmp_path: Path) -> None:
    calibrated = {"encoder": torch.tensor([0.25, 0.5, 0.75])}
    write_predictions(tmp_path, [replace(predicted(encoder=[1, 2, 0], other=[1, 1, 1]), calibrated=calibrated)])
    [found] = read_predictions(tmp_path)
    assert list(found.answers) == ["encoder", "other"]
    for column, expected in (("encoder", calibrated["encoder"]), ("other", SURE)):
        sure = found.sure(column)
        assert sure is not None
        assert torch.equal(sure, expected)
    assert torch.equal(found.confidences["encoder"], SURE)
    assert found.sure("pixels") is None


def test_files_of_older_versions_have_no_confidences(tmp_path: Path) -> None:
    write_predictions(tmp_path, [predicted(encoder=[1, 2, 0])])
    path = tmp_path / "predictions.parquet"
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["encoder.confidence"]), path)
    [found] = read_predictions(path)
    assert (list(found.answers), found.confidences) == (["encoder"], {})


def test_two_runs_can_be_compared_later(tmp_path: Path) -> None:
    for run, answers in (("mine", [1, 2, 0]), ("other", [0, 2, 0])):
        write_predictions(tmp_path / run, [predicted(encoder=answers)])
    [mine], [other] = (read_predictions(tmp_path / run) for run in ("mine", "other"))
    assert torch.equal(mine.rows, other.rows)
    found = compare(mine.answers["encoder"], other.answers["encoder"], mine.labels)
    assert (found.n10, found.n01) == (1, 0)
    assert found.difference == pytest.approx(1 / 3)


def test_names_that_are_not_utf8_are_written_as_escapes(tmp_path: Path) -> None:
    odd = predicted(encoder=[1, 2, 0])
    images = bright_images()
    names = ("q0", "q\udcff", "q2")
    odd = Predictions.of(images, torch.tensor([4, 5, 7]), "t", names, odd.labels, odd.answers, {})
    write_predictions(tmp_path, [odd])
    assert read_predictions(tmp_path)[0].classes == ("q0", "q\\xff", "q2")


@pytest.mark.parametrize("kind", ["missing", "cut", "foreign"])
def test_other_files_are_refused_with_a_plain_message(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "predictions.parquet"
    if kind == "cut":
        path.write_bytes(b"PAR1")
    elif kind == "foreign":
        pq.write_table(pa.table({"label": ["a"]}), path)
    message = "give the predictions.parquet of a finished" if kind == "missing" else "cannot be read as predictions"
    with pytest.raises(UserError, match=message) as caught:
        read_predictions(tmp_path)
    assert str(path) in str(caught.value)
