"""An exported encoder, and a copy of it to spoil."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from common.encoders.export import export_encoder
from common.encoders.provenance import Provenance
from tests.common.encoders.toys import build


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small_cnn; not to be changed."""
    folder = tmp_path_factory.mktemp("exported") / "encoder"
    export_encoder(build(), folder, Provenance(steps=7))
    return folder


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return shutil.copytree(exported, tmp_path / "encoder")
