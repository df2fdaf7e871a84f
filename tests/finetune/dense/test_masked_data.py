"""The data of a probe of masks: which images and classes there are, and what is refused before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from common.data.images import kept_rows
from common.data.masks import look_at_masks
from common.encoders import EncoderConfig, build_encoder
from common.encoders.export import export_encoder
from finetune import seeds
from finetune.dense.data import load_masked, open_masked
from finetune.multilabel.data import ProbeData
from tests.finetune.dense.masked_pictures import SIZE, config_of, pictures
from tests.finetune.probing import refusal


def test_without_a_test_set_a_fifth_is_held_out_with_its_masks(here: Path) -> None:
    data = ProbeData(train=str(here / "train/images"), masks=str(here / "train/masks"), workers=0)
    sources = open_masked(data, SIZE, seed=0)
    assert (len(sources.images.train), len(sources.images.test)) == (48, 12)
    assert sources.classes.names == ("0", "1", "2")
    for images, masks in zip(sources.images, sources.masks, strict=True):
        for row in range(len(images)):
            assert Path(images.where(row)).name == Path(masks.where(row)).name
    assert open_masked(data, SIZE, seed=1).images.train.fingerprint != sources.images.train.fingerprint


def test_unreadable_images_are_left_out_with_their_masks(here: Path, tmp_path: Path) -> None:
    pictures(tmp_path, 20, 0)
    (tmp_path / "images/3.png").write_bytes(b"no image")
    data = ProbeData(
        train=str(tmp_path / "images"), masks=str(tmp_path / "masks"), test=str(here / "test/images"),
        test_masks=str(here / "test/masks"), workers=0,
    )  # fmt: skip
    found = load_masked(open_masked(data, SIZE, 0), data, SIZE, 0)
    assert len(found.train.images) == len(found.present) == 19
    for row in range(19):
        name = Path(found.train.images.where(row)).name
        mask = np.asarray(Image.open(tmp_path / "masks" / name))[:, 2:18].astype(int)
        expected = np.where(mask == 255, -1, mask)
        assert np.array_equal(found.train.truth(torch.tensor([row]))[0].numpy(), expected)


def numbered(folder: Path, names: Path, values: Sequence[int]) -> str:
    """Masks for the images of a folder, each of all these numbers."""
    folder.mkdir()
    for path in names.iterdir():
        mask = np.resize(np.array(values, np.uint8), (SIZE, SIZE + 4))
        Image.fromarray(mask).save(folder / f"{path.stem}.png")
    return str(folder)


def test_one_class_is_refused_with_a_hint_about_what_is_ignored(here: Path, tmp_path: Path) -> None:
    masks = numbered(tmp_path / "a", here / "train/images", [0, 255])
    found = refusal(config_of, here, tmp_path / "out", data={"masks": masks, "mask_names": []})
    assert "masks hold only class 0, so there is nothing to tell apart" in found
    assert "255 is ignored: if it is a class, set data.mask_ignore=null" in found
    data = ProbeData(
        train=str(here / "train/images"), masks=masks, test=str(here / "train/images"), mask_ignore=None, workers=0
    )
    assert open_masked(data, SIZE, 0).classes.numbers == (0, 255)


def test_classes_that_training_lacks_are_refused(here: Path, tmp_path: Path) -> None:
    masks = numbered(tmp_path / "a", here / "test/images", [0, 1, 7])
    assert "test images hold class 7, and those of training images do not; training has 0, 1, 2" in refusal(
        config_of, here, tmp_path / "out", data={"test_masks": masks}
    )
    masks = numbered(tmp_path / "b", here / "test/images", [255])
    assert "no pixel of a test image has a class" in refusal(
        config_of, here, tmp_path / "out", data={"test_masks": masks}
    )


def test_an_encoder_without_maps_is_refused(here: Path, tmp_path: Path) -> None:
    vector = EncoderConfig(name="mlp")
    export_encoder(build_encoder(vector, image_size=SIZE), tmp_path / "encoder")
    assert "one vector per image cannot tell pixels apart" in refusal(
        config_of, here, tmp_path / "out", encoder=tmp_path / "encoder"
    )


def test_classes_that_only_the_limit_leaves_out_are_named(
    here: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "masks").mkdir()
    for number in range(60):  # one image of the training part shows class 9
        mask = np.asarray(Image.open(here / f"train/masks/{number}.png")).copy()
        mask[:, 10:] = 9 if number == 30 else mask[:, 10:]
        Image.fromarray(mask).save(tmp_path / "masks" / f"{number}.png")
    whole = ProbeData(train=str(here / "train/images"), masks=str(tmp_path / "masks"), workers=0)
    found = open_masked(whole, SIZE, 0)
    shown = [Path(found.masks.train.where(row)).stem for row in range(len(found.masks.train))]
    assert (found.classes.numbers, "30" in shown) == ((0, 1, 2, 9), True)
    used = {int(shown[int(row)]) for row in kept_rows(found.images.train, 10, 0)}
    assert 30 not in used  # or the next lines would show nothing
    with caplog.at_level("WARNING", "retouch"):
        assert open_masked(whole.model_copy(update={"limit": 10}), SIZE, 0).classes.numbers == (0, 1, 2)
    assert any("no training image of data.limit=10 shows class 9" in line for line in caplog.messages)


def test_masks_are_looked_at_once_before_the_first_seed_where_no_seed_draws_images(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []

    def counting(*given: Any) -> Any:
        looks.append(1)
        return look_at_masks(*given)

    def enough(*given: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("finetune.dense.data.look_at_masks", counting)
    monkeypatch.setattr("finetune.probe.probe", enough)
    for limit, expected in ((None, 2), (30, 6)):  # training and test
        looks.clear()
        with pytest.raises(KeyboardInterrupt):
            seeds.probe(config_of(here, tmp_path / f"out-{limit}", seeds=3, data={"limit": limit}))
        assert len(looks) == expected
