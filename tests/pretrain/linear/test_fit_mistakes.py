"""Inputs that fitting refuses, in the stage and in memory, with the exact message."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import retouch
from common.augment import WHOLE
from common.config import validate
from common.errors import UserError
from common.machine.distributed import World
from pretrain.config import PretrainConfig
from pretrain.in_memory import fit
from pretrain.linear import Cca, Ica, Pca, SparseCoding, Tca
from pretrain.linear.base import LinearMethod
from pretrain.run import pretrain
from tests.pretrain.toys import SIDE, same, settings

UNUSED = "only autoencoders, which are trained by gradient descent, use it: remove it, or remove `fit`"


def test_unreadable_images_leave_no_run_folder_behind(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("no image")
    config = settings(tmp_path / "run", "patch_dictionary-random").model_dump(mode="json")
    config["data"]["source"] = f"folder:{tmp_path}"
    with pytest.raises(UserError, match="no image can be read"):
        pretrain(validate(PretrainConfig, config))
    assert not (tmp_path / "run").exists()


def test_several_processes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        settings(tmp_path / "run", "pca").method.build(SIDE, WHOLE, World(0, 2, torch.device("cpu")), 0)
    assert str(caught.value) == "fit.kind=pca runs in one process: start it without torchrun"


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("ica", {"steps": 5}, "fit.kind=ica is fitted on one sample: remove steps; remove epochs or set epochs=1"),
        (
            "tca-damage",
            {"epochs": 2},
            "fit.kind=tca is fitted on one sample: remove steps; remove epochs or set epochs=1",
        ),
        ("ica", {"augment": {"flip": True}}, "fit.kind=ica does not augment its sample: remove augment"),
        ("cca-other", {"augment": {"flip": True}}, "fit.kind=cca pairs images without augmentation: remove augment"),
        (
            "patch_dictionary-random",
            {"steps": 5},
            "fit.kind=patch_dictionary with learn=random is fitted on one sample: remove steps; "
            "remove epochs or set epochs=1",
        ),
        ("pca", {"base_lr": 0.1}, f"base_lr: {UNUSED}"),
        (
            "pca",
            {"decoder": {}},
            f"decoder: {UNUSED}",
        ),
        (
            "patch_dictionary-pca",
            {"fit": {"kind": "patch_dictionary", "learn": "pca", "network": {"atoms": 100}}},
            "fit: learn=pca finds atoms that are mirror images of themselves or of each other, so mirroring adds none: "
            "set fit.network.mirror=false",
        ),
        (
            "patch_dictionary-ica",
            {"fit": {"kind": "patch_dictionary", "learn": "ica", "network": {"mirror": False}}},
            "fit: learn=ica finds at most 108 atoms of 6 px patches: lower fit.network.atoms",
        ),
        ("pca", {"accumulate": 2}, f"accumulate: {UNUSED}"),
    ],
)
def test_a_setting_that_would_be_ignored_is_refused(name: str, changes: dict[str, Any], message: str) -> None:
    values = settings(Path("run"), name).model_dump(mode="json") | changes
    values |= {"epochs": None} if "steps" in changes else {}
    with pytest.raises(UserError) as caught:
        validate(PretrainConfig, values)
    assert caught.value.problems == (message,)


@pytest.mark.parametrize(
    ("config", "size", "message"),
    [
        (Pca(), 128, "fit.kind=pca at 128 px solves for moments of 49,152 x 49,152 numbers, which takes 108.0 GiB of "
         "memory, but only 8.0 GiB is free; lower data.image_size to at most 66"),
        (Ica(), 67, "fit.kind=ica at 67 px solves for moments of 13,467 x 13,467 numbers, which takes 8.1 GiB of "
         "memory, but only 8.0 GiB is free; lower data.image_size to at most 66"),
        (Cca(), 64, "fit.kind=cca at 64 px solves for moments of 24,576 x 24,576 numbers, which takes 27.0 GiB of "
         "memory, but only 8.0 GiB is free; lower data.image_size to at most 47"),
    ],
)  # fmt: skip
def test_images_too_large_for_their_moments_are_refused_with_the_size_that_fits(
    config: LinearMethod, size: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pretrain.linear.projection.available_memory", lambda: 8 << 30)
    assert config.check(size, 10_000) == [message]
    most = int(message.split()[-1])
    assert config.check(most, 10_000) == []
    assert config.check(most + 1, 10_000) != []


def test_too_little_memory_leaves_no_run_folder_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pretrain.linear.projection.available_memory", lambda: 1 << 20)
    with pytest.raises(UserError, match=r"takes 2 MiB of memory, but only 1 MiB is free; lower data\.image_size to at"):
        pretrain(settings(tmp_path / "run", "pca"))
    assert not (tmp_path / "run").exists()


PHOTOS = torch.rand(20, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("config", "images", "other", "more", "messages"),
    [
        (Pca(), PHOTOS[0], None, {}, ["images must be [N 3 S S], got [3, 8, 8]"]),
        (Pca(), PHOTOS[..., :6], None, {}, ["images must be [N 3 S S], got [20, 3, 8, 6]"]),
        (Pca(), PHOTOS * 255, None, {}, ["images must be floating-point RGB in [0, 1] (uint8: divide by 255)"]),
        (
            Pca(components=30),
            PHOTOS,
            PHOTOS,
            {"steps": 3},
            [
                "fit.kind=pca does not use other: remove it",
                "fit.kind=pca makes exactly one pass: remove steps",
                "fit.components=30 needs at least 31 images, but there are 20; lower it, or use more "
                "(data.source, data.limit)",
            ],
        ),
        (Ica(components=4), PHOTOS, None, {"steps": 3}, ["fit.kind=ica is fitted on one sample: remove steps"]),
        (Cca(components=4, views="other"), PHOTOS, None, {}, ["fit.views=other needs other, the second view"]),
        (
            Cca(components=4, views="other"),
            PHOTOS,
            PHOTOS[:10],
            {},
            ["fit.kind=cca pairs images by row, but images has 20 rows and other has 10"],
        ),
        (
            Cca(components=4, views="neighbors"),
            PHOTOS[..., :7, :7],
            None,
            {},
            ["images are cut into neighbors: their side must be even, not 7"],
        ),
        (
            Tca(components=4, landmarks=60),
            PHOTOS,
            None,
            {},
            [
                "fit.kind=tca needs a second domain: set other, or damage the first (fit.damage)",
                "fit.landmarks=60 needs 30 images per domain, but there are 20: lower it",
            ],
        ),
        (
            SparseCoding(),
            PHOTOS,
            None,
            {"steps": 0, "batch_size": 0},
            ["steps and batch_size must be positive, got 0 and 0"],
        ),
    ],
)  # fmt: skip
def test_fit_in_memory_names_every_problem(
    config: Any, images: Tensor, other: Tensor | None, more: dict[str, int], messages: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        fit(config, images, other, **more)
    assert list(caught.value.problems) == messages


def test_fit_is_public_and_takes_a_mapping() -> None:
    encoder = retouch.fit({"kind": "pca", "components": 4}, PHOTOS)
    assert same(encoder, retouch.fit(Pca(components=4), PHOTOS))
    assert encoder.encode(PHOTOS).shape == (20, 4)
    with pytest.raises(retouch.UserError, match=r"fit.kind: unknown kind 'pcaa'; did you mean 'pca'\?"):
        retouch.fit({"kind": "pcaa"}, PHOTOS)


def test_moments_too_large_for_memory_are_refused_by_the_stage_before_they_are_allocated(tmp_path: Path) -> None:
    data = {"source": "photos", "image_size": 1024, "limit": 8, "workers": 0}
    for name in ("pca", "cca-damage", "ica"):
        with pytest.raises(
            UserError, match=r"solves for moments of .* of memory, .* lower data\.image_size to at most"
        ):
            pretrain(settings(tmp_path / "run", name, data=data))
    assert not (tmp_path / "run").exists()


def test_what_is_no_method_or_no_tensor_is_refused_in_memory() -> None:
    with pytest.raises(UserError, match="did you mean pca"):
        retouch.fit("pcaa", PHOTOS)
    with pytest.raises(UserError, match="images must be a torch tensor"):
        retouch.fit(Pca(components=4), PHOTOS.numpy())  # type: ignore[arg-type]
    with pytest.raises(UserError, match="seed"):
        retouch.fit(Pca(components=4), PHOTOS, seed=-1)
    assert same(
        retouch.fit(Pca(components=4), PHOTOS.requires_grad_()), retouch.fit(Pca(components=4), PHOTOS.detach())
    )
