"""The benchmarks start: they are run by hand, so nothing else would notice that they no longer fit the code."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import probe_time
import pytest

NAMES = sorted(path.stem for path in (Path(__file__).resolve().parents[2] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_fits_the_code_that_it_imports(name: str) -> None:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != "lightly":  # for peers.py; installed only for that benchmark
            raise
        pytest.skip("lightly is not installed")


def test_the_parts_of_a_probe_that_are_timed_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[str] = []

    def look(self: probe_time.Clock, owner: Any, name: str, part: Callable[..., str]) -> None:
        assert callable(getattr(owner, name))
        found.append(name)

    monkeypatch.setattr(probe_time.Clock, "watch", look)
    probe_time.watched()
    assert {"probe", "load_labeled", "features_of", "choose", "predict"} <= set(found)
