"""Folders to export."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.encoders import Classifier
from common.encoders.export import export_classifier, export_encoder
from tests.common.encoders.toys import build
from tests.retouch.exporting.networks import NAMES


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    """The folder of a small_cnn."""
    export_encoder(build(), tmp_path / "encoder")
    return tmp_path / "encoder"


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """The folder of a fine-tuned small_cnn."""
    export_classifier(Classifier(build(), NAMES), tmp_path / "classifier")
    return tmp_path / "classifier"
