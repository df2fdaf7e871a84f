"""Predictions that were interrupted, and go on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError
from common.pixels import to_float
from finetune.predict import parts
from finetune.predict import run as stage
from finetune.predict.run import predict
from tests.finetune.predict.runs import TEST_IMAGES, config_of, saved_images


class Stopped(BaseException):
    pass


def stop_after(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C, once so many parts are written."""
    written: list[Any] = []
    real = parts.write_part

    def write(*given: Any) -> None:
        if len(written) == count:
            raise Stopped
        real(*given)
        written.append(given)

    monkeypatch.setattr(stage, "write_part", write)


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_an_interrupted_run_goes_on_and_ends_with_the_same_file(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    monkeypatch.setattr(parts, "PART_ROWS", 16)
    whole = predict(config_of(tmp_path / "whole", runs / "probed", task="color", format=format)).path
    stop_after(2, monkeypatch)
    out = tmp_path / "out"
    with pytest.raises(Stopped):
        predict(config_of(out, runs / "probed", task="color", format=format))
    assert not (out / whole.name).exists()
    kept = {path.name: path.stat().st_mtime_ns for path in (out / "parts").glob("*.parquet")}
    assert sorted(kept) == ["000000.parquet", "000001.parquet"]
    monkeypatch.undo()
    monkeypatch.setattr(parts, "PART_ROWS", 16)
    answered: list[int] = []
    monkeypatch.setattr(stage, "to_float", lambda batch: (answered.append(len(batch)), to_float(batch))[1])
    found = predict(config_of(out, runs / "probed", task="color", format=format, resume=True))
    assert sum(answered) == TEST_IMAGES - 32
    assert found.path.read_bytes() == whole.read_bytes()
    assert not (out / "parts").exists()


def test_a_finished_run_that_is_resumed_has_its_result(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = predict(config_of(tmp_path / "out", runs / "tuned"))
    monkeypatch.setattr(stage, "to_float", lambda batch: pytest.fail("answered again"))
    (tmp_path / "out" / "parts").mkdir()  # it was stopped before it removed them
    assert predict(config_of(tmp_path / "out", runs / "tuned", resume=True)) == first
    assert not (tmp_path / "out" / "parts").exists()


def test_a_finished_run_is_no_answer_for_other_images_or_another_classifier(runs: Path, tmp_path: Path) -> None:
    folder = saved_images(tmp_path / "new", 4)
    config = config_of(tmp_path / "out", runs / "tuned", data={"source": str(folder), "limit": None})
    first = predict(config)
    (tmp_path / "out").rename(tmp_path / "moved")
    found = predict(config.model_copy(update={"out": tmp_path / "moved", "resume": True}))
    assert (found.path.parent, found.rows) == (tmp_path / "moved", first.rows)
    (folder / "000.png").unlink()
    with pytest.raises(UserError, match="has finished, with other images: set overwrite=true to start over"):
        predict(config.model_copy(update={"out": tmp_path / "moved", "resume": True}))
    assert found.path.is_file()


def test_parts_of_other_images_are_not_continued(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_ROWS", 4)
    folder = saved_images(tmp_path / "new", 12)
    stop_after(1, monkeypatch)
    config = config_of(tmp_path / "out", runs / "tuned", data={"source": str(folder), "limit": None})
    with pytest.raises(Stopped):
        predict(config)
    monkeypatch.undo()
    monkeypatch.setattr(parts, "PART_ROWS", 4)
    (folder / "011.png").unlink()
    with pytest.raises(UserError, match="no longer the same: the images; start over with overwrite=true"):
        predict(config.model_copy(update={"resume": True}))
    assert predict(config.model_copy(update={"overwrite": True})).rows == 11


def test_parts_of_another_size_are_not_continued(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_ROWS", 16)
    stop_after(1, monkeypatch)
    with pytest.raises(Stopped):
        predict(config_of(tmp_path / "out", runs / "tuned"))
    monkeypatch.undo()
    with pytest.raises(UserError, match="no longer the same: the size of a part; start over"):
        predict(config_of(tmp_path / "out", runs / "tuned", resume=True))


@pytest.mark.parametrize("content", ["{", "[]", ""])
def test_parts_of_unknown_origin_are_not_continued(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setattr(parts, "PART_ROWS", 16)
    stop_after(1, monkeypatch)
    with pytest.raises(Stopped):
        predict(config_of(tmp_path / "out", runs / "tuned"))
    [plan] = tmp_path.glob("out/*/plan.json")
    plan.write_text(content)
    with pytest.raises(UserError, match="no longer the same: the classifier, its temperature, the images,"):
        predict(config_of(tmp_path / "out", runs / "tuned", resume=True))


def test_a_non_empty_folder_is_not_written_to(runs: Path, tmp_path: Path) -> None:
    path = predict(config_of(tmp_path / "out", runs / "tuned")).path
    before = path.read_bytes()
    with pytest.raises(UserError, match="not empty"):
        predict(config_of(tmp_path / "out", runs / "tuned", top=2))
    assert path.read_bytes() == before
