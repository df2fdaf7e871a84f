"""Images that a program holds: lists, tensors and data sets, in every stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

import retouch
from common.data import build_source, load_images
from common.errors import UserError
from tests.recipe import pretraining

PIXELS = torch.randint(0, 256, (24, 3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class Birds(Dataset[tuple[Image.Image, int]]):
    """As torchvision has data sets: an image and the number of its class."""

    classes = ("owl", "auk")

    def __len__(self) -> int:
        return len(PIXELS)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(PIXELS[index].permute(1, 2, 0).numpy()), index % 2


@pytest.mark.parametrize(
    "items",
    [
        PIXELS,
        PIXELS.float() / 255,
        list(PIXELS),
        [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in PIXELS],
        [one.permute(1, 2, 0).numpy() for one in PIXELS],
        Birds(),
    ],
    ids=["tensor", "floats", "tensors", "pil", "arrays", "dataset"],
)
def test_every_kind_of_items_gives_the_same_images(items: Any) -> None:
    assert retouch.images(items, "birds") == "memory:birds"
    images = load_images(build_source("memory:birds"), 12)
    assert torch.equal(images.rows(torch.arange(24)), PIXELS)


def test_labels_come_from_the_data_set_or_are_given() -> None:
    retouch.images(Birds(), "birds")
    labels = build_source("memory:birds").labels()
    assert (labels.names, labels.task) == (("auk", "owl"), "label")
    assert labels.values.tolist() == [1, 0] * 12
    retouch.images(PIXELS, "numbered", labels=np.arange(24) % 11)
    labels = build_source("memory:numbered").labels(rows=torch.tensor([2, 10]))
    assert labels.names == tuple(map(str, range(11)))  # 10 is after 9
    assert labels.values.tolist() == [2, 10]
    retouch.images(PIXELS, "bare")
    assert build_source("memory:bare").tasks == ()


def test_the_fingerprint_is_that_of_pixels_and_labels() -> None:
    def found(items: Tensor, labels: list[str] | None = None) -> str:
        retouch.images(items, "mine", labels=labels)
        return build_source("memory:mine").fingerprint

    other = PIXELS.clone()
    other[5, 0, 0, 0] += 1
    assert found(PIXELS) == found(PIXELS.clone()) != found(other)
    assert found(PIXELS) != found(PIXELS, ["a", "b"] * 12) != found(PIXELS, ["b", "a"] * 12)


@pytest.mark.parametrize(
    ("items", "more", "message"),
    [
        ([], {}, "there are no images"),
        (iter([1]), {}, "has no length or no order"),
        (["a.png"], {}, "str is no image; give PIL images, arrays or tensors"),
        (torch.zeros(3, 4, 8, 8), {}, r"a tensor \[4, 8, 8\] is no image"),
        (torch.full((3, 3, 8, 8), 2.0), {}, r"outside \[0, 1\]"),
        (PIXELS.int(), {}, "a tensor of torch.int32 is no image"),
        (PIXELS, {"labels": ["a"]}, "1 of them for 24 images"),
        (PIXELS, {"name": "a:b"}, "'a:b' is no name of images"),
    ],
)
def test_what_cannot_be_held_is_refused(items: Any, more: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        retouch.images(items, **more)


def test_images_of_another_program_are_not_known() -> None:
    with pytest.raises(UserError, match="memory:elsewhere: this program holds no such images"):
        build_source("memory:elsewhere")


def test_stages_take_them(tmp_path: Path) -> None:
    data = {"source": retouch.images(PIXELS, "mine"), "image_size": 16, "workers": 0}
    run = retouch.pretrain(pretraining(tmp_path / "run", data=data, steps=2))
    labeled = retouch.images(Birds(), "birds")
    small = [
        "probe.layers=[-1]",
        "probe.poolings=[avg]",
        "probe.l2=[0.01]",
        "damage=[]",
        "knn=null",
        "properties=false",
    ]
    report = retouch.probe(
        "linear", f"encoder={run.encoder}", f"data={labeled}", *small, f"out={tmp_path / 'probe'}",
        "wandb.mode=disabled", "data.workers=0",
    )  # fmt: skip
    assert report.results[0].classes == ("auk", "owl")
    new = retouch.images([Birds()[3][0]], "new")
    found = retouch.predict(
        str(tmp_path / "probe"), f"data={new}", f"out={tmp_path / 'predicted'}", "wandb.mode=disabled", "data.workers=0"
    )
    assert found.rows == 1
    assert "memory:new[0]" in found.path.read_text()
