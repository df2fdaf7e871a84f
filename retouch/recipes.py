"""The recipes that come with Retouch: YAML files in ``configs/``."""

from __future__ import annotations

from pathlib import Path

from common.errors import UserError

FOLDER = Path(__file__).resolve().parents[1] / "configs"


def recipe(name: str) -> Path:
    """The file of a shipped recipe, such as ``denoise`` or ``probe/linear``.

    Raises:
        UserError: there is no such recipe, or several stages have one of this name.
    """
    found = sorted(path for path in FOLDER.rglob("*.yaml") if name in (path.stem, f"{path.parent.name}/{path.stem}"))
    if len(found) == 1:
        return found[0]
    names = ", ".join(f"{path.parent.name}/{path.stem}" for path in found or sorted(FOLDER.rglob("*.yaml")))
    problem = f"recipe {name!r} is ambiguous" if found else f"no recipe {name!r}"
    raise UserError(f"{problem}; choose one of {names}")
