"""Several calls at once, in threads of asyncio: each ends as it would alone, and a cancelled one can go on."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Awaitable, Callable
from multiprocessing import spawn
from pathlib import Path
from typing import Any

import pytest
import torch

import retouch
from common.machine.turns import CANCELLED, WAITS, in_turn
from common.machine.workers import MAIN, without_main
from common.runs.folder import Run
from pretrain.results import Pretrained
from tests.recipe import pretraining

Calling = Callable[..., Awaitable[Pretrained]]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbs."""
    out = tmp_path_factory.mktemp("alone") / "run"
    retouch.pretrain(pretraining(out))
    return out


@pytest.fixture(autouse=True)
def _main_script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The program has a main script, as a user's has: processes that run parts of the tests have none."""
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "__spec__", None)
    monkeypatch.setattr(main, "__file__", str(tmp_path / "script.py"), raising=False)


def encoder_of(out: Path) -> bytes:
    return (out / "encoder" / "model.safetensors").read_bytes()


def lines_of(out: Path) -> list[str]:
    """The messages of a run, without times, speeds and its own folder."""
    found = [line.split(maxsplit=3)[3] for line in (out / "train.log").read_text().splitlines()]
    return [line.replace(str(out), "RUN") for line in found if " in 0." not in line and "/s" not in line]


@pytest.mark.parametrize("calling", [retouch.in_thread, asyncio.to_thread], ids=["in_thread", "to_thread"])
def test_two_calls_at_once_end_as_each_alone(
    calling: Calling, alone: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def both() -> None:
        await asyncio.gather(
            calling(retouch.pretrain, pretraining(tmp_path / "a")),
            calling(retouch.pretrain, pretraining(tmp_path / "b")),
        )

    stdout, level = sys.stdout, logging.getLogger("retouch").level
    asyncio.run(both())
    assert sys.stdout is stdout
    assert logging.getLogger("retouch").level == level
    assert set(MAIN) & spawn.get_preparation_data("one").keys()  # the program's own processes have its main module
    assert caplog.messages.count(WAITS) == 1
    for name in ("a", "b"):
        assert encoder_of(tmp_path / name) == encoder_of(alone)
        assert lines_of(tmp_path / name) == lines_of(alone)


def test_a_cancelled_call_ends_with_a_checkpoint_and_goes_on(
    alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The one that waits for its turn does not start."""
    stepped, cancelled = threading.Event(), threading.Event()
    real = Run.log

    def log(self: Run, metrics: Any, step: int) -> None:
        real(self, metrics, step)
        stepped.set()
        assert cancelled.wait(60)

    async def cancel() -> None:
        first = asyncio.create_task(retouch.in_thread(retouch.pretrain, pretraining(tmp_path / "a")))
        assert await asyncio.to_thread(stepped.wait, 60)
        second = asyncio.create_task(retouch.in_thread(retouch.pretrain, pretraining(tmp_path / "b")))
        while WAITS not in caplog.messages:
            await asyncio.sleep(0.01)
        for task in (first, second):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        cancelled.set()

    with monkeypatch.context() as patch:
        patch.setattr(Run, "log", log)
        asyncio.run(cancel())  # waits for its threads
    assert caplog.messages.count(CANCELLED) == 2
    assert "resume=true" in CANCELLED
    [checkpoint] = (tmp_path / "a" / "checkpoints").iterdir()
    assert checkpoint.name == "step-0000002"  # the first step was over
    assert not (tmp_path / "a" / "encoder").exists()
    assert not (tmp_path / "b").exists()
    assert not [record for record in caplog.records if record.name == "asyncio" and record.levelno >= logging.ERROR]
    retouch.pretrain(pretraining(tmp_path / "a", resume=True))
    assert encoder_of(tmp_path / "a") == encoder_of(alone)


def test_an_error_of_a_call_is_raised_where_it_is_awaited_and_the_next_one_starts(tmp_path: Path) -> None:
    async def wrong() -> None:
        await retouch.in_thread(retouch.pretrain, pretraining(tmp_path / "a", steps=-1))

    with pytest.raises(retouch.UserError, match="steps"):
        asyncio.run(wrong())
    assert asyncio.run(retouch.in_thread(retouch.fit, {"kind": "pca", "components": 2}, torch.rand(9, 3, 8, 8)))


def test_a_stage_that_is_called_by_one_does_not_wait_for_itself() -> None:
    with in_turn(), in_turn():
        assert asyncio.run(retouch.in_thread(int, "3")) == 3  # what takes no turn does not wait


def test_processes_of_other_threads_keep_the_main_script() -> None:
    found: dict[str, Any] = {}

    def other() -> None:
        found["other"] = spawn.get_preparation_data("one").keys()

    with without_main():
        with without_main():
            pass
        found["own"] = spawn.get_preparation_data("one").keys()
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    found["after"] = spawn.get_preparation_data("one").keys()
    assert {name: bool(set(MAIN) & keys) for name, keys in found.items()} == {
        "own": False, "other": True, "after": True,
    }  # fmt: skip
