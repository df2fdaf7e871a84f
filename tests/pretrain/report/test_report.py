"""Reports of pretraining; neither they nor fitted statistics need more memory for larger images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import pretrain.run as stage
from common.config import validate
from common.data import Images, build_source, load_images
from common.encoders import EncoderConfig, build_encoder
from common.encoders.load import load_encoder
from common.engine.learner import Learner
from common.engine.loop import Trained
from common.pixels import CHUNK_PIXELS, to_float
from pretrain.config import PretrainConfig
from pretrain.gradient.decoders import DecoderConfig
from pretrain.gradient.objective import Objective
from pretrain.gradient.pretexts import Identity
from pretrain.sample import SAMPLE_BYTES, sample


class Sized:
    """Any number of images of a given side, never decoded."""

    def __init__(self, length: int, size: int) -> None:
        self.length, self.size = length, size

    def __len__(self) -> int:
        return self.length

    def rows(self, index: Tensor) -> Tensor:
        self.asked = index
        return torch.zeros(len(index), 3, 1, 1)


@pytest.mark.parametrize(("size", "count"), [(8, 2048), (32, 2048), (128, 1365), (1024, 21)])
def test_the_sample_is_evenly_spread_and_bounded_by_bytes(size: int, count: int) -> None:
    images = Sized(5000, size)
    sample(cast(Images, images))
    gaps = images.asked.diff()
    assert images.asked[[0, -1]].tolist() == [0, 4999]
    assert len(images.asked) == count
    assert gaps.max() - gaps.min() <= 1
    assert len(images.asked) * 3 * size**2 * 4 <= SAMPLE_BYTES


def settings(out: Path, **changes: Any) -> PretrainConfig:
    values: dict[str, Any] = {
        "out": out,
        "steps": 2,
        "batch_size": 8,
        "data": {"source": "shapes", "image_size": 16, "limit": 40, "workers": 0},
        "encoder": {"name": "small_cnn", "model_args": {"width": 8, "depth": 1}},
        "decoder": {"width": 32},
        "wandb": {"mode": "disabled"},
    }
    return validate(PretrainConfig, values | changes)


@pytest.mark.parametrize(
    ("pretext", "read"),
    [({"kind": "denoise"}, []), ({"kind": "denoise", "distance": "whitened"}, [40])],
    ids=["nothing-to-fit", "spectrum"],
)
def test_images_are_read_only_for_fits_and_reports(
    pretext: dict[str, Any], read: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    rows = Images.rows

    def counted(images: Images, index: Tensor) -> Tensor:
        asked.append(len(index))
        return rows(images, index)

    monkeypatch.setattr(Images, "rows", counted)

    def stopped(learner: Learner, *_: Any, **__: Any) -> Trained:
        learner.start()
        return Trained(0, 2, False, 0.0, None, None)

    monkeypatch.setattr(stage, "learn", stopped)
    stage.pretrain(settings(tmp_path / "run", pretext=pretext))
    assert asked == read


def test_codes_are_computed_for_a_few_images_at_a_time() -> None:
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig(name="mlp", model_args={"hidden": [], "code": 8, "top_k": 2}), image_size=16)
    model = Objective(encoder, DecoderConfig(kind="linear"), Identity()).eval()
    images = torch.rand(1500, 3, 16, 16)
    seen: list[int] = []
    hook: Any = lambda _, inputs: seen.append(len(inputs[0]))  # noqa: E731
    assert isinstance(encoder, nn.Module)
    with encoder.register_forward_pre_hook(hook):
        explained = model.explain(images)
    assert explained is not None
    assert sum(seen) == 1500
    assert max(seen) <= CHUNK_PIXELS // 16**2 < 1500
    torch.testing.assert_close(explained.codes, encoder(images).detach().flatten(1))
    torch.testing.assert_close(explained.patches, images)
    restored = model.reconstruct(images)
    assert restored is not None
    torch.testing.assert_close(restored, model.decoder(encoder.layers(images)).detach())


def test_a_convolutional_code_is_counted_per_image(tmp_path: Path) -> None:
    """Atoms belong to cells, but the exported code is a map of them."""
    encoder = {"name": "small_cnn", "model_args": {"width": 8, "depth": 1, "code_channels": 16, "top_k": 3}}
    config = settings(tmp_path / "run", encoder=encoder, pretext={"kind": "identity"})
    stage.pretrain(config)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    images = load_images(build_source("shapes"), 16, limit=40)
    codes = load_encoder(tmp_path / "run" / "encoder")(to_float(images.rows(torch.arange(40)))).flatten(1)
    assert codes.shape[1] > 16
    assert results["atoms"] == 16
    assert results["code"]["code_size"] == codes.shape[1]
    assert results["code"]["nonzeros"] == pytest.approx(float(codes.count_nonzero()) / 40, abs=0.01)
    assert results["code"]["bytes_dense"] == 4 * codes.shape[1]
    assert results["code"]["bytes_sparse"] == pytest.approx(8 * results["code"]["nonzeros"], abs=0.1)
    assert 0 < results["relative_reconstruction_error"] < 10


def test_a_decoder_that_gives_no_image_has_no_reconstruction_error(tmp_path: Path) -> None:
    stage.pretrain(settings(tmp_path / "run", pretext={"kind": "colorize", "objective": "regression"}))
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["relative_reconstruction_error"] is None
    assert results["atoms"] is None
    assert results["code"]["code_size"] > 0


@pytest.mark.parametrize("images", [1, 4])
@pytest.mark.parametrize(
    "method",
    [{"pretext": {"kind": "denoise"}}, {"pretext": {"kind": "identity"}, "encoder": {"name": "linear"}}],
    ids=["denoise", "linear"],
)
def test_images_that_are_all_alike_are_learned_without_a_relative_error(
    method: dict[str, Any], images: int, tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    picture = Image.effect_mandelbrot((16, 16), (-2, -1, 1, 1), 50).convert("RGB")
    for number in range(images):
        picture.save(tmp_path / "photos" / f"{number}.png")
    data = {"source": f"folder:{tmp_path / 'photos'}", "image_size": 16, "workers": 0}
    stage.pretrain(settings(tmp_path / "run", data=data, **method))
    assert load_encoder(tmp_path / "run" / "encoder").encode(torch.rand(1, 3, 16, 16)).isfinite().all()
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["relative_reconstruction_error"] is None
