"""Parts of predictions: shared by two real processes (gloo), and one that cannot be written."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from finetune.predict import parts
from finetune.predict.config import PredictConfig
from finetune.predict.run import predict
from tests.finetune.predict.runs import config_of, rows_of
from tests.processes import in_two_processes

PART, MANY = 40, 400  # images: ten parts


class Stopped(BaseException):
    pass


def one_of_two(rank: int, folder: Path, values: dict[str, Any], part: int, most: int | None) -> None:
    """Predict, and say which parts were written; ``most``: as if Ctrl-C came when so many parts are written."""
    written: dict[int, int] = {}
    real = parts.write_part

    def write(at: Path, number: int, table: Any) -> None:
        if len(written) == most:
            raise Stopped
        written[number] = table.num_rows
        real(at, number, table)

    said: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("finetune.predict.run.write_part", write)
        patched.setattr(parts, "PART_ROWS", part)
        try:
            said["result"] = predict(PredictConfig.model_validate(values)).model_dump(mode="json")
        except Stopped:
            said["result"] = None
    said["written"] = list(written.items())
    (folder / f"rank-{rank}.json").write_text(json.dumps(said))


def in_two(folder: Path, config: PredictConfig, part: int, most: int | None = None) -> Any:
    """The output of both processes."""
    in_two_processes(one_of_two, folder, config.model_dump(mode="json"), part, most)
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(2)]


def test_two_processes_share_the_parts_and_give_the_file_of_one(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PART_ROWS", 16)
    alone = predict(config_of(tmp_path / "alone", runs / "probed", task="color"))
    together = config_of(tmp_path / "together", runs / "probed", task="color")
    first, second = in_two(tmp_path, together, part=16)
    assert (first["written"], second["written"]) == ([[0, 16], [2, 16]], [[1, 16], [3, 12]])
    assert first["result"] == second["result"]
    assert first["result"]["counts"] == alone.counts
    assert (tmp_path / "together" / "predictions.csv").read_bytes() == alone.path.read_bytes()


def test_ten_parts_are_shared_equally_and_a_stopped_run_goes_on_where_it_was(runs: Path, tmp_path: Path) -> None:
    data = {"source": f"shapes:test:{MANY}", "limit": None}
    config = config_of(tmp_path / "out", runs / "tuned", data=data, batch_size=PART)
    stopped = in_two(tmp_path, config, PART, most=3)
    resumed = in_two(tmp_path, config.model_copy(update={"resume": True}), PART)
    for found in (stopped, resumed):
        shares = [sum(rows for _, rows in one["written"]) for one in found]
        assert abs(shares[0] - shares[1]) <= PART
    written = [number for found in (stopped, resumed) for one in found for number, _ in one["written"]]
    assert sorted(written) == list(range(10))  # none twice
    assert resumed[0]["result"]["rows"] == len(rows_of(tmp_path / "out" / "predictions.csv")) == MANY


def test_ten_thousand_images_are_parts_enough_for_several_processes(tmp_path: Path) -> None:
    assert len(parts.missing_parts(tmp_path, 10_000)) == 10


def test_a_part_that_cannot_be_written_ends_the_run(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = parts.write_part
    asked: list[int] = []

    def write(folder: Path, number: int, table: Any) -> None:
        asked.append(number)
        if number == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(folder, number, table)

    monkeypatch.setattr(parts, "PART_ROWS", 8)
    monkeypatch.setattr("finetune.predict.run.write_part", write)
    with pytest.raises(OSError, match="No space left"):
        predict(config_of(tmp_path / "out", runs / "probed", task="color"))
    assert asked == [0, 1]
