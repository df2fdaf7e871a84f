"""A reader sees a whole file or folder, or none; what a kill leaves is known by its name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.config import Config
from common.encoders.card import read_json
from common.errors import UserError
from common.files import in_full, leftover, new_folder, remove_folder, replacing, stream_at, write_json, write_text
from common.settings import read_yaml
from retouch.studies.journal import read_plan


def test_the_home_folder_may_be_written_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert in_full("~/a/b") == Path("/home/me/a/b")
    assert in_full("~") == Path("/home/me")


@pytest.mark.parametrize("name", ["~backup", "~nobody-here/a", "a/~/b", ".~lock", "runs/~a"])
def test_a_name_that_only_looks_like_a_home_folder_is_itself(name: str) -> None:
    assert in_full(name) == Path(name)


def test_a_file_is_replaced_whole_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.bin"
    for content in (b"first", b"second"):
        with replacing(path) as unfinished:
            unfinished.write_bytes(content)
            assert not path.exists() or path.read_bytes() == b"first"
        assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_a_table_may_be_in_a_folder_whose_name_has_a_colon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with replacing(Path("lr:0.1", "a.parquet")) as unfinished:
        pq.write_table(pa.table({"a": [1]}), unfinished)
    assert pq.read_metadata("lr:0.1/a.parquet").num_rows == 1


def test_a_failure_keeps_the_old_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), replacing(path) as unfinished:
        unfinished.write_bytes(b"half")
        raise RuntimeError
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == {"a.bin": b"old"}


def test_temporary_names_are_known_as_leftovers(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.png") as file, new_folder(tmp_path / "encoder") as folder:
        assert (leftover(file), leftover(folder)) == ("a.png", "encoder")
        file.touch()
    assert all(leftover(entry) is None for entry in tmp_path.iterdir())


@pytest.mark.parametrize("name", ["n" * 255, "é" * 127])
def test_a_name_may_be_as_long_as_the_file_system_takes(name: str, tmp_path: Path) -> None:
    with replacing(tmp_path / name) as unfinished:
        unfinished.write_bytes(b"all")
        assert name.startswith(str(leftover(unfinished)))
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", [".a.tmp", "a.1.tmp", ".a.x.tmp", ".git", ".a.1.part"])
def test_other_names_are_no_leftovers(name: str) -> None:
    assert leftover(Path(name)) is None


def test_a_failure_keeps_the_old_folder(tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    write_text(folder / "a.txt", "old")
    with pytest.raises(RuntimeError), new_folder(folder) as unfinished:
        (unfinished / "a.txt").write_text("half")
        raise RuntimeError
    assert (folder / "a.txt").read_text() == "old"
    assert list(tmp_path.iterdir()) == [folder]
    remove_folder(folder)
    assert list(tmp_path.iterdir()) == []


def test_json_is_readable_text_that_holds_names_of_any_bytes(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"path": "\udcff.png", "wort": "Schärfe"})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "Schärfe" in text
    assert "\\udcff.png" in text
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", float("nan"))


def test_a_pipe_is_refused_wherever_a_user_names_a_file(tmp_path: Path) -> None:
    (tmp_path / "encoder").mkdir()
    pipe = tmp_path / "encoder" / "config.json"
    os.mkfifo(pipe)
    reads: list[Callable[[], object]] = [
        lambda: read_yaml(Config, pipe),
        lambda: read_json(pipe.parent),
        lambda: read_plan(pipe),
    ]
    for read in reads:
        with pytest.raises(UserError, match=r"config.json is a pipe, not a file: save its content as a file, and"):
            read()
    assert stream_at("/dev/null") == "a device"
    assert stream_at(tmp_path) == stream_at(tmp_path / "nothing") == ""
