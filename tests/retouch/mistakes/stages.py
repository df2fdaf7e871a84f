"""Shared by the tests of mistakes: the stages, the output that the user sees, and the files that remain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from finetune.config import EmbedConfig, FinetuneConfig, ProbeConfig
from pretrain.config import PretrainConfig
from retouch.cli import main

HOLE_OF_AN_IMAGE = "size is 32, but images have 32 px: nothing would be hidden; use at most 16"

ROOT = Path(__file__).resolve().parents[3]
CONFIG = str(ROOT / "configs" / "pretrain" / "denoise.yaml")

# each stage with a shipped config, and the settings that make it valid in the working folder of the tests
CONFIGS: dict[str, tuple[str, Any, list[str]]] = {
    "pretrain": (CONFIG, PretrainConfig, []),
    "probe": (
        str(ROOT / "configs" / "probe" / "linear.yaml"),
        ProbeConfig,
        ["encoder=cnn", "data.train=folder:two", "data.task=null"],
    ),
    "finetune": (
        str(ROOT / "configs" / "finetune" / "full.yaml"),
        FinetuneConfig,
        ["encoder=cnn", "data.train=folder:two", "data.task=null"],
    ),
    "embed": (
        str(ROOT / "configs" / "embed" / "embed.yaml"),
        EmbedConfig,
        ["encoder=cnn", "data.source=folder:two"],
    ),
}
LABELED = ("probe", "finetune")
FROZEN = ("probe", "finetune", "embed")


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)).save(path)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def messages(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The lines of stderr."""
    return capsys.readouterr().err.splitlines()


def assert_told(
    here: Path,
    capsys: pytest.CaptureFixture[str],
    stage: str,
    config: str,
    overrides: list[str],
    said: list[str],
) -> None:
    """The stage ends with exit code 2 and exactly these lines, and changes nothing."""
    before = files(here)
    assert main([stage, config, *overrides]) == 2
    expected = [line.format(config=config, here=here) for line in said]
    assert messages(capsys) == [f"retouch {stage}: {expected[0]}", *expected[1:]]
    assert files(here) == before
