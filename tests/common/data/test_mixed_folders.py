"""Folders as people have them: with runs of ours, with what other programs left, and with splits."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.data import Source, build_source
from common.data.folder import FolderSource
from common.data.listing import ADDED
from common.errors import UserError
from common.machine.distributed import world
from common.runs.folder import StageConfig, open_run
from tests.common.data.samples import picture, png, write_folder, write_parquet


def write_picture(path: Path, seed: int = 50) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed).save(path)


def run_folder(path: Path) -> Path:
    with world() as here, open_run(StageConfig.model_validate({"out": path, "wandb": {"mode": "disabled"}}), here):
        write_picture(path / "panels" / "step-1.png")
    return path


def places(source: Source) -> list[str]:
    return [source.where(index) for index in range(len(source))]


def test_what_a_run_has_drawn_is_no_image_of_the_user(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "retouch")
    source = build_source(f"folder:{write_folder(tmp_path)}")
    run_folder(tmp_path / "runs" / "one")
    run_folder(tmp_path / "cat" / "two")
    again = build_source(f"folder:{tmp_path}")
    assert again.fingerprint == source.fingerprint
    assert again.labels().names == ("cat", "dog")
    assert f"folder:{tmp_path}: 2 folders written by retouch left out: cat/two, runs/one" in caplog.text
    caplog.clear()
    build_source(f"folder:{tmp_path}")
    assert not caplog.records  # said once


@pytest.mark.parametrize(
    "place", ["curves.png", "docs/a.png", "linear_probe/panels/a.png", "wandb/x/media/a.jpg", "b/c/d/e.gif"]
)
def test_a_picture_anywhere_in_a_run_folder_is_no_image_of_the_user(tmp_path: Path, place: str) -> None:
    write_folder(tmp_path)
    write_picture(run_folder(tmp_path / "cat" / "deep" / "run") / place)
    assert len(build_source(f"folder:{tmp_path}")) == 6
    assert len(build_source(f"folder:{tmp_path}/cat")) == 3


def test_a_run_is_no_folder_of_images_but_what_it_drew_may_be_named(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run")
    assert len(build_source(f"folder:{run}/panels")) == 1
    with pytest.raises(UserError, match="retouch stage wrote this folder, and its pictures are not your images; "):
        build_source(f"folder:{run}")
    write_picture(run / "pictures" / "a.png")
    with pytest.raises(UserError, match=f"give the pictures that it wrote: {run}/pictures$"):
        build_source(str(run))


def test_a_config_file_of_another_program_hides_no_image(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "cat" / "config.yaml").write_text("size: 3\n")
    assert len(build_source(f"folder:{tmp_path}")) == 6


@pytest.mark.parametrize("name", [*sorted(ADDED), "@eaDir", "__MACOSX", ".thumbnails"])
def test_what_other_programs_have_added_is_left_out(tmp_path: Path, name: str) -> None:
    write_folder(tmp_path)
    for folder in (tmp_path, tmp_path / "cat"):
        write_picture(folder / name / "0.png" / "small.jpg")
    source = build_source(f"folder:{tmp_path}")
    assert len(source) == 6
    assert source.labels().names == ("cat", "dog")


def test_a_folder_of_nothing_else_says_so(tmp_path: Path) -> None:
    write_picture(tmp_path / "@eaDir" / "a.png")
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "pyvenv.cfg").touch()
    write_picture(tmp_path / "venv" / "logo.png")
    with pytest.raises(UserError, match=r"no image files in .*, except in folders that are left out"):
        FolderSource(str(tmp_path))


@pytest.mark.parametrize(
    ("folders", "train", "test"),
    [
        (("train", "test"), "train", "test"),
        (("train", "val"), "train", "val"),
        (("Training", "Testing", "valid"), "Training", "Testing"),
        (("train",), "train", None),
    ],
)
def test_folders_named_after_splits_are_splits(
    tmp_path: Path, folders: tuple[str, ...], train: str, test: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "retouch")
    for name in folders:
        write_folder(tmp_path / name)
    source = build_source(f"folder:{tmp_path}")
    assert source.spec == f"folder:{tmp_path}/{train}"
    assert source.fingerprint == build_source(source.spec).fingerprint
    assert source.labels().names == ("cat", "dog")
    assert all(place.startswith(f"{tmp_path}/{train}/") and Path(place).is_file() for place in places(source))
    held = source.published_test()
    assert (None if held is None else held.spec) == (None if test is None else f"folder:{tmp_path}/{test}")
    if test is not None:
        assert build_source(f"folder:{tmp_path}", split="test").spec == f"folder:{tmp_path}/{test}"
        assert build_source(source.spec).published_test() is None  # the user named a split
    assert "train (6 images)" in caplog.text
    assert f"folder:{tmp_path}/{train} is used" in caplog.text


def test_splits_below_each_class_are_splits(tmp_path: Path) -> None:
    for name in ("bottle", "cable"):
        for split, count in (("train", 3), ("test", 2)):
            for number in range(count):
                write_picture(tmp_path / name / split / "good" / f"{number}.png", number)
    source = build_source(f"folder:{tmp_path}")
    test = source.published_test()
    assert test is not None
    assert [source.spec, test.spec] == [f"folder:{tmp_path} (train)", f"folder:{tmp_path} (test)"]
    assert source.labels().names == test.labels().names == ("bottle", "cable")
    assert [source.labels().values.tolist(), test.labels().values.tolist()] == [[0, 0, 0, 1, 1, 1], [0, 0, 1, 1]]
    assert all("/train/" in place and Path(place).is_file() for place in places(source))
    assert all("/test/" in place for place in places(test))


def test_many_files_of_other_types_are_worth_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "retouch")
    write_picture(tmp_path / "a.png")
    for name in ("b", "c", "d.txt"):
        (tmp_path / name).touch()
    build_source(f"folder:{tmp_path}")
    assert "1 images; files of other types are not read (2 without suffix, 1 .txt)" in caplog.text


def test_a_split_that_is_not_there_is_refused(tmp_path: Path) -> None:
    for name in ("test", "val"):
        write_folder(tmp_path / name)
    with pytest.raises(UserError, match=r"no train folder among its splits folder:.*/test, folder:.*/val"):
        build_source(f"folder:{tmp_path}")


def test_a_vehicle_may_be_a_train(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("train", "bus"):
        write_folder(tmp_path / name)
    assert build_source(f"folder:{tmp_path}").labels().names == ("bus", "train")
    assert not caplog.records


@pytest.mark.parametrize("name", ["{}-00000-of-00001.parquet", "{}.parquet", "{}/0.parquet"])
def test_parquet_files_named_after_splits_are_splits(tmp_path: Path, name: str) -> None:
    for split, rows in (("train", 8), ("test", 4), ("validation", 2)):
        path = tmp_path / name.format(split)
        path.parent.mkdir(exist_ok=True)
        write_parquet(path, rows)
    source = build_source(f"parquet:{tmp_path}/**/*.parquet")
    assert len(source) == 8
    test = source.published_test()
    assert test is not None
    assert len(test) == len(build_source(f"parquet:{tmp_path}/**/*.parquet", split="test")) == 4
    only = build_source(f"parquet:{tmp_path}/{name.format('test')}")  # the user named a split
    assert len(only) == 4
    assert only.published_test() is None


def test_embedded_features_are_no_images(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet")
    run = run_folder(tmp_path / "runs" / "embed")
    for name in ("features.parquet", "tables/deep/features.parquet"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(b"not even parquet")
    assert len(build_source(f"parquet:{tmp_path}/**/*.parquet")) == 6
    write_parquet(run / "mine.parquet", 4)
    assert len(build_source(f"parquet:{run}/m*.parquet")) == 4  # the user named this folder


def test_a_folder_for_datasets_with_runs_inside_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "data")
    run_folder(tmp_path / "data" / "cat" / "run")
    with pytest.raises(UserError, match=r"would also read what retouch has written to .*/cat/run; use folder:"):
        build_source(f"hf:{tmp_path}/data")


def test_a_pipe_is_no_image(tmp_path: Path) -> None:
    write_folder(tmp_path)
    os.mkfifo(tmp_path / "cat" / "9.png")  # opening it blocks forever
    (tmp_path / "dog" / "9.png").symlink_to(tmp_path / "cat" / "9.png")
    assert len(build_source(f"folder:{tmp_path}")) == 6
    (tmp_path / "a.txt").write_text("cat/0.png\ncat/9.png\n")
    with pytest.raises(ValueError, match="a pipe, not a file"):
        build_source(f"list:{tmp_path}/a.txt").image(1)


def test_a_pipe_named_in_a_table_is_no_image(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "9.png")
    cells = pa.array([{"bytes": None, "path": "9.png"}], pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    pq.write_table(pa.table({"image": cells}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="a pipe, not a file"):
        build_source(f"parquet:{tmp_path}/a.parquet").image(0)


@pytest.mark.parametrize(
    "form", ["{}", "folder:{}", "csv:{}", "list:{}", "zip:{}", "parquet:{}", "hf:{}", "patches:{}"]
)
def test_a_pipe_is_no_source(form: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a.parquet'? is a pipe, not a file: save its content as a file"):
        build_source(form.format(tmp_path / "a.parquet"))
    with pytest.raises(UserError, match=r"'/dev/null' is a device, not a file"):
        build_source("/dev/null")


@pytest.mark.parametrize(
    "form", ["{}", "folder:{}", "csv:{}", "list:{}", "zip:{}", "parquet:{}", "hf:{}", "patches:{}"]
)
def test_a_zero_byte_is_in_no_path(form: str) -> None:
    with pytest.raises(UserError, match="no path has a zero byte in it; remove it"):
        build_source(form.format("a\0b"))


def test_a_pipe_beside_tables_is_left_out_or_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pq.write_table(pa.table({"image": [png(0)]}), tmp_path / "a.parquet")
    os.mkfifo(tmp_path / "b.parquet")
    assert len(build_source(f"parquet:{tmp_path}/*.parquet")) == 1
    assert f"{tmp_path}/b.parquet is a pipe, not a file, and is left out" in caplog.text
    with pytest.raises(UserError, match=r"b.parquet is a pipe, not a file"):  # `datasets` would wait for it
        build_source(f"hf:{tmp_path}")


def test_a_pipe_named_as_the_config_of_a_run_is_not_waited_for(tmp_path: Path) -> None:
    write_folder(tmp_path)
    os.mkfifo(tmp_path / "cat" / "config.yaml")
    assert len(build_source(f"folder:{tmp_path}")) == 6


def test_links_to_what_is_listed_already_are_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "retouch")
    write_folder(tmp_path)
    (tmp_path / "dog" / "same.png").symlink_to(tmp_path / "cat" / "0.png")
    (tmp_path / "puppy").symlink_to(tmp_path / "dog")
    assert len(build_source(f"folder:{tmp_path}")) == 6
    assert f"folder:{tmp_path}: 2 links to what is listed already left out: dog/same.png, puppy" in caplog.text
