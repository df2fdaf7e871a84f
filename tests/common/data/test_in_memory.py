"""Images that a program holds: lists, tensors and data sets, in every stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

import retouch
from common.data import Subset, build_source, load_images
from common.data.given import hold
from common.data.patches import PatchesSource
from common.errors import UserError
from tests.common.data.samples import png
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
        (PIXELS.float() / 255).permute(0, 2, 3, 1).numpy(),
        pd.Series([Image.fromarray(one.permute(1, 2, 0).numpy()) for one in PIXELS], index=range(5, 29)),
        Birds(),
    ],
    ids=["tensor", "floats", "tensors", "pil", "arrays", "float arrays", "pandas", "dataset"],
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


class Parity(Birds):
    """A data set that maps its labels, and keeps the original ones too."""

    def __init__(self) -> None:
        self.targets = list(range(24))
        self.target_transform = lambda target: target % 2

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return super().__getitem__(index)[0], self.target_transform(self.targets[index])


class Reordered(Birds):
    """A data set that shows its items in another order than its ``targets``."""

    def __init__(self) -> None:
        self.targets = sorted(index % 2 for index in range(24))


@pytest.mark.parametrize(("items", "names"), [(Parity(), ("0", "1")), (Reordered(), ("auk", "owl"))])
def test_labels_are_those_that_come_with_the_images(items: Birds, names: tuple[str, ...]) -> None:
    retouch.images(items, "birds")
    labels = build_source("memory:birds").labels()
    assert labels.names == names
    wanted = [items[row][1] if names == ("0", "1") else 1 - items[row][1] for row in range(24)]
    assert labels.values.tolist() == wanted


class Endless:
    """Labels with a length whose items have no end, as those of a ``Dataset``."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> int:
        return index % 2


def test_labels_are_counted() -> None:
    retouch.images(PIXELS, "mine", labels=Endless())
    assert build_source("memory:mine").labels().values.tolist() == [0, 1] * 12


def test_labels_of_a_pandas_column_are_in_its_order() -> None:
    column = pd.Series(["a", "b"] * 12, index=range(24)).sample(frac=1, random_state=0)
    retouch.images(PIXELS, "mine", labels=column)
    labels = build_source("memory:mine").labels()
    assert [labels.names[value] for value in labels.values] == column.tolist()


@pytest.mark.parametrize("missing", [None, float("nan"), "", "nan", np.float32("nan")])
def test_an_image_without_a_class_is_no_class(missing: object) -> None:
    retouch.images(PIXELS, "mine", labels=["a", missing, "b"] * 8)
    with pytest.raises(UserError, match=r"8 of 24 images have no class, such as memory:mine\[1\]: leave them out"):
        build_source("memory:mine").labels()


class Lazy(Birds):
    """A data set that reads an image when it is asked for: files 0 and 3 are truncated."""

    def __init__(self, targets: Any = None) -> None:
        if targets is not None:
            self.targets = targets

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        if index in (0, 3):
            raise OSError("image file is truncated")
        return super().__getitem__(index)


@pytest.mark.parametrize(
    "targets",
    [None, [0, 1] * 12, pd.Series([0, 1] * 12, index=range(5, 29)), dict.fromkeys(range(24), 0), torch.eye(24)],
    ids=["none", "list", "pandas", "mapping", "one hot"],
)
def test_an_item_that_a_data_set_cannot_read_costs_no_other(targets: Any) -> None:
    retouch.images(Lazy(targets), "birds")
    source = build_source("memory:birds")
    images = load_images(source, 12)
    assert len(images) == 22
    labels = images.labels()
    assert [labels.names[value] for value in labels.values] == [Birds.classes[row % 2] for row in images.kept.tolist()]
    assert source.fingerprint


class PartlyLabeled(Birds):
    """As torchvision numbers an image without a class."""

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return super().__getitem__(index)[0], -1 if index == 3 else index % 2


def test_the_number_before_the_first_class_is_none() -> None:
    retouch.images(PartlyLabeled(), "birds")
    with pytest.raises(UserError, match="1 of 24 images have no class"):
        build_source("memory:birds").labels()


def test_one_that_cannot_be_read_costs_no_other() -> None:
    retouch.images([b"none of", *(png(number) for number in range(3))][::-1], "mine")
    source = build_source("memory:mine")
    assert len(load_images(source, 12)) == 3
    first = source.fingerprint
    retouch.images([b"none at", *(png(number) for number in range(3))][::-1], "mine")
    assert build_source("memory:mine").fingerprint != first


def test_the_fingerprint_is_that_of_the_colors_of_a_palette() -> None:
    found = []
    for color in ((255, 0, 0), (0, 0, 255)):
        drawn = Image.new("P", (8, 8))
        drawn.putpalette(color)
        retouch.images([drawn], "mine")
        found.append(build_source("memory:mine").fingerprint)
    assert len(set(found)) == 2


@pytest.mark.parametrize(
    ("items", "more", "message"),
    [
        ([], {}, "there are no images"),
        (iter([1]), {}, "list_iterator has no length or no order 0, 1, .*; give a list, .* one column of a table"),
        ({"a": PIXELS[0]}, {}, "^dict has no length or no order"),
        (pd.DataFrame({"image": list(PIXELS)}), {}, "^DataFrame has no length or no order"),
        (PIXELS, {"labels": dict.fromkeys(range(24), "a")}, "^labels: dict has no length or no order"),
        (PIXELS, {"labels": pd.DataFrame({"label": [0, 1] * 12})}, "^labels: DataFrame has no length or no order"),
        (PIXELS, {"labels": iter("ab")}, "^labels: str_(ascii_)?iterator has no length or no order"),
        (["a.png"], {}, "str is not an image; give PIL images, arrays or tensors"),
        (torch.zeros(3, 4, 8, 8), {}, r"a tensor \[4, 8, 8\] is not an image"),
        (torch.full((3, 3, 8, 8), 2.0), {}, r"outside \[0, 1\]"),
        (PIXELS.int(), {}, "a tensor of torch.int32 is not an image"),
        (PIXELS.numpy(), {}, r"an array \[3, 12, 12\] of uint8 is not an image; give uint8 \[h w 3\] or \[h w\]"),
        (PIXELS, {"labels": ["a"]}, "1 of them for 24 images"),
        (PIXELS, {"labels": np.eye(24)}, r"labels: image 0 has \[1\. 0\..*, which is not a class"),
        ([{"image": PIXELS[0]}], {}, "dict is not an image; .* such as the column of images of this table"),
        ([b"\0\0\0\x1cftypheic" + bytes(40)], {}, "HEIC|not an image"),
        (PIXELS, {"name": "a:b"}, "'a:b' is not a name for images"),
    ],
)
def test_what_cannot_be_held_is_refused(items: Any, more: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        retouch.images(items, **more)


def test_images_of_another_program_are_not_known() -> None:
    with pytest.raises(UserError, match="memory:elsewhere: this program holds no such images"):
        build_source("memory:elsewhere")


def test_stages_take_images_of_a_program(tmp_path: Path) -> None:
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
        "null_check=false",
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

    def folder(stage: str) -> list[str]:
        return [f"out={tmp_path / stage}", "wandb.mode=disabled"]

    own = str(tmp_path / "run")
    near = retouch.search(own, f"data={labeled}", f"query={new}", "top=2", "data.workers=0", *folder("search"))
    assert [one.query for one in near.found] == ["memory:new[0]"]
    assert near.found[0].neighbors[0].path == "memory:birds[3]"  # the same picture under another name
    restored = retouch.restore(own, f"data={new}", "damage=recipe", *folder("restore"))
    assert [one.path for one in restored.pictures] == ["memory:new[0]"]
    odd = retouch.strange(own, f"data={labeled}", "draws=1", "data.workers=0", *folder("strange"))
    assert sorted(one.path for one in odd.pictures) == sorted(f"memory:birds[{row}]" for row in range(24))
    embedded = retouch.embed(f"encoder={run.encoder}", f"data={labeled}", "data.workers=0", *folder("embed"))
    assert embedded.rows == 24
    alone = ["compare.linear_probe=false", "compare.from_scratch=false", "data.workers=0"]
    tuned = retouch.finetune(
        "full", f"encoder={run.encoder}", f"data={labeled}", "steps=2", "batch_size=8", *alone, *folder("finetune")
    )
    assert tuned is not None
    assert tuned.classes == ("auk", "owl")


@pytest.mark.parametrize(
    ("given", "named", "message"),
    [
        ([], {"data": Birds()}, 'data=Birds(...): write "data=..."; give images in memory a name first'),
        ([Birds()], {}, "Birds is neither a string nor settings; give images in memory a name first"),
        ([], {"steps": 5, "seed": 1}, 'steps=5: write "steps=5"\n  seed=1: write "seed=1"'),
    ],
)
def test_what_is_given_otherwise_is_answered_with_how_to(given: list[Any], named: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as raised:
        retouch.pretrain("denoise", *given, **named)
    assert str(raised.value).startswith(f"retouch.pretrain takes settings as strings:\n  {message}")
    if "name first" in message:
        assert 'f"data={retouch.images(...)}"' in str(raised.value)


def test_parts_and_patches_of_images_in_memory_are_in_memory_too() -> None:
    hold(PIXELS, "parts")
    source = build_source("memory:parts")
    assert source.only_here
    assert Subset(source, torch.tensor([1, 2]), "some").only_here
    assert PatchesSource(source, side=8).only_here
    assert not build_source("shapes").only_here
