"""What a pretext learned from the images before the first step comes back from the checkpoint, not from the images."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.cluster import MiniBatchKMeans

import retouch
from pretrain.gradient.objective import Objective
from tests.recipe import Killed, kill_at, last_checkpoint, logged, pretraining

PRETEXTS: dict[str, dict[str, Any]] = {
    "whitened": {"kind": "denoise", "distance": "whitened"},
    "colorize": {"kind": "colorize", "bins": 8},
}
FITTED = {"whitened": "state_spectrum", "colorize": "state_centers"}


def settings(out: Path, name: str, **changes: Any) -> dict[str, Any]:
    return pretraining(out, pretext=PRETEXTS[name], checkpoint={"every": 2}, **changes)


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tensors that were fitted to images, in order."""
    made: list[str] = []
    fit, cluster = Objective.fit, MiniBatchKMeans.fit

    def counted(self: Objective, *given: Any, **named: Any) -> None:
        made.append("objective")
        fit(self, *given, **named)

    def clustered(self: MiniBatchKMeans, *given: Any, **named: Any) -> Any:
        made.append("k-means")
        return cluster(self, *given, **named)

    monkeypatch.setattr(Objective, "fit", counted)
    monkeypatch.setattr(MiniBatchKMeans, "fit", clustered)
    return made


@pytest.mark.parametrize("name", PRETEXTS)
def test_killed_run_goes_on_bit_for_bit_with_what_it_had_fitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fits: list[str], name: str
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    retouch.pretrain(settings(whole, name))
    once = {"whitened": ["objective"], "colorize": ["objective", "k-means"]}[name]
    assert fits == once

    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 5)
        retouch.pretrain(settings(cut, name))
    assert last_checkpoint(cut).name == "step-0000004"
    assert not (cut / "encoder").exists()
    fits.clear()
    with caplog.at_level(logging.INFO, "retouch"):
        retouch.pretrain(settings(cut, name, resume=True))
    assert fits == []
    assert "resumed from step 4" in caplog.text  # the last checkpoint of two
    assert logged(cut) == logged(whole)
    for file in ("encoder/model.safetensors", "checkpoints/step-0000008/model.safetensors"):
        assert (cut / file).read_bytes() == (whole / file).read_bytes(), file


@pytest.mark.parametrize("name", PRETEXTS)
def test_statistics_of_the_checkpoint_are_those_that_are_used(tmp_path: Path, name: str) -> None:
    """A checkpoint whose statistics were changed by hand gives other losses."""
    retouch.pretrain(settings(tmp_path / "run", name, steps=4))
    before = logged(tmp_path / "run")
    last = last_checkpoint(tmp_path / "run")
    for file in last.iterdir():
        file.unlink()
    last.rmdir()
    path = last_checkpoint(tmp_path / "run") / "model.safetensors"
    tensors = load_file(path)
    changed = {"whitened": "state_spectrum", "colorize": "state_rarity"}[name]
    assert tensors[changed].ne(1).any()  # fitted
    tensors[changed] *= 0.5
    save_file(tensors, path)
    retouch.pretrain(settings(tmp_path / "run", name, steps=4, resume=True))
    after = logged(tmp_path / "run")
    assert after[:2] == before[:2]
    factor = {"whitened": 2.0, "colorize": 0.5}[name]
    assert after[2]["loss"] == pytest.approx(factor * before[2]["loss"], rel=1e-4)


@pytest.mark.parametrize("name", PRETEXTS)
def test_fitted_statistics_are_not_averaged_away(tmp_path: Path, name: str) -> None:
    """Averages start when everything is fitted, not from the blank state."""
    retouch.pretrain(settings(tmp_path / "run", name, steps=2))
    last = last_checkpoint(tmp_path / "run")
    live, averaged = (load_file(last / f"{group}.safetensors")[FITTED[name]] for group in ("model", "ema"))
    assert torch.allclose(live, averaged, rtol=1e-5)
