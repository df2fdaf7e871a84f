"""A config file."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text("steps: 10\ndamage: {kind: holes, ratio: 0.5, size: 8}\n", encoding="utf-8")
    return path
