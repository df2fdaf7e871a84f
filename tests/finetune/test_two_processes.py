"""Fine-tuning in two real processes (gloo), with the default comparisons."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import torch
import torch.distributed as dist

from common.encoders import EncoderConfig, build_encoder
from common.encoders.export import export_encoder
from finetune.config import FinetuneConfig
from finetune.full import finetune
from tests.processes import in_two_processes


def one_of_two(rank: int, folder: Path) -> None:
    logger = logging.getLogger("retouch")
    logger.setLevel(logging.INFO)
    logger.addHandler(logging.FileHandler(folder / f"said-{rank}.txt"))
    joined: list[str] = []
    real = dist.init_process_group
    dist.init_process_group = lambda *given, **named: joined.append("group") or real(*given, **named)
    values = {
        "out": folder / "run",
        "encoder": folder / "encoder",
        "steps": 2,
        "batch_size": 16,
        "precision": "float32",
        "data": {"train": "shapes", "task": "color", "limit": 100, "test_limit": 40, "workers": 0},
        "wandb": {"mode": "disabled"},
    }
    result = finetune(FinetuneConfig.model_validate(values))
    found = None if result is None else result.model_dump(mode="json")
    (folder / f"rank-{rank}.json").write_text(json.dumps({"result": found, "joined": joined}))


def test_only_the_first_process_tests_and_logs_and_the_group_is_joined_once(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = EncoderConfig(model_args={"width": 4, "depth": 1})
    export_encoder(build_encoder(small, image_size=16), tmp_path / "encoder")
    in_two_processes(one_of_two, tmp_path)
    first, second = (json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2))
    assert first["joined"] == second["joined"] == ["group"]
    assert second["result"] is None
    assert first["result"] == json.loads((tmp_path / "run" / "results.json").read_text())
    scratch = json.loads((tmp_path / "run" / "from_scratch" / "results.json").read_text())
    # a linear probe runs in one process, and skipping it is logged
    assert first["result"]["linear_probe"] is None
    said = [(tmp_path / f"said-{rank}.txt").read_text().count("linear_probe: skipped") for rank in range(2)]
    assert said == [1, 0]
    assert first["result"]["from_scratch"] == scratch["tuned"]
