"""Methods that learn from colors are not trained on gray images; all others are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from common.config import validate
from common.errors import UserError
from pretrain.config import PretrainConfig
from pretrain.run import pretrain

GRAY = {"kind": "gray"}


def photos(folder: Path, colored: int = 0) -> Path:
    """Twelve images, of which the first few have colors."""
    folder.mkdir()
    picture = Image.effect_mandelbrot((16, 16), (-2, -1, 1, 1), 50)
    for number in range(12):
        tint = Image.merge("RGB", [picture, picture.transpose(Image.Transpose.ROTATE_90), picture])
        (tint if number < colored else picture).save(folder / f"{number:02d}.png")
    return folder


def settings(out: Path, source: Path, pretext: dict[str, Any]) -> PretrainConfig:
    values = {
        "out": out,
        "steps": 1,
        "batch_size": 4,
        "data": {"source": f"folder:{source}", "image_size": 16, "workers": 0},
        "encoder": {"name": "small_cnn", "model_args": {"width": 8, "depth": 1}},
        "decoder": {"width": 32},
        "pretext": pretext,
        "wandb": {"mode": "disabled"},
    }
    return validate(PretrainConfig, values)


@pytest.mark.parametrize(
    "pretext",
    [
        {"kind": "colorize"},
        {"kind": "colorize", "objective": "regression"},
        {"kind": "denoise", "corruption": GRAY},
        {"kind": "mixed", "members": [GRAY]},
    ],
    ids=["classification", "regression", "denoise", "mixed"],
)
def test_what_learns_from_colors_refuses_gray_images_before_anything_is_written(
    pretext: dict[str, Any], tmp_path: Path
) -> None:
    source = photos(tmp_path / "photos")
    with pytest.raises(UserError) as caught:
        pretrain(settings(tmp_path / "run", source, pretext))
    assert str(caught.value) == (
        f"pretext.kind={pretext['kind']} learns from colors, but folder:{source} has only gray images (of 12 that "
        "were checked): use color images, or a recipe that needs no color, such as mask or denoise"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("pretext", "colored"),
    [
        ({"kind": "colorize", "objective": "regression"}, 1),
        ({"kind": "denoise"}, 0),
        ({"kind": "mixed", "members": [GRAY, {"kind": "holes"}]}, 0),
    ],
    ids=["one in color", "noise", "holes too"],
)
def test_gray_images_are_trained_on_where_the_pretext_needs_no_color_or_some_have_it(
    pretext: dict[str, Any], colored: int, tmp_path: Path
) -> None:
    pretrain(settings(tmp_path / "run", photos(tmp_path / "photos", colored), pretext))
    assert (tmp_path / "run" / "encoder").is_dir()
