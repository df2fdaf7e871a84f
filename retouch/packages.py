"""Packages of others: refuse one that shadows ours, before ours are imported; and say how to install optional ones."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path


def check_packages() -> None:
    """Refuse a user's package or module that shadows one of ours. A script that is run, not imported, shadows nothing.

    Raises:
        ImportError: names the file and what to do.
    """
    root = Path(__file__).resolve().parent.parent
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    for name in ("common", "pretrain", "finetune"):
        spec = None if name in sys.modules else importlib.util.find_spec(name)
        found = getattr(sys.modules.get(name), "__file__", None) if spec is None else spec.origin
        if found is None:
            raise ImportError(f"retouch needs its own package {name!r}, which cannot be found; reinstall retouch")
        file = Path(found).resolve()
        if script is not None and file == Path(script).resolve():
            _import_own(name, root / name)
        elif file.parent != root / name:
            other = file.parent if file.name == "__init__.py" else file
            raise ImportError(
                f"retouch needs its own package {name!r}, but {other} is imported in its place; rename it"
            )


def how_to_install(name: str) -> str:
    """How to install an extra of ``pyproject.toml``, for someone who has installed as the README says."""
    return f"pip install '.[{name}]' in your copy of the repository"


def _import_own(name: str, folder: Path) -> None:
    """Import one of our packages from its folder, wherever Python would look first."""
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
