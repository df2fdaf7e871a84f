"""Where Retouch keeps what it can make or fetch again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """``RETOUCH_CACHE``, in which ``~`` is the home folder, or by default ``~/.cache/retouch``. It may not exist."""
    return Path(os.environ.get("RETOUCH_CACHE") or "~/.cache/retouch").expanduser()
