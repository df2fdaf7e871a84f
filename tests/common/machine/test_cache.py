from __future__ import annotations

from pathlib import Path

import pytest

from common.data.build import build_source
from common.errors import UserError
from common.files import check_place
from common.machine.cache import cache_folder


def test_the_cache_is_in_the_home_folder_unless_the_environment_names_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RETOUCH_CACHE", "")
    assert cache_folder() == tmp_path / ".cache" / "retouch"
    monkeypatch.setenv("RETOUCH_CACHE", "~/elsewhere")
    assert cache_folder() == tmp_path / "elsewhere"


def test_a_user_without_a_home_folder_has_a_cache_among_temporary_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container whose user has a number and no name."""
    monkeypatch.delenv("RETOUCH_CACHE", raising=False)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert cache_folder().parent == tmp_path
    with pytest.raises(UserError, match=r"out: there is no home folder here \(HOME is not set\), so ~/a is nowhere"):
        check_place(Path("~/a"), "out")


def test_downloads_go_to_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RETOUCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=f"cannot be kept in {tmp_path / 'file' / 'torchvision'} "):
        build_source("torchvision:MNIST")
