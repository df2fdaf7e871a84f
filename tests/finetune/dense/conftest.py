"""Images with masks that the tests of this folder share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.finetune.dense.masked_pictures import exported, pictures


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder, and folders of training and test images with their masks."""
    folder = tmp_path_factory.mktemp("masks")
    exported(folder / "encoder")
    pictures(folder / "train", 60, 0)
    pictures(folder / "test", 40, 1)
    return folder
