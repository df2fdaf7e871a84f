"""Checkpoints: whole or absent, exact, and safe against the memory-format trap."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from common.engine.checkpoint import (
    Checkpoint,
    copy_into,
    list_checkpoints,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from common.errors import UserError
from common.files import new_folder
from tests.toys import state_at


def checkpoint(step: int) -> Checkpoint:
    return Checkpoint(state_at(step, seconds=0.1 + 0.2), {"model": {"weight": torch.full((2, 3), float(step))}})


def test_round_trip_keeps_tensors_and_floats_exactly(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, checkpoint(7), keep=2)
    loaded = load_checkpoint(path)
    assert loaded.state == checkpoint(7).state
    assert torch.equal(loaded.tensors["model"]["weight"], torch.full((2, 3), 7.0))


def test_only_the_last_k_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10):
        save_checkpoint(tmp_path, checkpoint(step), keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-0000003", "step-0000010"]


def test_the_last_is_that_of_the_largest_step_however_many_digits_it_has(tmp_path: Path) -> None:
    for step in (9_999_999, 10_000_000):
        save_checkpoint(tmp_path, checkpoint(step), keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-9999999", "step-10000000"]
    save_checkpoint(tmp_path, checkpoint(10_000_001), keep=1)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-10000001"]


def test_a_kill_while_an_old_checkpoint_is_removed_leaves_no_half_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, checkpoint(1), keep=1)

    def killed(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, checkpoint(2), keep=1)
    assert [load_checkpoint(path).state.step for path in list_checkpoints(tmp_path)] == [2]


def test_failed_write_leaves_the_old_checkpoint_and_no_rubbish(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(1), keep=2)
    with pytest.raises(RuntimeError, match="disk"), new_folder(tmp_path / "step-0000001") as beside:
        (beside / "model.safetensors").write_text("half")
        raise RuntimeError("disk full")
    assert [path.name for path in tmp_path.iterdir()] == ["step-0000001"]
    assert load_checkpoint(tmp_path / "step-0000001").state.step == 1


def test_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, checkpoint(1), keep=1)
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(UserError, match=r"step-0000001 is damaged .* remove that folder"):
        load_checkpoint(path)


def test_checkpoint_of_which_a_file_is_missing_is_named(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, checkpoint(1), keep=1)
    (path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"step-0000001 is damaged .*model\.safetensors.* remove that folder"):
        load_checkpoint(path)


def test_folder_without_state_is_not_a_checkpoint(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, checkpoint(1), keep=1)
    (path / "state.json").unlink()
    assert list_checkpoints(tmp_path) == []
    shutil.rmtree(path)


def test_copying_refuses_a_mismatch_and_names_it() -> None:
    target = {"a": torch.zeros(2), "b": torch.zeros(3)}
    for source in ({"a": torch.ones(2)}, {"a": torch.ones(2), "b": torch.ones(4)}):
        with pytest.raises(UserError, match=r"first: b"):
            copy_into(target, source, "model")
    assert torch.equal(target["a"], torch.zeros(2))


@pytest.mark.parametrize("change", ["missing", "foreign", "none"])
def test_optimizer_state_that_does_not_fit_is_refused(change: str) -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    saved = optimizer_tensors(optimizer, model)
    if change == "missing":
        del saved["exp_avg/bias"]
    elif change == "foreign":
        saved["exp_avg/other"] = torch.zeros(2)
    else:
        saved = {}
    name = {"missing": "exp_avg/bias", "foreign": "exp_avg/other", "none": "exp_avg/bias"}[change]
    with pytest.raises(UserError, match=rf"optimizer does not fit this run \(first: {name}\)"):
        restore_optimizer(torch.optim.AdamW(model.parameters()), model, saved)


def test_restored_optimizer_continues_bit_for_bit_under_channels_last(tmp_path: Path) -> None:
    """Fused AdamW on CPU walks raw memory: state that came back contiguous would be paired with the wrong weights."""

    def fresh() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 4))
        model.to(memory_format=torch.channels_last)
        return model, torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
        torch.manual_seed(number)
        model(torch.randn(4, 3, 8, 8)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    model, optimizer = fresh()
    for number in range(2):
        step(model, optimizer, number)
    groups = {"model": model.state_dict(), "optimizer": optimizer_tensors(optimizer, model)}
    path = save_checkpoint(tmp_path, Checkpoint(state_at(2), groups), keep=1)
    step(model, optimizer, 2)

    resumed, resumed_optimizer = fresh()
    loaded = load_checkpoint(path)
    copy_into(resumed.state_dict(), loaded.tensors["model"], "model")
    restore_optimizer(resumed_optimizer, resumed, loaded.tensors["optimizer"])
    step(resumed, resumed_optimizer, 2)

    for left, right in zip(model.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(left, right)
        assert resumed_optimizer.state[right]["exp_avg"].stride() == right.stride()
