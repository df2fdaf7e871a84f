"""W&B as it is for a user who has never logged in, and a W&B that starts nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb

from tests.common.runs.wandb_account import ACCOUNT


@pytest.fixture
def no_account(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A user who has never logged in, wherever the tests run; W&B reads its own settings once per process."""
    for name in ACCOUNT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.chdir(tmp_path_factory.mktemp("work"))  # no ./wandb/settings
    wandb.teardown()
    yield
    wandb.teardown()


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The modes W&B is started in: nothing is started here."""
    modes: list[str] = []

    def init(**options: Any) -> SimpleNamespace:
        modes.append(options["mode"])
        return SimpleNamespace(dir=str(tmp_path / "wandb" / "run" / "files"))

    monkeypatch.setattr(wandb, "init", init)
    return modes
