"""Features: extraction, caching, and when they are recomputed."""

from __future__ import annotations

import dataclasses
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from common.corruptions import Gaussian
from common.data import Images
from common.encoders import EncoderConfig, build_encoder
from common.errors import UserError
from common.pixels import to_float
from finetune.features import Extraction, FeatureKey, Features, cached_features, extract, feature_key, layer_shapes
from finetune.pooling import Part, Space, build_spaces, pool
from tests.finetune.toys import BrightSource, HalvingEncoder, bright_images

CPU = torch.device("cpu")
HOW = Extraction(CPU, torch.float32, batch_size=16, workers=0)
PARTS = [Part(0, "avg2"), Part(1, "avg"), Part(1, "max")]
KEY = FeatureKey("e", "rgb", "s", "train", None, "r", 8, ("0.avg",), "float32", "cpu")


def test_one_pass_gives_every_layer_and_pooling() -> None:
    encoder, images = HalvingEncoder(), bright_images(40)
    encoder.passes = 0
    features = extract(encoder, images, PARTS, HOW)
    assert encoder.passes == 3  # batches of 16, 16 and 8, once each
    with torch.no_grad():
        maps = encoder.layers(to_float(images.rows(torch.arange(40))))
    for part in PARTS:
        torch.testing.assert_close(features.parts[part], pool(maps[part.layer], part.pooling))
    assert features.index.tolist() == list(range(40))


def test_unreadable_images_are_skipped_and_nothing_is_cached(tmp_path: Path) -> None:
    whole, encoder = bright_images(20), HalvingEncoder()
    expected = extract(encoder, whole, PARTS, HOW)

    class Spoiled(BrightSource):
        def image(self, index: int) -> Image.Image | torch.Tensor:
            if index in (0, 7):
                raise OSError("broken")
            return super().image(index)

    lazy = Images(Spoiled(20), 8, torch.arange(20))
    key = feature_key(encoder, "sha", lazy, "train", None, PARTS, HOW)
    found = cached_features(tmp_path, key, encoder, lazy, PARTS, HOW)
    assert found.index.tolist() == [row for row in range(20) if row not in (0, 7)]
    for part in PARTS:
        torch.testing.assert_close(found.parts[part], expected.parts[part][found.index])
    assert not list(tmp_path.rglob("*.safetensors"))  # unreadable images may be readable next time


class DividesByZero(HalvingEncoder):
    """Bright images overflow in the second layer."""

    def layers(self, images: torch.Tensor) -> list[torch.Tensor]:
        maps = super().layers(images)
        dark = (images[:, :, :4, :4].mean(dim=(1, 2, 3)) < 0.37)[:, None, None, None]
        return [maps[0], torch.where(dark, maps[1], torch.inf)]


def test_infinite_features_are_refused_with_their_layers_and_the_first_image(tmp_path: Path) -> None:
    images, encoder = bright_images(30), DividesByZero()  # class 0, every third image, is bright in the first quarter
    with pytest.raises(UserError) as refused:
        extract(encoder, images, PARTS, HOW)
    assert refused.value.problems == (
        "layer 1, avg: 10 of 30 images, first bright[0]",
        "layer 1, max: 10 of 30 images, first bright[0]",
    )
    assert refused.value.title.startswith("halving gives NaN or infinite features")
    rest = Images(images.source, 8, torch.tensor([1, 2, 4, 6]), images.source.pixels[[1, 2, 4, 6]])  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"1 of 4 images, first bright\[6\]"):
        extract(encoder, rest, PARTS, HOW)
    key = feature_key(encoder, "sha", images, "train", None, PARTS, HOW)
    with pytest.raises(UserError, match="infinite"):
        cached_features(tmp_path, key, encoder, images, PARTS, HOW)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_cache_with_nan_features_is_refused(tmp_path: Path) -> None:
    images, encoder = bright_images(20), HalvingEncoder()
    key = feature_key(encoder, "sha", images, "train", None, PARTS, HOW)
    cached_features(tmp_path, key, encoder, images, PARTS, HOW)
    [path] = tmp_path.rglob("*.safetensors")
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    tensors[PARTS[1].name][5] = torch.nan
    path.unlink()  # the tensors that were read are views of the old file
    save_file(tensors, path, metadata={"key": key.text})
    with pytest.raises(UserError, match=r"layer 1, avg: 1 of 20 images, first bright\[5\]"):
        cached_features(tmp_path, key, encoder, images, PARTS, HOW)


def test_the_encoder_is_set_to_eval_mode() -> None:
    encoder = HalvingEncoder().train()
    extract(encoder, bright_images(16), PARTS, HOW)
    assert not encoder.training


def test_a_space_is_its_parts_concatenated() -> None:
    features = Features({Part(0, "avg"): torch.ones(3, 2), Part(1, "max"): torch.zeros(3, 1)}, torch.arange(3))
    space = Space((0, 1), ("avg", "max"), (Part(0, "avg"), Part(1, "max")), 3)
    assert features.matrix(space).tolist() == [[1, 1, 0]] * 3
    matrix = features.matrix(space, torch.tensor([1]))
    assert matrix.shape == (1, 3)
    matrix.zero_()  # standardized in place later: the stored features must not change
    assert features.parts[Part(0, "avg")].eq(1).all()


def test_damage_is_applied_and_depends_only_on_the_seed() -> None:
    encoder, images = HalvingEncoder(), bright_images(20)
    clean = extract(encoder, images, PARTS, HOW).parts[PARTS[0]]
    noisy = [extract(encoder, images, PARTS, HOW, Gaussian(sigma=0.2), seed).parts[PARTS[0]] for seed in (1, 1, 2)]
    assert torch.equal(noisy[0], noisy[1])
    assert not torch.equal(noisy[0], noisy[2])
    assert not torch.equal(noisy[0], clean)


def test_cached_features_equal_fresh_ones_without_a_second_pass(tmp_path: Path) -> None:
    encoder, images = HalvingEncoder(), bright_images()
    key = feature_key(encoder, "sha", images, "train", None, PARTS, HOW)
    fresh = cached_features(tmp_path, key, encoder, images, PARTS, HOW)
    encoder.passes = 0
    again = cached_features(tmp_path, key, encoder, images, PARTS, HOW)
    assert encoder.passes == 0
    uncached = extract(encoder, images, PARTS, HOW)
    for part in PARTS:
        assert torch.equal(fresh.parts[part], again.parts[part])
        assert torch.equal(uncached.parts[part], again.parts[part])
    assert torch.equal(again.index, fresh.index)


@pytest.mark.parametrize("damage", [b"", b"not safetensors at all", None], ids=["empty", "foreign", "cut short"])
def test_a_damaged_cache_file_is_recomputed_and_replaced(
    damage: bytes | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    encoder, images = HalvingEncoder(), bright_images()
    key = feature_key(encoder, "sha", images, "train", None, PARTS, HOW)
    good = cached_features(tmp_path, key, encoder, images, PARTS, HOW)
    expected = good.parts[PARTS[0]].clone()
    path = tmp_path / "features" / f"{key.digest}.safetensors"
    whole = path.read_bytes()
    path.unlink()  # the tensors above are a view of the old file
    path.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    with caplog.at_level(logging.WARNING, logger="retouch"):
        again = cached_features(tmp_path, key, encoder, images, PARTS, HOW)
    assert "recomputing features" in caplog.text
    assert torch.equal(again.parts[PARTS[0]], expected)
    assert path.read_bytes() == whole


def test_a_cache_that_is_closed_to_us_does_not_end_a_probe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    encoder, images = HalvingEncoder(), bright_images(20)
    key = feature_key(encoder, "sha", images, "train", None, PARTS, HOW)
    stat = os.stat

    def closed(path: Path, **options: bool) -> os.stat_result:
        if Path(path).parent == tmp_path / "features":
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", closed)  # root, as whom tests may run, can open every folder
    assert len(cached_features(tmp_path, key, encoder, images, PARTS, HOW)) == 20


def test_a_cache_that_cannot_be_written_only_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "features").write_text("a file where the folder should be")
    encoder, images = HalvingEncoder(), bright_images()
    key = feature_key(encoder, "sha", images, "train", None, PARTS, HOW)
    with caplog.at_level(logging.WARNING, logger="retouch"):
        features = cached_features(tmp_path, key, encoder, images, PARTS, HOW)
    assert len(features) == len(images)
    assert "not cached" in caplog.text
    assert "set RETOUCH_CACHE or cache_folder to another folder" in caplog.text


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(FeatureKey)])
def test_every_part_of_the_key_changes_the_file(field: str) -> None:
    value = getattr(KEY, field)
    other = (
        value + 1
        if isinstance(value, int)
        else ("1.avg",)
        if isinstance(value, tuple)
        else 7
        if value is None
        else f"{value}x"
    )
    changed: dict[str, Any] = {field: other}
    assert dataclasses.replace(KEY, **changed).digest != KEY.digest
    assert dataclasses.replace(KEY).digest == KEY.digest


def test_the_key_depends_on_encoder_images_and_precision() -> None:
    encoder, images = HalvingEncoder(), bright_images()

    def digest(**changes: object) -> str:
        given = {"encoder": encoder, "sha256": "a", "images": images, "split": "train", "limit": None, "parts": PARTS}
        return feature_key(**{**given, "how": HOW, **changes}).digest  # type: ignore[arg-type]

    fewer = bright_images()
    fewer.kept = fewer.kept[:50]
    others = [
        digest(sha256="b"),
        digest(images=bright_images(seed=1)),
        digest(images=fewer),
        digest(split="test"),
        digest(limit=60),
        digest(parts=PARTS[:1]),
        digest(how=dataclasses.replace(HOW, precision=torch.bfloat16)),
    ]
    assert len({digest(), *others}) == 1 + len(others)
    assert digest(how=dataclasses.replace(HOW, batch_size=3)) == digest()


def test_shapes_at_another_size_are_measured_and_refusals_name_the_key(caplog: pytest.LogCaptureFixture) -> None:
    encoder = HalvingEncoder(8)
    layer_shapes(encoder, 8)
    assert caplog.messages == []
    assert layer_shapes(encoder, 16) == [(3, 8, 8), (3, 4, 4)]
    [said] = caplog.messages
    assert said.startswith("data.image_size=16, but ")
    assert said.endswith(" was built for images of 8 px; it sees objects at a scale it was not trained on")
    with pytest.raises(UserError, match=r"data\.image_size=1"):
        layer_shapes(encoder, 1)


def test_an_encoder_of_one_size_says_so_when_another_is_asked_for() -> None:
    linear = build_encoder(EncoderConfig(name="linear", model_args={"code": 4}), image_size=8)
    with pytest.raises(UserError) as caught:
        layer_shapes(linear, 16)
    assert str(caught.value) == (
        "data.image_size=16: linear does not support this size: it encodes images of 8 px only, not 16x16; "
        "remove data.image_size"
    )


def test_the_search_space_of_an_encoder_can_be_extracted() -> None:
    encoder = HalvingEncoder()
    spaces, _ = build_spaces(encoder.layer_shapes, ["each", "all"], ["avg+avg2+max", "flatten"], 10_000)
    parts = sorted({part for space in spaces for part in space.parts})
    features = extract(encoder, bright_images(10), parts, HOW)
    for space in spaces:
        assert features.matrix(space).shape == (10, space.width)
