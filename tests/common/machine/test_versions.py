"""Versions, also of a Retouch that runs from its source."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import numpy
import pytest

from common.machine import versions
from retouch.cli import main


def test_version_of_a_package_and_of_one_that_is_not_installed() -> None:
    assert versions.version_of("numpy") == numpy.__version__
    assert versions.version_of("no-such-package") is None


def test_the_command_line_works_where_retouch_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(package: str) -> str:
        raise PackageNotFoundError(package)

    versions.version_of.cache_clear()
    monkeypatch.setattr(versions, "version", missing)
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == "retouch (not installed)\n"
    versions.version_of.cache_clear()
