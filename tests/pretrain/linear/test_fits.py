"""One contract for every linear-family method, run through the real stage."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from common.corruptions.gray import Gray
from common.data import Batch
from common.encoders.load import load_encoder
from common.errors import UserError
from common.machine.distributed import World
from common.runs.folder import write_settings
from pretrain import export
from pretrain.in_memory import fit
from pretrain.linear.base import LinearLearner, LinearMethod
from pretrain.run import pretrain
from tests.pretrain.toys import (
    BATCH,
    EVERY,
    IMAGES,
    NETWORK,
    OTHERS,
    RESUMED,
    STEPS,
    STREAMING,
    Finished,
    images_of,
    run,
    same,
    settings,
)
from tests.recipe import last_checkpoint, logged

HERE = World(0, 1, torch.device("cpu"))


class Killed(BaseException):
    """Ends a run at once, like SIGKILL; nothing in the stage may catch it."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Finished]:
    """``finished(name)``: a method of ``EVERY`` fitted once for all tests."""
    done: dict[str, Finished] = {}

    def get(name: str) -> Finished:
        if name not in done:
            done[name] = run(settings(tmp_path_factory.mktemp(name) / "run", name))
        return done[name]

    return get


def weights(out: Path) -> bytes:
    return (out / "encoder" / "model.safetensors").read_bytes()


Runs = Callable[[str], Finished]


# ---- the contract


@pytest.mark.parametrize("name", EVERY)
def test_a_finished_run_holds_an_encoder_results_and_pictures(name: str, finished: Runs) -> None:
    out, result, _ = finished(name)
    assert result.training.finished
    assert result.encoder == out / "encoder"
    results = json.loads((out / "results.json").read_text())
    pictures = [out / "panels" / f"{picture}.png" for picture in ("atoms", "exciting")]
    if name.startswith("tca"):
        assert not any(path.exists() for path in pictures)
        return
    for path in pictures:
        with Image.open(path) as picture:
            assert min(picture.size) > 40
    atoms = [value for key, value in _settings(EVERY[name]) if key in ("atoms", "components")]
    assert [results["atoms"]] == atoms  # with mirror images, as in the settings
    assert f"{results['atoms']} atoms" in (out / "train.log").read_text()
    assert 0 <= results["unused_atoms"] <= results["atoms"]
    assert 0 < results["code"]["nonzeros"] <= results["code"]["code_size"]
    if not name.startswith("patch_dictionary"):
        assert 0 <= results["relative_reconstruction_error"] < 1
        assert list((out / "panels").glob("step-*.png"))


def _settings(values: dict[str, Any]) -> list[tuple[str, Any]]:
    """All settings, also those of ``network``."""
    return [*values.items(), *values.get("network", {}).items()]


@pytest.mark.parametrize("code", [{"code": "top_k", "top_k": 3}, {"code": "lasso", "l1": 50.0}, {"code": "triangle"}])
def test_the_storage_size_of_a_code_is_measured_on_the_exported_encoder(code: dict[str, Any], tmp_path: Path) -> None:
    values = {"kind": "patch_dictionary", "learn": "random", "network": {**NETWORK, **code}}
    out = run(settings(tmp_path / "run", "patch_dictionary-random", fit=values)).out
    results = json.loads((out / "results.json").read_text())["code"]
    codes = load_encoder(out / "encoder")(images_of("patch_dictionary-random")).flatten(1)
    mean = float((codes != 0).sum(1).double().mean())
    assert results["code_size"] == codes.shape[1]
    assert results["nonzeros"] == pytest.approx(mean, abs=0.01)
    assert results["bytes_dense"] == 4 * codes.shape[1]
    assert results["bytes_sparse"] == pytest.approx(8 * mean, abs=0.1)


@pytest.mark.parametrize("name", EVERY)
def test_the_loaded_encoder_gives_the_features_of_the_fitted_one(name: str, finished: Runs) -> None:
    out, _, fitted = finished(name)
    loaded = load_encoder(out / "encoder")
    images = images_of("")[:5]
    features = loaded(images)
    assert features.shape == (5, *loaded.map_shape)
    assert features.isfinite().all()
    assert torch.equal(features, fitted.eval()(images))
    assert len({tuple(code.flatten().tolist()) for code in features}) == 5
    assert same(loaded, fitted)


@pytest.mark.parametrize("name", [name for name in EVERY if name not in RESUMED])  # the others: by resuming, below
def test_the_same_seed_gives_the_same_encoder_bit_for_bit(name: str, finished: Runs, tmp_path: Path) -> None:
    out, result, _ = finished(name)
    again = run(settings(tmp_path / "run", name))
    assert again.result.sha256 == result.sha256
    assert weights(again.out) == weights(out)


@pytest.mark.parametrize("name", EVERY)
def test_fit_in_memory_gives_the_encoder_of_the_stage(name: str, finished: Runs) -> None:
    config = settings(Path("none"), name).method
    assert isinstance(config, LinearMethod)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    encoder = fit(
        config,
        images_of(name),
        images_of(name, OTHERS[name]) if name in OTHERS else None,
        steps=STEPS if name in STREAMING else None,
        batch_size=BATCH,
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert same(encoder, finished(name).fitted)
    assert not encoder.training
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


@pytest.mark.parametrize("name", STREAMING)
def test_the_loss_falls_from_the_first_epoch_to_the_last(name: str, finished: Runs) -> None:
    losses = [row["loss"] for row in logged(finished(name).out)]
    epoch = IMAGES // BATCH
    assert len(losses) == STEPS
    assert sum(losses[-epoch:]) < 0.98 * sum(losses[:epoch])


# ---- stopped and resumed


@pytest.mark.parametrize("name", RESUMED)
def test_a_run_cut_off_and_resumed_ends_bit_for_bit_the_same(
    name: str, finished: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, cut = LinearLearner.step, 9 if name in STREAMING else 1  # the last checkpoint is from before

    def dying(self: LinearLearner, batch: Batch, number: int) -> Any:
        if number == cut:
            raise Killed
        return step(self, batch, number)

    every = {"every": 4 if name in STREAMING else 1}
    with monkeypatch.context() as patch:
        patch.setattr(LinearLearner, "step", dying)
        with pytest.raises(Killed):
            pretrain(settings(tmp_path / "run", name, checkpoint=every))
    assert not (tmp_path / "run" / "encoder").exists()
    assert list((tmp_path / "run" / "checkpoints").glob("step-*"))
    resumed = run(settings(tmp_path / "run", name, checkpoint=every, resume=True))
    assert weights(resumed.out) == weights(finished(name).out)
    assert logged(resumed.out) == logged(finished(name).out)


@pytest.mark.parametrize("name", RESUMED)
def test_a_finished_run_keeps_no_statistics_and_can_be_resumed_all_the_same(
    name: str, finished: Runs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished(name).out, out)
    steps = STEPS if name in STREAMING else 1 + (IMAGES - 1) // BATCH
    [last] = (out / "checkpoints").iterdir()
    assert last.name == f"step-{steps:07d}"
    assert {file.name for file in last.iterdir()} == {"fitted.safetensors", "state.json"}
    with caplog.at_level(logging.INFO, "retouch"):
        again = run(settings(out, name, resume=True))
    assert f"resumed from step {steps} ({last})" in caplog.text
    assert weights(out) == weights(finished(name).out)
    assert logged(out) == logged(finished(name).out)
    for file in ("panels/atoms.png", "panels/exciting.png"):
        assert (out / file).read_bytes() == (finished(name).out / file).read_bytes()
    assert again.result.training.finished
    facts = [json.loads((where / "results.json").read_text()) for where in (out, finished(name).out)]
    assert facts[0]["relative_reconstruction_error"] == facts[1]["relative_reconstruction_error"]


def test_a_run_killed_after_its_last_step_is_finished_from_its_statistics(
    finished: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(export, "export_encoder", dying)
        with pytest.raises(Killed):
            pretrain(settings(tmp_path / "run", "pca"))
    last = last_checkpoint(tmp_path / "run")
    assert (last / "statistics.safetensors").is_file()
    assert weights(run(settings(tmp_path / "run", "pca", resume=True)).out) == weights(finished("pca").out)
    assert not (last / "statistics.safetensors").exists()


def test_a_finished_run_whose_settings_were_edited_to_take_more_steps_is_refused(
    finished: Runs, tmp_path: Path
) -> None:
    name, out = "patch_dictionary-kmeans", tmp_path / "run"
    shutil.copytree(finished(name).out, out)
    longer = settings(out, name, resume=True, steps=STEPS + 4)
    write_settings(longer)
    with pytest.raises(UserError, match="this run is finished, and cannot learn more; start over with another out"):
        pretrain(longer)


@pytest.mark.parametrize("name", ["ica", "tca-damage"])
def test_a_method_of_one_sample_is_fitted_again_on_resume(
    name: str, finished: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dying(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(export, "export_encoder", dying)
        with pytest.raises(Killed):
            pretrain(settings(tmp_path / "run", name))
    resumed = run(settings(tmp_path / "run", name, resume=True))
    assert weights(resumed.out) == weights(finished(name).out)


# ---- domains


@pytest.mark.parametrize("name", ["tca-damage", "tca-other"])
def test_tca_reports_the_discrepancy_of_the_domains_before_and_after(name: str, finished: Runs) -> None:
    out, _, fitted = finished(name)
    reported = json.loads((out / "results.json").read_text())["maximum_mean_discrepancy"]
    images = images_of(name)
    others = images_of(name, OTHERS[name]) if name in OTHERS else Gray()(images)
    assert reported["pixels"] == pytest.approx(discrepancy(images, others), rel=1e-3)
    assert reported["tca"] == pytest.approx(discrepancy(fitted(images), fitted(others)), rel=1e-2)
    assert reported["tca"] < reported["kernel_pca"]  # the same kernel code, ignoring the domains


def discrepancy(a: Tensor, b: Tensor) -> float:
    """The squared maximum mean discrepancy of all pairs, with an RBF kernel as wide as the median distance."""
    rows = torch.cat([a, b]).flatten(1).double()
    distances = torch.cdist(rows, rows)
    width = distances[torch.ones_like(distances).triu(1) > 0].median()
    kernel, n = torch.exp(-(distances**2) / (2 * width**2)), len(a)
    return float(kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean())
