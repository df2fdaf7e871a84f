"""Images of a source, written to a folder or read as tensors: what notebooks and the tour copy."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import retouch
from common.data import build_source
from pretrain.report.atoms import atoms_picture


def pixels(path: Path) -> torch.Tensor:
    with Image.open(path) as picture:
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def test_images_are_written_as_they_are_and_named_by_their_rows(tmp_path: Path) -> None:
    written = retouch.write_images("shapes", tmp_path / "new" / "pictures", 3, skip=9998)
    assert [path.relative_to(tmp_path).as_posix() for path in written] == [
        f"new/pictures/{name}.png" for name in ("09998", "09999", "10000")
    ]
    source = build_source("shapes")
    for row, path in zip((9998, 9999, 10000), written, strict=True):
        assert torch.equal(pixels(path), torch.as_tensor(source.image(row)))


def test_a_task_names_a_folder_for_each_class(tmp_path: Path) -> None:
    written = retouch.write_images("shapes:train:20", tmp_path / "labeled", 99, skip=12, task="texture")
    labels = build_source("shapes:train:20").labels("texture")
    assert [path.relative_to(tmp_path / "labeled").as_posix() for path in written] == [
        f"{labels.names[labels.values[row]]}/{row:04d}.png" for row in range(12, 20)
    ]
    assert sorted(path for path in (tmp_path / "labeled").rglob("*.png")) == sorted(written)
    again = build_source(str(tmp_path / "labeled"))
    assert set(again.labels().names) <= set(labels.names)


def test_no_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "0002.png").write_text("mine")
    with pytest.raises(retouch.UserError) as refused:
        retouch.write_images("shapes", tmp_path, 4)
    assert str(refused.value) == f"{tmp_path}: there already: {tmp_path / '0002.png'}; give a new folder"
    assert [path.name for path in tmp_path.iterdir()] == ["0002.png"]
    assert (tmp_path / "0002.png").read_text() == "mine"
    retouch.write_images("shapes", tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0000.png", "0001.png", "0002.png"]


def test_what_cannot_be_read_is_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    retouch.write_images("shapes", tmp_path / "pictures", 3)
    (tmp_path / "pictures" / "0001.png").write_bytes(b"nothing")
    with caplog.at_level(logging.WARNING, logger="retouch"):
        written = retouch.write_images(str(tmp_path / "pictures"), tmp_path / "copies")
    assert [path.name for path in written] == ["0000.png", "0002.png"]
    assert f"1 of 3 images cannot be read and are left out, such as {tmp_path / 'pictures' / '0001.png'}" in caplog.text
    for path in (tmp_path / "pictures").iterdir():
        path.write_bytes(b"nothing")
    with pytest.raises(retouch.UserError, match="no image can be read, for example"):
        retouch.write_images(str(tmp_path / "pictures"), tmp_path / "none")


def test_gray_images_and_images_in_memory_are_written_in_rgb(tmp_path: Path) -> None:
    gray = np.arange(64, dtype=np.uint8).reshape(8, 8)
    name = retouch.images([Image.fromarray(gray)], "gray", labels=["a/b"])
    [path] = retouch.write_images(name, tmp_path / "gray")
    assert torch.equal(pixels(path), torch.from_numpy(gray).expand(3, -1, -1))
    with pytest.raises(retouch.UserError, match="classes that cannot name a folder: a/b; leave task out"):
        retouch.write_images(name, tmp_path / "classes", task="label")
    assert not (tmp_path / "classes").exists()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"limit": 0}, "limit is at least 1, and skip at least 0"),
        ({"skip": -1}, "limit is at least 1, and skip at least 0"),
        ({"skip": 20}, "skip=20: shapes:train:20 has 20 images; skip fewer"),
        (
            {"task": "size"},
            "shapes:train:20: no task 'size'; it has shape, color, texture, all; set task to",
        ),
    ],
)
def test_mistakes_are_refused_before_anything_is_written(
    arguments: dict[str, object], why: str, tmp_path: Path
) -> None:
    for call in (
        lambda: retouch.write_images("shapes:train:20", tmp_path / "new", **arguments),  # type: ignore[arg-type]
        lambda: retouch.read_images("shapes:train:20", **arguments),  # type: ignore[arg-type]
    ):
        with pytest.raises(retouch.UserError) as refused:
            call()
        assert str(refused.value).startswith(why)
    assert not (tmp_path / "new").exists()


def test_every_problem_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(retouch.UserError) as refused:
        retouch.write_images("nowhere", tmp_path / "file")
    assert "no such file or folder" in str(refused.value)
    assert "is a file; choose a folder" in str(refused.value)


def test_images_are_read_as_a_network_takes_them() -> None:
    source = build_source("shapes:train:30")
    found = retouch.read_images("shapes:train:30", 8, skip=20, task="color")
    rows = torch.arange(20, 28)
    assert torch.equal(found.images, torch.as_tensor(source.bulk(rows)) / 255)
    labels = source.labels("color", rows)
    assert found.labels is not None
    assert (found.labels.tolist(), found.names) == (labels.values.tolist(), labels.names)
    assert found.paths == tuple(f"shapes:train[{row}]" for row in range(20, 28))
    plain = retouch.read_images("photos:train:5", image_size=12)
    assert (plain.images.shape, plain.labels, plain.names) == ((5, 3, 12, 12), None, ())
    assert torch.equal(plain.images, torch.as_tensor(build_source("photos:train:5").at(12).bulk(torch.arange(5))) / 255)
    with pytest.raises(retouch.UserError, match="image_size=0: give a side of 1 px or more"):
        retouch.read_images("shapes:train:5", image_size=0)


def test_of_a_folder_what_can_be_read_is_read_with_its_labels(tmp_path: Path) -> None:
    retouch.write_images("shapes:train:12", tmp_path / "labeled", task="texture")
    broken = sorted((tmp_path / "labeled").rglob("*.png"))[4]
    broken.write_bytes(b"nothing")
    found = retouch.read_images(str(tmp_path / "labeled"), task="label", image_size=16)
    assert found.images.shape == (11, 3, 16, 16)
    assert 0 <= float(found.images.min()) < float(found.images.max()) <= 1
    assert found.labels is not None
    assert [found.names[value] for value in found.labels.tolist()] == [Path(path).parent.name for path in found.paths]
    assert str(broken) not in found.paths


def test_atoms_are_drawn_as_in_a_run() -> None:
    atoms = torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    drawn = retouch.atoms_picture(atoms, torch.arange(5.0), "five")
    assert np.array_equal(np.asarray(drawn), np.asarray(atoms_picture(atoms, torch.arange(5.0), "five")))
