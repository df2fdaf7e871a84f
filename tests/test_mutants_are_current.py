"""The deliberate breaks of `make mutants` still fit the code: each text occurs exactly once, each test exists."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
MUTANTS: list[dict[str, Any]] = tomllib.loads((ROOT / "tests" / "mutants.toml").read_text(encoding="utf-8"))["mutant"]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: str(mutant["name"]))
def test_a_break_fits_the_code_and_names_tests_that_are_there(mutant: dict[str, Any]) -> None:
    assert (ROOT / mutant["file"]).read_text(encoding="utf-8").count(mutant["old"]) == 1
    for test in mutant["tests"]:
        assert is_there(test), test


def test_the_table_of_what_was_noticed_names_breaks_and_tests_that_are_there() -> None:
    table = (ROOT / "tests" / "mutants.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| `[^`]+` \| `([^` ]+)", table, re.MULTILINE)
    assert len(rows) == len(re.findall(r"^\| .* `", table, re.MULTILINE)) > 300
    assert {name for name, _ in rows} <= {mutant["name"] for mutant in MUTANTS}
    assert [test for _, test in rows if not is_there(f"tests/{test}")] == []


def is_there(test: str) -> bool:
    """Whether there is this file of tests, and the test that is named in it."""
    path, _, name = test.partition("::")
    return (ROOT / path).is_file() and f"def {name.partition('[')[0]}" in (ROOT / path).read_text(encoding="utf-8")
