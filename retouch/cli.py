"""The command line: ``retouch STAGE CONFIG [key.sub=value ...]``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version

from common.runs.console import answer, program

EPILOG = """\
examples:
  retouch demo
  retouch lecture
  retouch pretrain configs/pretrain/denoise.yaml data.source=folder:my/pictures out=runs/mine
  retouch probe configs/probe/linear.yaml encoder=runs/mine/encoder data.train=folder:labelled/train data.task=null
  retouch finetune configs/finetune/full.yaml encoder=runs/mine/encoder data.train=folder:labelled/train data.task=null
  retouch embed configs/probe/embed.yaml encoder=runs/mine/encoder data.source=folder:my/pictures
"""

SETTINGS = (
    "CONFIG and any key.sub=value are checked before anything is written. All settings with their values stand in the "
    "config.yaml that a run writes to its folder; an unknown one is answered with the nearest name there is."
)

STAGES = {
    "pretrain": "learn an encoder from unlabeled images",
    "probe": "measure a frozen encoder by linear probes and k-NN, beside baselines",
    "finetune": "train the whole encoder with a new head on labelled images",
    "embed": "write features of a frozen encoder to parquet",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, or 2 with one plain message for a user's mistake."""
    parser = argparse.ArgumentParser(
        prog="retouch",
        description="Learn from pictures without labels, by putting damaged pictures right again.",
        epilog=EPILOG.replace("  retouch ", f"  {program('retouch')} "),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"retouch {version('retouch')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in STAGES.items():
        stage = commands.add_parser(name, help=text, description=text, epilog=SETTINGS)
        stage.add_argument("config", help="a YAML file, e.g. from configs/")
        stage.add_argument(
            "overrides", nargs="*", default=[], metavar="key.sub=value", help="settings that replace the file's"
        )
    demo = commands.add_parser("demo", help="the whole way on made-up images, in a few minutes: no data, no account")
    demo.add_argument("--out", default="runs/demo", help="folder for everything the demo writes (default: runs/demo)")
    lecture = commands.add_parser(
        "lecture", help="every code from PCA to colorization, with its pictures: no data needed"
    )
    lecture.add_argument("--out", default="runs/lecture", help="folder for what it writes (default: runs/lecture)")
    given = parser.parse_args(arguments)
    work, lossless = partial(_work, given), given.command in ("pretrain", "finetune", "demo")
    if given.command in STAGES:
        return answer(f"retouch {given.command}", work, lossless=lossless)
    return answer(f"retouch {given.command}", work, lossless=lossless, again="start it again")


def _work(given: argparse.Namespace) -> None:
    """Stages are imported only when they are asked for: ``retouch --help`` should not load torch."""
    if given.command == "demo":
        from retouch.demo import demo

        demo(given.out)
    elif given.command == "lecture":
        from retouch.lecture import lecture

        lecture(given.out)
    elif given.command == "pretrain":
        from pretrain.run import command

        command(given.config, given.overrides)
    else:
        from finetune.__main__ import stage_command

        stage_command(given.command)(given.config, given.overrides)


if __name__ == "__main__":
    raise SystemExit(main())
