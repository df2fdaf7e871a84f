"""What every command line of the project does around its work: messages, and answers to mistakes."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from common.errors import UserError
from common.logs import setup_console


def answer(name: str, work: Callable[[], object]) -> int:
    """Do the work; the exit code is 0, 2 with one plain message for a user's mistake, or 130 for Ctrl-C."""
    setup_console(is_main=os.environ.get("RANK", "0") == "0")
    try:
        work()
    except UserError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def program(name: str) -> str:
    """``name`` as it can be typed here: bare where a shell finds it, else by its path beside this Python.

    A path below the working folder is given from there, such as ``.venv/bin/retouch``.
    """
    beside = shutil.which(name, path=str(Path(sys.executable).parent))
    if shutil.which(name) or beside is None:
        return name
    path, here = Path(beside), Path.cwd()
    return shlex.quote(str(path.relative_to(here) if here in path.parent.parents else path))
