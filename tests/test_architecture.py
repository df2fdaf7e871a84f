"""The shape of the house: who may import whom."""

from __future__ import annotations

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "common": {"common"},
    "pretrain": {"pretrain", "common"},
    "finetune": {"finetune", "common"},
    "retouch": {"retouch", "pretrain", "finetune", "common"},
}
# started as programs, these are faces too: like `import retouch`, they refuse packages that hide ours
FACES = {ROOT / package / "__main__.py" for package in ("pretrain", "finetune")}
FILES = sorted(path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


@cache
def nodes(path: Path) -> list[ast.AST]:
    """Everything in a file: parsed once for all tests."""
    return list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imported_packages(path: Path) -> set[str]:
    """Top-level names of our own packages that a file imports, anywhere in it."""
    names: set[str] = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names & MAY_IMPORT.keys()


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_packages_import_only_downwards(package: str) -> None:
    wrong = {
        str(path.relative_to(ROOT)): sorted(beyond)
        for path in FILES
        if path.is_relative_to(ROOT / package)
        if (beyond := imported_packages(path) - MAY_IMPORT[package] - ({"retouch"} if path in FACES else set()))
    }
    assert wrong == {}


def test_no_file_is_a_drawer_and_none_is_too_long() -> None:
    assert [str(path) for path in (*FILES, *TESTS) if path.stem in {"utils", "helpers", "misc"}] == []
    lengths = {str(path): len(path.read_text(encoding="utf-8").splitlines()) for path in (*FILES, *TESTS)}
    assert {path: length for path, length in lengths.items() if length > 440} == {}


IMPORTED = re.compile(rf"^\s*from (?:{'|'.join(MAY_IMPORT)})\b[\w.]* import (\([^)]*\)|.*)", re.MULTILINE)
REPLACED = re.compile(r"""\bsetattr\(\s*(?:[^,"']+,\s*)?["']([\w.]+)["']""")  # an attribute, or the path of one


def test_tests_reach_the_code_by_public_names() -> None:
    """What they import and replace is public: else they would break with every change of the inside."""
    torchs = {"_is_amx_tile_supported", "_is_avx512_bf16_supported"}  # no public name says this of a processor
    wrong = set()
    for path in TESTS:
        text = path.read_text(encoding="utf-8")
        names = {word for line in IMPORTED.findall(text) for word in re.findall(r"\w+", line)}
        names |= {name.rpartition(".")[2] for name in REPLACED.findall(text)}
        wrong |= {(str(path.relative_to(ROOT)), name) for name in names - torchs if re.match(r"_[a-z]", name)}
    assert wrong == set()


def test_names_of_test_files_are_unique() -> None:
    """pytest takes files of one name, in folders that are no packages, for one module."""
    names = Counter(path.name for path in TESTS if path.name.startswith("test_"))
    assert [name for name, count in names.items() if count > 1] == []
    assert [str(path) for path in TESTS if path.name == "__init__.py"] == []


def test_what_tests_share_is_in_no_test_file() -> None:
    shared = re.compile(r"^\s*(?:from|import) (tests\.[\w.]*\btest_\w+)", re.MULTILINE)
    found = {str(path.relative_to(ROOT)): shared.findall(path.read_text(encoding="utf-8")) for path in TESTS}
    assert {path: modules for path, modules in found.items() if modules} == {}


def test_nothing_is_unpickled() -> None:
    banned = {"pickle", "joblib", "dill", "shelve"}
    for path in FILES:
        imported = {alias.name for node in nodes(path) if isinstance(node, ast.Import) for alias in node.names}
        assert not imported & banned, path
        loads = [node for node in nodes(path) if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"]
        assert not [load for load in loads if "weights_only=True" not in ast.unparse(load)], path
