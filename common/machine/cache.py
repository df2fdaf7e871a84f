"""Where Retouch keeps what it can make or fetch again."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from common.files import in_full


def cache_folder() -> Path:
    """``RETOUCH_CACHE``, in which ``~`` is the home folder, or by default ``~/.cache/retouch``. It may not exist.

    A user without a home folder, as in a container, has one among the temporary files.
    """
    folder = in_full(os.environ.get("RETOUCH_CACHE") or "~/.cache/retouch")
    if folder.parts[:1] != ("~",):
        return folder
    user = f"-{os.getuid()}" if hasattr(os, "getuid") else ""
    return Path(tempfile.gettempdir(), f"retouch{user}")
