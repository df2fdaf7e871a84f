"""Two real processes (gloo): bit-equal with each other, and equal to one process at the same global batch."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from common.data import Loader
from common.engine.gradient import GradientLearner
from common.engine.loop import learn
from common.errors import UserError
from common.machine.distributed import World, world
from common.runs.folder import open_run
from tests.processes import in_two_processes
from tests.toys import Example, ToyAutoencoder, loop_config, noise_images


def clean(images: Tensor) -> Example:
    images = images.float() / 255
    return images, images


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("fails", [False, True])
def test_the_others_wait_until_rank_0_is_done_or_has_failed(
    monkeypatch: pytest.MonkeyPatch, rank: int, fails: bool
) -> None:
    events: list[str] = []
    monkeypatch.setattr(World, "barrier", lambda self: events.append("barrier"))
    with contextlib.suppress(UserError), World(rank, 2, torch.device("cpu")).main_first():
        events.append("work")
        if fails:
            raise UserError("no such source")
    assert events == [["work", "barrier"], ["barrier", "work"]][rank]


def train_here(
    here: World, out: Path, prepare: Callable[[Tensor], Example] = clean, **changes: Any
) -> dict[str, Tensor]:
    """The identity task without BatchNorm, dropout or random damage: all processes together do what one does."""
    config = loop_config(out, accumulate=2, **changes)
    torch.manual_seed(0)
    model = ToyAutoencoder(norm=False, dropout=0.0, prepare=prepare)
    loader = Loader(noise_images(), batch_size=config.batch_size, seed=0, rank=here.rank, world=here.size)
    with open_run(config, here) as run:
        learn(GradientLearner(model, config, here), loader, config, run, title="toy")
    return {name: tensor.contiguous() for name, tensor in model.state_dict().items()}


def killed_in_step(step: int) -> Callable[[Tensor], Example]:
    """``clean`` of two micro-batches a step, until all processes die."""
    calls = iter(range(10**6))

    def prepare(images: Tensor) -> Example:
        if next(calls) == 2 * step:
            raise KeyboardInterrupt
        return clean(images)

    return prepare


def one_of_two(rank: int, folder: Path) -> None:
    with world() as here:
        save_file(train_here(here, folder / "run"), folder / f"rank-{rank}.safetensors")
        with contextlib.suppress(KeyboardInterrupt):
            train_here(here, folder / "cut", killed_in_step(6))
        save_file(train_here(here, folder / "cut", resume=True), folder / f"resumed-{rank}.safetensors")
    tasks = Path("/proc/self/task")  # Linux alone tells
    threads = [(task / "comm").read_text().strip() for task in tasks.iterdir()] if tasks.is_dir() else []
    (folder / f"threads-{rank}.txt").write_text("\n".join(threads))


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    in_two_processes(one_of_two, tmp_path)
    first, second = (load_file(tmp_path / f"rank-{rank}.safetensors") for rank in range(2))
    resumed = load_file(tmp_path / "resumed-0.safetensors")
    alone = train_here(World(0, 1, torch.device("cpu")), tmp_path / "alone")
    for name, tensor in alone.items():
        assert torch.equal(first[name], second[name]), name
        assert torch.equal(first[name], resumed[name]), name
        assert torch.allclose(first[name], tensor, atol=1e-5), name
    # threads of a group that is left are gone with it: one that met the end of the interpreter would abort the process
    left = [(tmp_path / f"threads-{rank}.txt").read_text() for rank in range(2)]
    assert not any("gloo" in names for names in left), left
    assert len(logged(tmp_path / "run")) == 3  # rank 0 alone wrote
    # the means of both processes are logged, which are those of one at the same batch
    for row, expected in zip(logged(tmp_path / "run"), logged(tmp_path / "alone"), strict=True):
        assert row == pytest.approx(expected, rel=1e-4)
    assert logged(tmp_path / "cut") == logged(tmp_path / "run")  # the means of both, also where a checkpoint cuts them


def logged(folder: Path) -> list[tuple[float, ...]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [tuple(row[name] for name in ("step", "loss", "loss/restore", "grad_norm")) for row in rows]


def test_batch_that_cannot_be_shared_is_refused(tmp_path: Path) -> None:
    config = loop_config(tmp_path / "run", batch_size=6)
    with pytest.raises(UserError, match="cannot be shared evenly by 4 processes"):
        Loader(noise_images(), batch_size=config.batch_size, seed=0, rank=0, world=4)
