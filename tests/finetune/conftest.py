"""A grid of few strengths for the tests of what does not depend on it."""

from __future__ import annotations

import pytest


@pytest.fixture
def few_strengths(monkeypatch: pytest.MonkeyPatch) -> None:
    """For stages that probe with the standard grid, which they leave no choice of."""
    monkeypatch.setattr("finetune.probes.linear.STRENGTHS", {"logistic": (1e-3, 1e-1), "ridge": (1e-3, 1e-1)})
