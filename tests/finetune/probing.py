"""Small probes of one task of generated images, with one strength and one space, and without what takes time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError
from finetune.config import ProbeConfig
from finetune.probe import probe

QUICK: dict[str, Any] = {
    "data": {"train": "shapes", "task": "color", "limit": 100, "test_limit": 60, "workers": 0},
    "probe": {"l2": [1e-2], "layers": [-1], "poolings": ["avg"], "folds": 2},
    "knn": None,
    "properties": False,
    "damage": [],
    "null_check": False,
    "precision": "float32",
    "feature_cache": False,
    "wandb": {"mode": "disabled"},
}
ALONE = {"random_init": False, "pixels": False}  # no baselines


def probing(out: Path, encoder: Path, **changes: Any) -> dict[str, Any]:
    """Settings of a probe on 100 images; ``limit`` is another number of them."""
    limit = changes.pop("limit", QUICK["data"]["limit"])
    return {**QUICK, "out": str(out), "encoder": str(encoder), "data": {**QUICK["data"], "limit": limit}} | changes


def refusal(config_of: Callable[..., ProbeConfig], here: Path, out: Path, **changes: Any) -> str:
    """What is said when a probe with these settings is refused, before anything is written."""
    with pytest.raises((UserError, ValueError)) as wrong:
        probe(config_of(here, out, **changes), show=False)
    assert not out.exists()
    return str(wrong.value)
