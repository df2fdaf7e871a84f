"""The encoder that most tests of transfer start from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from common.encoders import EncoderConfig, build_encoder
from common.encoders.export import export_encoder


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small exported encoder of 16 px images; not to be changed."""
    folder = tmp_path_factory.mktemp("run") / "encoder"
    torch.manual_seed(0)
    export_encoder(build_encoder(EncoderConfig(model_args={"width": 4, "depth": 1}), image_size=16), folder)
    return folder
