"""``python -m finetune probe|finetune|embed CONFIG [key.sub=value ...]``: the transfer stages by themselves."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from common.runs.console import answer

STAGES = ("probe", "finetune", "embed")
USAGE = f"usage: python -m finetune {'|'.join(STAGES)} CONFIG [key.sub=value ...]"


def main(arguments: Sequence[str]) -> int:
    """Run one stage; returns the exit code: 0, or 2 with one plain message for a user's mistake."""
    if arguments and arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    if len(arguments) < 2 or arguments[0] not in STAGES:
        print(USAGE, file=sys.stderr)
        return 2
    stage, path, *overrides = arguments
    return answer(stage, lambda: stage_command(stage)(path, overrides), lossless=stage == "finetune")


def stage_command(name: str) -> Callable[[str, Sequence[str]], object]:
    """The stage behind a command, imported only when it is asked for."""
    if name == "embed":
        from finetune.embed import command as embed

        return embed
    if name == "finetune":
        from finetune.full import command as finetune

        return finetune
    from finetune.probe import command as probe

    return probe


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
