"""The command line: ``retouch STAGE CONFIG [key.sub=value ...]``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version

from common.errors import UserError
from common.logs import setup_console

EPILOG = """\
examples:
  retouch demo
  retouch pretrain configs/pretrain/denoise.yaml data.source=folder:my/pictures out=runs/mine
  retouch probe configs/probe/linear.yaml encoder=runs/mine/encoder data.train=folder:labelled/train
  retouch finetune configs/finetune/full.yaml encoder=runs/mine/encoder data.train=folder:labelled/train
  retouch embed configs/probe/embed.yaml encoder=runs/mine/encoder data.source=folder:my/pictures
"""

STAGES = {
    "pretrain": "learn an encoder from unlabeled images",
    "probe": "measure a frozen encoder by linear probes and k-NN, beside baselines",
    "finetune": "train the whole encoder with a new head on labelled images",
    "embed": "write features of a frozen encoder to parquet",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, or 2 with one plain message for a user's mistake."""
    setup_console(is_main=os.environ.get("RANK", "0") == "0")
    parser = argparse.ArgumentParser(
        prog="retouch",
        description="Learn from pictures without labels, by putting damaged pictures right again.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"retouch {version('retouch')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in STAGES.items():
        stage = commands.add_parser(name, help=text, description=text)
        stage.add_argument("config", help="a YAML file, e.g. from configs/")
        stage.add_argument("overrides", nargs="*", metavar="key.sub=value", help="settings that replace the file's")
    demo = commands.add_parser("demo", help="the whole way on made-up images, in a few minutes: no data, no account")
    demo.add_argument("--out", default="runs/demo", help="folder for everything the demo writes (default: runs/demo)")
    given = parser.parse_args(arguments)
    try:
        if given.command == "demo":
            from retouch.demo import demo as run_demo

            run_demo(given.out)
        else:
            stage_command(given.command)(given.config, given.overrides)
    except UserError as error:
        print(f"retouch {given.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def stage_command(name: str) -> Callable[[str, Sequence[str]], object]:
    """The stage behind a command, imported only when it is asked for: ``retouch --help`` should not load torch."""
    if name == "pretrain":
        from pretrain.run import command

        return command
    if name == "finetune":
        from finetune.finetune import command as finetune

        return finetune
    if name == "embed":
        from finetune.embed import command as embed

        return embed
    from finetune.probe import command as probe

    return probe


if __name__ == "__main__":
    raise SystemExit(main())
