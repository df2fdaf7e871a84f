"""Predictions shared by two real processes (gloo)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune.predict import parts
from finetune.predict.config import PredictConfig
from finetune.predict.run import predict
from tests.finetune.predict.runs import config_of
from tests.processes import in_two_processes


def one_of_two(rank: int, folder: Path, values: dict[str, Any]) -> None:
    parts.PART_ROWS = 16
    written: list[int] = []
    real = parts.write_part

    def write(at: Path, number: int, table: Any) -> None:
        written.append(number)
        real(at, number, table)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("finetune.predict.run.write_part", write)
        found = predict(PredictConfig.model_validate(values))
    said = {"result": found.model_dump(mode="json"), "written": written}
    (folder / f"rank-{rank}.json").write_text(json.dumps(said))


def test_two_processes_share_the_parts_and_give_the_file_of_one(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PART_ROWS", 16)
    alone = predict(config_of(tmp_path / "alone", runs / "probed", task="color"))
    together = config_of(tmp_path / "together", runs / "probed", task="color")
    in_two_processes(one_of_two, tmp_path, together.model_dump(mode="json"))
    first, second = (json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2))
    assert (first["written"], second["written"]) == ([0, 2], [1, 3])
    assert first["result"] == second["result"]
    assert first["result"]["counts"] == alone.counts
    assert (tmp_path / "together" / "predictions.csv").read_bytes() == alone.path.read_bytes()
