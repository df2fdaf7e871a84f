"""Versions of installed packages."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version


@cache  # read from disk, and each run asks for a dozen
def version_of(package: str) -> str | None:
    """Such as ``2.11.0``; None for what is not installed, such as Retouch itself when it runs from its source."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def signature() -> str:
    """``retouch 0.1.0``, for people."""
    return f"retouch {version_of('retouch') or '(not installed)'}"
