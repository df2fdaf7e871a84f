"""The ruler is tested unchanged."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True, scope="module")
def _near_means() -> None:
    """In place of that of the tests of pretraining."""
