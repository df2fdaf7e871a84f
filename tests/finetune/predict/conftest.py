"""The runs that most tests of prediction start from; not to be changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.finetune.predict.runs import export, probed, tuned


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``encoder/``, a probe of two tasks, ``probed/``, and a fine-tuned network, ``tuned/``."""
    folder = tmp_path_factory.mktemp("runs")
    encoder = export(folder / "encoder")
    probed(folder / "probed", encoder)
    tuned(folder / "tuned", encoder)
    return folder
