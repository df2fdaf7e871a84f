"""Settings that make the runs of these tests faster."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.recipe import few_patches, near_means


@pytest.fixture(autouse=True, scope="module")
def _less_work() -> Iterator[None]:
    with near_means(), few_patches():
        yield
