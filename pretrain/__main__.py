"""``python -m pretrain CONFIG [key.sub=value ...]``, and under ``torchrun -m pretrain``: the stage by itself."""

from __future__ import annotations

import os
import sys

from common.errors import UserError
from common.logs import setup_console
from pretrain.run import command

if __name__ == "__main__":
    setup_console(is_main=os.environ.get("RANK", "0") == "0")
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print("usage: python -m pretrain CONFIG [key.sub=value ...]")
        raise SystemExit(0 if len(sys.argv) > 1 else 2)
    try:
        command(sys.argv[1], sys.argv[2:])
    except UserError as error:
        print(f"pretrain: {error}", file=sys.stderr)
        raise SystemExit(2) from None
