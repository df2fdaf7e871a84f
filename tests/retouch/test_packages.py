"""A file of the user's own that hides one of ours is named, and every hint at an optional package is the same."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from retouch.packages import how_to_install

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("files", "script", "hides"),
    [
        ({"common/__init__.py": "X = 1"}, "train.py", "common"),
        ({"common/__init__.py": "X = 1"}, "from_common.py", "common"),
        ({"pretrain.py": "raise SystemExit('this script was run')"}, "train.py", "pretrain.py"),
        ({"finetune.py": "raise SystemExit('this script was run')"}, "train.py", "finetune.py"),
    ],
)
def test_a_hidden_package_gives_one_clear_error(files: dict[str, str], script: str, hides: str, tmp_path: Path) -> None:
    scripts = {"train.py": "import retouch", "from_common.py": "from common import X\nimport retouch"}
    for name, text in (files | scripts).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    done = subprocess.run(
        [sys.executable, tmp_path / script],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )
    package = Path(hides).stem
    assert done.stderr.splitlines()[-1] == (
        f"ImportError: retouch needs its own package {package!r}, but {tmp_path / hides} is imported in its place; "
        "rename it"
    )


@pytest.mark.parametrize(
    ("module", "hides"),
    [
        ("pretrain", "common"),
        ("pretrain", "finetune"),
        ("finetune", "common"),
        ("finetune", "pretrain"),
        ("retouch", "common"),
        ("retouch", "pretrain"),
    ],
)
def test_a_stage_started_as_a_module_gives_the_same_error(module: str, hides: str, tmp_path: Path) -> None:
    """The working folder comes first in the search path then, as under torchrun."""
    (tmp_path / hides).mkdir()
    (tmp_path / hides / "__init__.py").write_text("X = 1")
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == (
        f"ImportError: retouch needs its own package {hides!r}, but {tmp_path / hides} is imported in its place; "
        "rename it"
    )


@pytest.mark.parametrize(("name", "stage"), [("pretrain", "pretrain"), ("finetune", "probe")])
def test_a_script_may_have_the_name_of_a_package(name: str, stage: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.py").write_text(f"import retouch\nimport {name}.__main__ as ours\nprint(ours.STAGES[0].name)")
    done = subprocess.run(
        [sys.executable, tmp_path / f"{name}.py"],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )
    assert done.stdout == f"{stage}\n", done.stderr


def test_a_folder_of_the_same_name_without_a_package_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "common").mkdir()
    (tmp_path / "train.py").write_text("import retouch; print(retouch.UserError.__module__)")
    done = subprocess.run(
        [sys.executable, tmp_path / "train.py"],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )
    assert (done.stdout, done.stderr) == ("common.errors\n", "")


def test_types_are_exported() -> None:
    assert all((ROOT / package / "py.typed").is_file() for package in ("common", "pretrain", "finetune", "retouch"))


def test_extras_are_installed_from_the_copy_of_the_repository_as_the_readme_says() -> None:
    """By its name alone, pip would look for a package of that name in its index."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert how_to_install("export").startswith("pip install '.[export]'")
    packages = ("common", "pretrain", "finetune", "retouch")
    code = [path for package in packages for path in (ROOT / package).rglob("*.py")]
    documents = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "docs").rglob("*.ipynb")]
    hints = {
        (str(path.relative_to(ROOT)), *found)
        for path in (*code, *documents)
        for found in re.findall(r"pip install ['\"]?([\w.]*)\[([^\]]*)\]", path.read_text(encoding="utf-8"))
    }
    assert {package for _, package, _ in hints} == {"."}
    assert {name for _, _, name in hints} - {"{name}"} <= extras.keys()
    assert {path for path, _, name in hints if name == "{name}"} == {"retouch/packages.py"}
    assert not [path for path, *_ in hints if path.endswith(".py") and path != "retouch/packages.py"]
