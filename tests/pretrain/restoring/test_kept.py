"""The decoder that a run keeps restores what the trained network restored, or is refused with a reason."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import retouch
from common.corruptions import Blur, Gaussian, Gray
from common.encoders import Encoder
from common.errors import UserError
from pretrain.gradient.decoders import DecoderConfig
from pretrain.gradient.kept import (
    CARD,
    WEIGHTS,
    decoder_folder,
    keep_decoder,
    open_objective,
    read_decoder_card,
    share_decoder,
)
from pretrain.gradient.objective import Objective
from pretrain.gradient.pretexts import Colorize, Denoise, Mask, Mixed, Pretext
from tests.pretrain.gradient.family import EVERY
from tests.pretrain.restoring.toys import SIDE, RunOf
from tests.recipe import last_checkpoint, pretraining

EncoderFor = Callable[[Pretext, str], Encoder]


@pytest.mark.parametrize(("pretext", "name"), EVERY.values(), ids=EVERY)
def test_every_objective_comes_back_bit_for_bit(
    pretext: Pretext, name: str, encoder_for: EncoderFor, photographs: Tensor, tmp_path: Path
) -> None:
    settings = DecoderConfig(width=32)
    objective = Objective(encoder_for(pretext, name), settings, pretext)
    objective.fit(photographs)
    card = keep_decoder(objective, settings, tmp_path / "decoder", source="here", encoder_sha256="1")
    state = torch.get_rng_state()
    opened, read = open_objective(tmp_path / "decoder")
    assert torch.equal(torch.get_rng_state(), state)
    assert read == card
    assert read.pretext == pretext
    assert not opened.training
    assert not any(parameter.requires_grad for parameter in opened.parameters())
    torch.manual_seed(1)
    wanted = objective.restore(photographs)[1]
    torch.manual_seed(1)
    assert torch.equal(opened.restore(photographs)[1], wanted)


def test_a_run_keeps_its_averaged_weights(tmp_path: Path) -> None:
    retouch.pretrain(pretraining(tmp_path / "run", steps=3))
    averages = load_file(last_checkpoint(tmp_path / "run") / "ema.safetensors")
    live = load_file(last_checkpoint(tmp_path / "run") / "model.safetensors")
    kept = load_file(tmp_path / "run" / "decoder" / WEIGHTS)
    assert all(torch.equal(kept[name], tensor) for name, tensor in averages.items())
    assert any(not torch.equal(kept[name], live[name]) for name in averages if name.startswith("decoder."))


def test_a_run_is_named_by_its_folder_or_by_what_is_in_it(run_of: RunOf) -> None:
    run = run_of("denoise")
    assert {decoder_folder(one) for one in (run, run / "encoder", run / "decoder")} == {run / "decoder"}
    restorer = retouch.open_restorer(run)
    assert restorer.card.source == "shapes"
    assert restorer.grid.tile == SIDE
    assert restorer(torch.rand(2, 3, 30, 21)).shape == (2, 3, 30, 21)


def test_tiles_may_have_another_size_where_the_weights_allow_it(run_of: RunOf, tmp_path: Path) -> None:
    picture = torch.rand(1, 3, 32, 32)
    larger = retouch.open_restorer(run_of("denoise"), tile=32)
    assert larger.grid.tile == 32
    assert torch.isfinite(larger(picture)).all()
    with pytest.raises(UserError, match=r"tile=12: small_cnn .*; remove tile for tiles of 16 px"):
        retouch.open_restorer(run_of("denoise"), tile=12)
    fixed = pretraining(tmp_path / "mlp", steps=1, encoder={"name": "mlp"}, decoder={"kind": "mlp"})
    retouch.pretrain(fixed)
    with pytest.raises(UserError, match=r"tile=32: the weights were learned at 16 px and fit no other size"):
        retouch.open_restorer(tmp_path / "mlp", tile=32)


def test_statistics_of_another_size_are_no_obstacle(
    encoder_for: EncoderFor, photographs: Tensor, tmp_path: Path
) -> None:
    pretext, settings = Denoise(distance="whitened"), DecoderConfig(kind="upsampler", width=32)
    objective = Objective(encoder_for(pretext, "cnn"), settings, pretext)
    keep_decoder(objective, settings, tmp_path / "decoder", source="here", encoder_sha256="1")
    assert open_objective(tmp_path / "decoder", 32)[0].encoder.image_size == 32


# ---- refused


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        (lambda images: images * 255, "divide them by 255"),
        (lambda images: (images - 0.45) / 0.22, "do not standardize them"),
        (lambda images: images * float("nan"), "they have NaN"),
        (lambda images: images[0], r"must be a torch tensor \[B 3 H W\], RGB in \[0, 1\], not \[3, 20, 24\]"),
        (lambda images: images.numpy(), r"must be a torch tensor \[B 3 H W\], RGB in \[0, 1\], not ndarray"),
    ],
    ids=["0..255", "standardized", "nan", "one image", "numpy"],
)
def test_pictures_of_another_range_are_not_restored(
    run_of: RunOf, change: Callable[[Tensor], Tensor], hint: str
) -> None:
    pictures = torch.linspace(0, 1, 3 * 20 * 24).view(1, 3, 20, 24)
    with pytest.raises(ValueError, match=hint):
        retouch.open_restorer(run_of("colorize"))(change(pictures))


def test_noise_may_leave_the_range_as_far_as_in_training(run_of: RunOf) -> None:
    pictures = torch.rand(1, 3, 20, 24, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(1, 3, 20, 24, generator=torch.Generator().manual_seed(1))
    little, much = retouch.open_restorer(run_of("denoise")), retouch.open_restorer(run_of("mixed"))
    assert (little.pretext.noise, much.pretext.noise) == (0.1, math.inf)
    assert little(pictures + 0.2 * noise).isfinite().all()
    assert much(pictures + 20 * noise).isfinite().all()
    with pytest.raises(ValueError, match="do not standardize them"):
        little(5 * (pictures - 0.5))
    for restorer in (little, much):
        with pytest.raises(ValueError, match="divide them by 255"):
            restorer(255 * pictures)
    hidden = (pictures[:, :1] > 0.5).float()
    assert much(pictures.where(hidden == 0, torch.tensor(-1e6)), hidden).isfinite().all()  # its content is ignored


@pytest.mark.parametrize(
    ("pretext", "noise"),
    [
        (Denoise(corruption=Gaussian(sigma=0.1)), 0.1),
        (Denoise(corruption=Blur()), 0.0),
        (Mixed(members=[Gaussian(sigma=0.2), Gray()]), 0.2),
        (Mask(), 0.0),
        (Colorize(), 0.0),
    ],
)
def test_how_far_noise_goes_is_known_of_each_pretext(pretext: Pretext, noise: float) -> None:
    assert pretext.noise == noise


@pytest.fixture
def run(run_of: RunOf, tmp_path: Path) -> Path:
    """A copy, to be damaged."""
    shutil.copytree(run_of("denoise"), tmp_path / "mine")
    return tmp_path / "mine"


def refused(run: Path) -> str:
    with pytest.raises(UserError) as error:
        retouch.open_restorer(run)
    return str(error.value)


def test_weights_are_checked(run: Path) -> None:
    weights = run / "decoder" / WEIGHTS
    tensors = load_file(weights)
    name = next(name for name in tensors if name.startswith("decoder.") and name.endswith(".weight"))
    for changed, why in (
        ({**tensors, name: tensors[name] + 1}, "the files have been modified (sha256 differs)"),
        ({key: tensor for key, tensor in tensors.items() if key != name}, f"{name} is missing"),
        ({**tensors, "more": tensors[name].clone()}, "more does not belong to this network"),
        ({**tensors, name: tensors[name] * torch.nan}, f"{name} is not finite"),
        ({**tensors, name: torch.zeros(1)}, f"{name} has shape [1], not "),
    ):
        save_file(changed, weights)
        assert why in refused(run)
    weights.write_bytes(b"x" * 100)
    assert "it is truncated or not safetensors" in refused(run)


def test_the_card_is_checked(run: Path) -> None:
    path = run / "decoder" / CARD
    card = json.loads(path.read_text())
    for changed, why in (
        ({**card, "schema_version": 9}, "has schema_version 9, and this Retouch reads 1 and 2"),
        ({**card, "image_size": "large"}, "is damaged (image_size)"),
        ({**card, "mean": [0.1, 0.2, 0.3]}, "have been modified"),
        ({**card, "encoder_sha256": "0"}, "and the encoder of its run come from different trainings"),
    ):
        path.write_text(json.dumps(changed))
        assert why in refused(run)
    path.write_text("{")
    assert "cannot be read" in refused(run)


def test_a_decoder_that_is_shared_is_the_same_and_one_of_the_first_version_opens(run: Path, tmp_path: Path) -> None:
    """What its images are called does not decide what it restores; the first digest covered that too."""
    card = read_decoder_card(run / "decoder")
    share_decoder(run / "decoder", tmp_path / "shared", "folder:…/pictures")
    shared = open_objective(tmp_path / "shared")[1]
    assert (shared.sha256, shared.source) == (card.sha256, "folder:…/pictures")
    path = run / "decoder" / CARD
    first = json.loads(path.read_text()) | {"schema_version": 1}
    facts = {key: value for key, value in first.items() if key not in ("sha256", "tensors", "parameters")}
    covered = json.dumps(facts, sort_keys=True).encode() + (run / "decoder" / WEIGHTS).read_bytes()
    first["sha256"] = hashlib.sha256(covered).hexdigest()
    path.write_text(json.dumps(first))
    assert retouch.open_restorer(run).card.sha256 == first["sha256"] != card.sha256
    path.write_text(json.dumps({**first, "source": "elsewhere"}))
    assert "have been modified" in refused(run)


def test_a_folder_in_a_run_does_not_use_the_decoder_of_that_run(run: Path) -> None:
    (run / "inside").mkdir()
    assert f"{run / 'inside'} is not a run of retouch pretrain" in refused(run / "inside")


def test_a_run_without_decoder_says_why_and_what_to_do(run: Path, tmp_path: Path) -> None:
    shutil.rmtree(run / "decoder")
    for one in (run, run / "encoder"):
        assert "an older version of Retouch made this run; export it again" in refused(one)
    # and what it says works: the finished run goes on, and exports again
    retouch.pretrain(str(run / "config.yaml"), f"out={run}", "resume=true")
    assert retouch.open_restorer(run).grid.tile == SIDE
    shutil.rmtree(run / "decoder")
    shutil.rmtree(run / "encoder")
    assert f"{run} is a run that has not finished: continue it with out={run} resume=true" in refused(run)
    assert "no such folder" in refused(tmp_path / "nowhere")
    assert "results.json: is a file; give the folder of a finished run" in refused(run / "results.json")
    (tmp_path / "empty").mkdir()
    assert "is not a run of retouch pretrain" in refused(tmp_path / "empty")


def test_a_method_without_decoder_is_named(tmp_path: Path) -> None:
    retouch.pretrain(
        {
            "out": str(tmp_path / "pca"),
            "data": {"source": "shapes", "image_size": 16, "limit": 40, "workers": 0},
            "fit": {"kind": "pca", "components": 4},
            "wandb": {"mode": "disabled"},
        }
    )
    assert not (tmp_path / "pca" / "decoder").exists()
    assert "a run of the linear family, which keeps no decoder" in refused(tmp_path / "pca")
