"""Images in a zip file, read in place."""

from __future__ import annotations

import logging
import multiprocessing
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import psutil
import pytest
import torch

from common.data import build_source, load_images, names
from common.errors import UserError
from tests.common.data.samples import png


def pack(path: Path, *names: str, broken: str = "", method: int = zipfile.ZIP_DEFLATED) -> str:
    """A zip file with a picture under each name; returns it as a source."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for number, name in enumerate(names):
            archive.writestr(name, b"" if name.endswith("/") else b"broken" if name == broken else png(number))
    return f"zip:{path}"


def test_folders_in_it_are_classes(tmp_path: Path) -> None:
    source = build_source(pack(tmp_path / "a.zip", "cat/", "dog/1.png", "cat/a/0.png", "cat/2.png"))
    assert [source.where(row) for row in range(3)] == [
        f"{tmp_path}/a.zip/{name}" for name in ("cat/2.png", "cat/a/0.png", "dog/1.png")
    ]
    assert source.labels().names == ("cat", "dog")
    assert source.labels().values.tolist() == [0, 0, 1]


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_pixels_are_those_of_the_files(tmp_path: Path, method: int) -> None:
    packed = load_images(build_source(pack(tmp_path / "a.zip", "b.png", "a.png", method=method)), 16)
    for number, name in enumerate(("b.png", "a.png")):
        (tmp_path / "files").mkdir(exist_ok=True)
        (tmp_path / "files" / name).write_bytes(png(number))
    files = load_images(build_source(f"folder:{tmp_path / 'files'}"), 16)
    assert torch.equal(packed.rows(torch.arange(2)), files.rows(torch.arange(2)))


def test_a_folder_that_holds_everything_is_no_class(tmp_path: Path) -> None:
    source = build_source(pack(tmp_path / "a.zip", "all/data/cat/0.png", "all/data/dog/1.png", "all/readme.txt"))
    assert source.labels().names == ("cat", "dog")
    assert load_images(source, 8).pixels is not None


def test_runs_in_it_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = pack(
        tmp_path / "a.zip",
        *("data/cat/0.png", "data/dog/1.png", "data/runs/mine/panels/2.png", "data/runs/mine/encoder/3.png"),
        *("data/venv/lib/4.png", "data/dog/pages/5.png"),
    )
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        archive.writestr("data/runs/mine/config.yaml", "# retouch pretrain 1.0\nsteps: 3\n")
        archive.writestr("data/venv/pyvenv.cfg", "home = /usr/bin")
        archive.writestr("data/dog/config.yaml", "steps: 3\n")  # not of ours
    with caplog.at_level(logging.INFO, logger="retouch"):
        source = build_source(spec)
    assert source.labels().names == ("cat", "dog")
    assert len(source) == 3
    assert f"{spec}: 1 folder written by retouch left out: data/runs/mine" in caplog.messages
    assert f"{spec}: 1 folder that holds no images of yours left out: data/venv" in caplog.messages
    with pytest.raises(UserError, match=r"no image files in it, except in folders that are left out"):
        build_source(f"{spec}/data/runs")
    with pytest.raises(UserError, match=r"retouch pretrain wrote what is in it"):
        build_source(f"{spec}/data/runs/mine")


def test_splits_in_it_are_splits_and_can_be_named(tmp_path: Path) -> None:
    names = ("p/train/cat/0.png", "p/train/dog/1.png", "p/test/cat/2.png", "p/test/dog/3.png")
    spec = pack(tmp_path / "a.zip", *names)
    source = build_source(spec)
    test = source.published_test()
    assert test is not None
    assert (len(source), len(test), source.labels().names) == (2, 2, ("cat", "dog"))
    assert build_source(f"{spec}/p/test").fingerprint == test.fingerprint != source.fingerprint
    assert [len(load_images(one, 8)) for one in (source, test)] == [2, 2]


def test_what_is_no_image_of_the_user_is_left_out(tmp_path: Path) -> None:
    names = ("cat/0.png", "dog/1.png", "__MACOSX/cat/._0.png", ".hidden.png", "dog/.thumb/2.png", "notes.txt")
    assert len(build_source(pack(tmp_path / "a.zip", *names))) == 2


def test_broken_entries_are_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = pack(
        tmp_path / "a.zip", "cat/0.png", "cat/1.png", "dog/2.png", broken="cat/1.png", method=zipfile.ZIP_STORED
    )
    raw = bytearray((tmp_path / "a.zip").read_bytes())
    raw[raw.index(png(2)) + 40] ^= 255  # its checksum does not fit
    (tmp_path / "a.zip").write_bytes(raw)
    with caplog.at_level(logging.WARNING, "retouch"):
        images = load_images(build_source(spec), 8, cache="none", workers=2)
    assert images.kept.tolist() == [0]
    assert "2 of 3 images" in caplog.text


def test_a_forked_process_reads_without_moving_its_parents_place_in_the_file(tmp_path: Path) -> None:
    spec = pack(tmp_path / "a.zip", "0.png")
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:  # a read buffer must not hold all of the file
        archive.writestr("notes.txt", bytes(1 << 20), zipfile.ZIP_STORED)
    source = build_source(spec)

    def places() -> list[int]:
        """Where this process is in the zip file."""
        return [one.position for one in psutil.Process().open_files() if Path(one.path) == tmp_path / "a.zip"]

    before = places()
    assert len(before) == 1
    child = multiprocessing.get_context("fork").Process(target=source.image, args=(0,))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert places() == before


def test_a_file_changed_under_a_run_is_read_again(tmp_path: Path) -> None:
    spec = pack(tmp_path / "a.zip", "0.png")
    before = build_source(spec)
    pack(tmp_path / "a.zip", "0.png", "1.png")
    assert build_source(spec).fingerprint != before.fingerprint


def test_mistakes_get_one_plain_message(tmp_path: Path) -> None:
    (tmp_path / "no.zip").write_text("no zip")
    texts = pack(tmp_path / "texts.zip", "a.txt", "b.csv", "c.txt")
    for spec, message in (
        (f"zip:{tmp_path}/gone.zip", f"zip:{tmp_path}/gone.zip: no such file: {tmp_path}/gone.zip"),
        (f"zip:{tmp_path}", f"zip:{tmp_path}: is a folder, not a zip file: {tmp_path}"),
        (f"zip:{tmp_path}/no.zip", f"zip:{tmp_path}/no.zip: {tmp_path}/no.zip is not readable as a zip file: File is "
         "not a zip file"),
        (texts, f"{texts}: no image files in it (found 2 .txt, 1 .csv)"),
        (pack(tmp_path / "empty.zip"), f"zip:{tmp_path}/empty.zip: no image files in it"),
        (f"{pack(tmp_path / 'a.zip', 'cat/0.png')}/dog", f"zip:{tmp_path}/a.zip/dog: no image files in it"),
    ):  # fmt: skip
        with pytest.raises(UserError) as error:
            build_source(spec)
        assert str(error.value) == message


def test_encrypted_entries_are_refused_at_once(tmp_path: Path) -> None:
    spec = pack(tmp_path / "a.zip", "cat/0.png", method=zipfile.ZIP_STORED)
    raw = bytearray((tmp_path / "a.zip").read_bytes())
    raw[raw.index(b"PK\x01\x02") + 8] |= 1  # the flag in the list of entries
    (tmp_path / "a.zip").write_bytes(raw)
    with pytest.raises(UserError, match="1 of its 1 entries are encrypted: unpack it"):
        build_source(spec)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_of_files_with_one_name_the_last_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = pack(tmp_path / "a.zip", "cat/0.png", "cat/0.png", "dog/1.png")
    source = build_source(spec)
    assert f"{spec}: 1 of its files have the name of a later one, and are left out" in caplog.text
    (tmp_path / "1.png").write_bytes(png(1))
    (tmp_path / "2.png").write_bytes(png(2))
    files = build_source(f"folder:{tmp_path}")
    assert torch.equal(load_images(source, 8).rows(torch.arange(2)), load_images(files, 8).rows(torch.arange(2)))


@pytest.mark.parametrize("form", ["{}\\{}", "./{}/{}", "/{}/{}"])
def test_paths_as_other_programs_write_them_are_read(tmp_path: Path, form: str) -> None:
    spec = pack(tmp_path / "a.zip", form.format("cat", "0.png"), form.format("dog", "1.png"))
    source = build_source(spec)
    assert [source.where(row) for row in range(2)] == [
        f"{tmp_path}/a.zip/{name}" for name in ("cat/0.png", "dog/1.png")
    ]
    assert source.labels().names == ("cat", "dog")
    assert load_images(source, 8).kept.tolist() == [0, 1]


def test_names_do_not_depend_on_the_locale() -> None:
    odd = "['caf\\xe9', 'caf\\udcc3\\udca9']"
    code = f"import runpy; print(ascii(list(runpy.run_path({names.__file__!r})['Names']({odd}))))"
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | locale, capture_output=True, check=True)
    assert done.stdout.decode().strip() == odd
