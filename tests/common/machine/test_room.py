"""Batches that cannot fit in memory are refused, with what they need and what is free; those that fit are not."""

from __future__ import annotations

import pytest
import torch

from common.errors import UserError
from common.machine.distributed import World
from common.machine.room import check_pass_batch, check_training_batch

IMAGE = 3 * 32**2  # bytes of a decoded image
ALONE = World(0, 1, torch.device("cpu"))


def free(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr("common.machine.room.available_memory", lambda: size)


def test_a_batch_is_refused_with_what_it_needs_what_is_free_and_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 8 << 30)
    with pytest.raises(UserError) as refused:
        check_training_batch(10**9, 32, ALONE)
    # 15 bytes x 1024 pixels x 10^9 = 13.97 TiB
    assert str(refused.value) == (
        "batch_size: the images of a batch of 1,000,000,000 at 32 px take 14.0 TiB of memory, but only 8.0 GiB is "
        "free; set batch_size to at most 559,240, or lower data.image_size"
    )


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_batch_that_fits_by_one_byte_is_not_refused(accumulate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    need = (1 + 4 / accumulate) * 400 * IMAGE  # uint8, and float32 of one micro-batch
    free(monkeypatch, int(need))
    check_training_batch(400, 32, ALONE, accumulate)
    free(monkeypatch, int(need) - 1)
    with pytest.raises(UserError, match="a batch of 400 at 32 px"):
        check_training_batch(400, 32, ALONE, accumulate)


def test_on_a_gpu_only_decoded_images_take_this_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 400 * IMAGE)
    check_training_batch(400, 32, World(0, 1, torch.device("cuda")))


def test_processes_on_other_machines_hold_their_share_there(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 5 * 200 * IMAGE)
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    here = World(0, 4, torch.device("cpu"))
    check_training_batch(400, 32, here)  # 200 here
    check_pass_batch(100, 1000, 32, here)  # each of two processes has batches of its own
    for check in (lambda: check_training_batch(404, 32, here), lambda: check_pass_batch(101, 1000, 32, here)):
        with pytest.raises(UserError, match="batch_size"):
            check()


def test_a_pass_over_few_images_fits_whatever_its_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 5 * 10 * IMAGE)
    check_pass_batch(10**9, 10, 32, ALONE)
    with pytest.raises(UserError, match="a batch of 11 at 32 px"):
        check_pass_batch(10**9, 11, 32, ALONE)
