"""``python -m pretrain CONFIG [key.sub=value ...]``, and under ``torchrun -m pretrain``: the stage by itself."""

from __future__ import annotations

import sys

from common.runs.console import answer
from pretrain.run import command

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print("usage: python -m pretrain CONFIG [key.sub=value ...]")
        raise SystemExit(0 if len(sys.argv) > 1 else 2)
    raise SystemExit(answer("pretrain", lambda: command(sys.argv[1], sys.argv[2:]), lossless=True))
