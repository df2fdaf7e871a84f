"""Two real processes, one of which gets a signal to stop: both stop at the same step, with one checkpoint."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

import retouch
from common.machine.distributed import world
from tests.processes import in_two_processes
from tests.recipe import logged, near_means, pretraining

STEPS, TOLD_AT = 40, 10


def one_of_two(rank: int, folder: Path) -> None:
    """An undisturbed run; one whose second process, which writes nothing, gets a signal to stop; its resumption."""
    ends = {}
    with near_means(), world() as here:
        for name, changes in (("whole", {}), ("cut", {}), ("resumed", {"resume": True})):
            with pytest.MonkeyPatch.context() as patch:
                if name == "cut" and rank == 1:
                    told_at(patch, TOLD_AT)
                out = folder / ("whole" if name == "whole" else "cut")
                run = retouch.pretrain(pretraining(out, steps=STEPS, base_lr=0.01, **changes)).training
            here.barrier()  # the first process writes a moment longer
            saved = sorted(path.name for path in (out / "checkpoints").iterdir())
            ends[name] = {"step": run.step, "finished": run.finished, "saved": saved}
    (folder / f"rank-{rank}.json").write_text(json.dumps(ends))


def told_at(patch: pytest.MonkeyPatch, step: int) -> None:
    """This process gets SIGTERM in the middle of a step, counted from 0."""
    calls, real = iter(range(10**9)), torch.optim.AdamW.step

    def interrupted(self: torch.optim.AdamW, *given: Any, **named: Any) -> Any:
        if next(calls) == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, *given, **named)

    patch.setattr(torch.optim.AdamW, "step", interrupted)


@pytest.mark.slow
def test_signal_to_one_process_stops_both_at_one_step_and_nothing_is_lost(tmp_path: Path) -> None:
    in_two_processes(one_of_two, tmp_path)
    first, second = (json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2))
    last = [f"step-{STEPS:07d}"]
    assert first["whole"] == second["whole"] == {"step": STEPS, "finished": True, "saved": last}
    stop = first["cut"]["step"]
    assert first["cut"] == second["cut"] == {"step": stop, "finished": False, "saved": [f"step-{stop:07d}"]}
    assert TOLD_AT < stop < STEPS
    assert first["resumed"]["step"] == second["resumed"]["step"] == STEPS

    assert logged(tmp_path / "cut") == logged(tmp_path / "whole")
    weights = "encoder/model.safetensors"
    assert (tmp_path / "cut" / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()
