from __future__ import annotations

import os
from pathlib import Path

import pytest

from common.data.folder import FolderSource
from common.errors import UserError
from tests.common.data.samples import picture, write_folder


def paths(source: FolderSource) -> list[str]:
    return [source.paths[index] for index in range(len(source))]


def test_finds_images_at_any_depth_in_sorted_order_without_opening_them(tmp_path: Path) -> None:
    for name in ("b/deep/er/x.JPG", "a.webp", "b/y.tiff", "é.png", "c/notes.txt", "c/clip.mpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"not even an image")
    assert paths(FolderSource(str(tmp_path))) == ["a.webp", "b/deep/er/x.JPG", "b/y.tiff", "é.png"]


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / ".trash").mkdir()
    picture(9).save(tmp_path / ".trash" / "old.png")
    picture(9).save(tmp_path / "cat" / ".preview.png")
    assert len(FolderSource(str(tmp_path))) == 6


def test_links_are_followed_once(tmp_path: Path) -> None:
    inside, outside = write_folder(tmp_path / "in"), write_folder(tmp_path / "out")
    (inside / "again").symlink_to(inside / "cat")  # a folder that is there already
    (inside / "cat" / "up").symlink_to(tmp_path)  # a circle, and the way to `out`
    (inside / "other").symlink_to(outside)
    (inside / "copy.png").symlink_to(inside / "cat" / "0.png")  # a file that is there already
    (tmp_path / "blob").write_bytes((inside / "cat" / "0.png").read_bytes())
    (inside / "dog" / "linked.png").symlink_to(tmp_path / "blob")  # its target has no suffix, so only the link counts
    (inside / "dog" / "twice.png").symlink_to(tmp_path / "blob")
    (inside / "broken.png").symlink_to(tmp_path / "nowhere.png")
    (inside / "self").symlink_to(inside / "self")
    source = FolderSource(str(inside))
    real = [os.path.realpath(source.where(index)) for index in range(len(source))]
    assert len(real) == len(set(real)) == 6 + 6 + 1
    assert "dog/linked.png" in paths(source)


def test_class_is_the_first_folder(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "ant" / "red").mkdir(parents=True)
    picture(7).save(tmp_path / "ant" / "red" / "7.png")
    labels = FolderSource(str(tmp_path)).labels()
    assert labels.names == ("ant", "cat", "dog")
    assert labels.values.tolist() == [0, 1, 1, 1, 2, 2, 2]


def test_folders_without_images_are_no_classes_but_not_silently(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for split in ("train", "test"):
        write_folder(tmp_path / split)
        for name in ("ant", "bee/notes"):
            (tmp_path / split / name).mkdir(parents=True)
    (tmp_path / "train" / "cow").mkdir()
    (tmp_path / "train" / "cow" / "cow.txt").touch()
    source = FolderSource(str(tmp_path)).split("train")
    assert "no images in" not in caplog.text  # classes were not requested
    assert source.labels().names == ("cat", "dog")
    assert f"folder:{tmp_path}/train: no images in ant, cow, so there is no such class" in caplog.text
    test = source.published_test()
    assert test is not None
    test.labels()
    assert f"folder:{tmp_path}/test: no images in ant, so there is no such class" in caplog.text


def test_labels_are_needed_only_when_asked_for(tmp_path: Path) -> None:
    write_folder(tmp_path)
    picture(7).save(tmp_path / "stray.png")
    source = FolderSource(str(tmp_path))
    assert source.tasks == ()
    assert len(source) == 7
    with pytest.raises(UserError, match=r"stray\.png.*put each image into a folder named after its class"):
        source.labels()


def test_fingerprint_says_which_file_has_gone(tmp_path: Path) -> None:
    source = FolderSource(str(write_folder(tmp_path)))
    (tmp_path / "dog" / "3.png").unlink()
    with pytest.raises(UserError, match=f"{tmp_path}/dog/3.png has disappeared since the folder was listed"):
        _ = source.fingerprint


def test_fingerprint_covers_names_and_sizes(tmp_path: Path) -> None:
    one, two = write_folder(tmp_path / "one"), write_folder(tmp_path / "two")
    for folder in (one, two):
        for path in folder.rglob("*.png"):
            os.utime(path, ns=(5, 5))
    same = FolderSource(str(one)).fingerprint
    assert FolderSource(str(two)).fingerprint == same  # a copy elsewhere is the same set
    (two / "cat" / "0.png").rename(two / "cat" / "00.png")
    assert FolderSource(str(two)).fingerprint != same


def test_classes_that_are_called_like_splits_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("train", "test", "plane"):
        (tmp_path / name).mkdir()
        picture(7).save(tmp_path / name / "7.png")
    source = FolderSource(str(tmp_path))
    assert caplog.messages == []
    assert source.labels().names == ("plane", "test", "train")
    assert (
        f"folder:{tmp_path}: test and train are taken for classes, but look like splits; if they are splits, name one: "
        f"folder:{tmp_path}/train"
    ) in caplog.messages
