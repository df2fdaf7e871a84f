"""A plain path is opened according to what is there."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from common.data import build_source
from common.data.build import recognize
from common.errors import UserError
from tests.common.data.samples import write_csv, write_folder, write_list, write_parquet, write_zip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with images in every form."""
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "my pictures")
    write_csv(tmp_path / "csv")
    write_list(tmp_path / "list")
    write_zip(tmp_path)
    write_parquet(tmp_path / "tables" / "a.parquet")
    return tmp_path


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("my pictures", "folder:my pictures"),
        ("./my pictures/", "folder:./my pictures/"),
        ("csv/pictures.csv", "csv:csv/pictures.csv"),
        ("list/pictures.txt", "list:list/pictures.txt"),
        ("pictures.zip", "zip:pictures.zip"),
        ("tables", "parquet:tables/*.parquet"),
        ("tables/a.parquet", "parquet:tables/a.parquet"),
        ("tables/*.parquet", "parquet:tables/*.parquet"),
        ("folder:csv", "folder:csv"),
        ("shapes", "shapes"),
        ("shapes:train:9", "shapes:train:9"),
    ],
)
def test_a_plain_path_gets_the_scheme_of_what_lies_there(here: Path, given: str, meant: str) -> None:
    assert recognize(given) == meant
    assert len(build_source(given)) >= 6


def test_the_home_folder_may_be_written_short(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(here))
    for given in ("~/my pictures", "~/pictures.zip", "~/csv/pictures.csv", "~/list/pictures.txt", "~/tables"):
        assert len(build_source(given)) == 6


@pytest.mark.parametrize("name", ["~my pictures", "~csv/pictures.csv", "~list/pictures.txt", "~tables", "~a.zip"])
def test_a_name_may_begin_with_a_tilde(here: Path, name: str) -> None:
    for old in ("my pictures", "csv", "list", "tables"):
        (here / old).rename(here / f"~{old}")
    (here / "pictures.zip").rename(here / "~a.zip")
    assert len(build_source(name)) == 6


@pytest.mark.parametrize(
    "spec",
    ["~nobody", "folder:~nobody", "csv:~nobody/a.csv", "list:~nobody/a.txt", "zip:~nobody/a.zip", "parquet:~nobody/*"],
)
def test_a_user_that_there_is_not_has_no_pictures(here: Path, spec: str) -> None:
    with pytest.raises(UserError, match="~nobody"):
        build_source(spec)


def test_a_folder_of_tables_and_pictures_is_a_folder_of_pictures(here: Path) -> None:
    write_parquet(here / "my pictures" / "extra.parquet")
    assert recognize("my pictures") == "folder:my pictures"


def test_a_built_in_source_wins_over_a_folder_of_its_name_and_says_so(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_folder(here / "photos")
    with caplog.at_level(logging.WARNING, "retouch"):
        assert build_source("photos").spec == "photos:train:20000"
    assert caplog.messages == ["photos is the built-in source; for the folder of this name, write ./photos"]
    assert build_source("./photos").spec == "folder:./photos"


def test_patches_are_cut_from_a_plain_path_too(here: Path) -> None:
    assert build_source("patches:my pictures").spec == "patches:folder:my pictures"
