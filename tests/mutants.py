"""Break the wiring on purpose, one place at a time, and see which test notices.

    make mutants                                   # all of them, and the table in tests/mutants.md
    python tests/mutants.py --only "betas ignored" # one; part of a name will do
    python tests/mutants.py --new --write          # those that the table lacks
    python tests/mutants.py --list

``tests/mutants.toml`` names each break: a file, a text that stands in it exactly once, what to put there, and the tests
that must fail. A text that is not there exactly once, or a test that is gone, is stale: an error, like a break that no
test notices. The code is broken in a copy; nothing here is touched.

Each break is tried in a fork of a process that has imported the large libraries already, and no Python file is compiled
to disk: a file that is changed twice within a second would be mistaken for its older self.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE, REPORT = ROOT / "tests" / "mutants.toml", ROOT / "tests" / "mutants.md"
SECONDS = 240  # for one break; a test that hangs has noticed it too


@dataclass(frozen=True)
class Mutant:
    """One deliberate break."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]  # files or node ids, of which at least one must fail


@dataclass(frozen=True)
class Outcome:
    """The outcome of a break: ``killed`` by a test, ``SURVIVED``, ``STALE`` or ``BROKEN`` (its tests cannot run)."""

    verdict: str
    by: str
    seconds: float


def read_table(path: Path = TABLE) -> list[Mutant]:
    """Every entry, in the file's order; names are unique."""
    entries = tomllib.loads(path.read_text(encoding="utf-8"))["mutant"]
    mutants = [Mutant(**{**entry, "tests": tuple(entry["tests"])}) for entry in entries]
    names = [mutant.name for mutant in mutants]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SystemExit(f"{path}: named twice: {', '.join(twice)}")
    return mutants


def stale(mutant: Mutant, tree: Path) -> str:
    """What in the entry no longer matches the code; empty if it still fits."""
    path = tree / mutant.file
    count = path.read_text(encoding="utf-8").count(mutant.old) if path.is_file() else 0
    if count != 1:
        return f"its text stands {count} times in {mutant.file}"
    for test in mutant.tests:
        file, _, name = test.partition("::")
        if not (tree / file).is_file() or f"def {name}" not in (tree / file).read_text(encoding="utf-8"):
            return f"there is no {test}"
    return ""


def copy_tree(target: Path) -> None:
    """Files that git tracks or would add, in their current state."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout.decode()
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def warm_up() -> None:
    """Import what every test needs and no break changes."""
    import kornia.color  # noqa: F401
    import pydantic  # noqa: F401
    import pytest  # noqa: F401
    import sklearn.cluster  # noqa: F401
    import timm  # noqa: F401
    import torch
    import wandb  # noqa: F401

    torch.set_num_threads(1)  # a pool of threads does not survive a fork


def run_tests(tree: Path, tests: Sequence[str], seconds: float) -> tuple[int | None, str]:
    """pytest's exit code, None where it took too long, and what it said."""
    with tempfile.TemporaryFile("w+") as said:
        process = os.fork()
        if not process:
            _become_pytest(tree, tests, said.fileno())
        code = _wait(process, seconds)
        said.seek(0)
        return code, said.read()


def _become_pytest(tree: Path, tests: Sequence[str], output: int) -> None:
    """The child: what it leaves running ends with its process group."""
    os.setpgid(0, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(tree)
    os.environ |= {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "PATIENCE": "45"}
    sys.dont_write_bytecode = True
    sys.path[:] = [str(tree), *(path for path in sys.path if Path(path or ".").resolve() not in (ROOT, ROOT / "tests"))]
    code = 3
    with contextlib.suppress(BaseException):
        import pytest

        code = int(pytest.main(["-x", "-rfE", "--tb=no", "-p", "no:cacheprovider", *tests]))
    sys.stdout.flush()
    os._exit(code)


def _wait(process: int, seconds: float) -> int | None:
    patience = time.monotonic() + seconds
    try:
        while time.monotonic() < patience:
            done, status = os.waitpid(process, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.02)
        return None
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(process, 0)


def attempt(mutant: Mutant, tree: Path) -> Outcome:
    """Break the copy, run the tests that should notice, and put the copy right again."""
    started = time.monotonic()
    if why := stale(mutant, tree):
        return Outcome("STALE", why, 0.0)
    path = tree / mutant.file
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        code, said = run_tests(tree, mutant.tests, SECONDS)
    finally:
        path.write_text(whole, encoding="utf-8")
    seconds = time.monotonic() - started
    if code is None:
        return Outcome("killed", f"{mutant.tests[0]} (does not end)", seconds)
    if code == 0:
        return Outcome("SURVIVED", ", ".join(mutant.tests), seconds)
    if code < 0:
        return Outcome("killed", f"{mutant.tests[0]} (ends by signal {-code})", seconds)
    failed = re.search(r"^(?:FAILED|ERROR) (\S+)", said, re.MULTILINE)
    if code == 1 and failed:
        return Outcome("killed", re.sub(r"\[.*", "", failed[1]), seconds)
    return Outcome("BROKEN", f"pytest ended with {code}: {' '.join(said.split())[-300:]}", seconds)


def check_baseline(mutants: Sequence[Mutant], tree: Path) -> None:
    """The tests must pass while nothing is broken, or their failing says nothing."""
    tests = sorted({test for mutant in mutants if not stale(mutant, tree) for test in mutant.tests})
    code, said = run_tests(tree, tests, seconds=60 * len(tests)) if tests else (0, "")
    if code != 0:
        raise SystemExit(f"these tests fail although nothing is broken:\n{said[-3000:]}")


def rows(report: Path = REPORT) -> dict[str, str]:
    """The lines of the table for people, by the names of the breaks."""
    text = report.read_text(encoding="utf-8") if report.is_file() else ""
    return {line[2:].partition(" | ")[0]: line for line in text.splitlines() if line.startswith("| ")}


def report(mutants: Sequence[Mutant], outcomes: dict[Mutant, Outcome], before: dict[str, str]) -> str:
    """The table for people: what was tried now, and the lines from before of what was not."""
    lines = [
        "# What is broken on purpose, and which test sees it",
        "",
        "Written by `make mutants`: each line is one break of the code (`tests/mutants.toml`), made in a copy, and the",
        "first test that failed.",
        "",
        "| broken | in | seen by |",
        "| --- | --- | --- |",
    ]
    for mutant in mutants:
        if outcome := outcomes.get(mutant):
            seen = f"`{outcome.by}`" if outcome.verdict == "killed" else f"**{outcome.verdict}** {outcome.by}"
            lines.append(f"| {mutant.name} | `{mutant.file}` | {seen.replace('tests/', '')} |")
        elif mutant.name in before:
            lines.append(before[mutant.name])
    return "\n".join([*lines, ""])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", metavar="NAME", help="breaks whose name holds this; repeatable")
    parser.add_argument("--list", action="store_true", help="names, and which entries are stale")
    parser.add_argument("--new", action="store_true", help="those that tests/mutants.md does not have")
    parser.add_argument("--write", action="store_true", help="write what came out into tests/mutants.md")
    parser.add_argument("--no-baseline", action="store_true", help="do not run the tests unbroken first")
    given = parser.parse_args()
    every, before = read_table(), rows()
    mutants = [mutant for mutant in every if not (given.new and mutant.name in before)]
    if given.only:
        mutants = [mutant for mutant in mutants if any(part in mutant.name for part in given.only)]
    if not mutants:
        raise SystemExit("no break has such a name; see --list")
    if given.list:
        for mutant in mutants:
            why = stale(mutant, ROOT)
            print(f"STALE {mutant.name}: {why}" if why else mutant.name)
        return 0

    warm_up()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        tree = Path(folder)
        copy_tree(tree)
        if not given.no_baseline:
            check_baseline(mutants, tree)
        outcomes: dict[Mutant, Outcome] = {}
        for mutant in mutants:
            outcomes[mutant] = outcome = attempt(mutant, tree)
            print(f"{outcome.verdict:9}{outcome.seconds:5.1f} s  {mutant.name}: {outcome.by}", flush=True)
    wrong = [mutant.name for mutant, outcome in outcomes.items() if outcome.verdict != "killed"]
    print(
        f"{len(outcomes) - len(wrong)} of {len(outcomes)} breaks were noticed" + "".join(f"\n  not: {n}" for n in wrong)
    )
    if given.write:
        REPORT.write_text(report(every, outcomes, before), encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
