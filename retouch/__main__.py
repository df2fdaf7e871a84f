"""``python -m retouch``: the same as the ``retouch`` command."""

from __future__ import annotations

from retouch.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
