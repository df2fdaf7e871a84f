"""The command line: ``retouch STAGE CONFIG [key.sub=value ...]``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.metadata import version

from common.runs.console import Parser, add_stages, answer, program
from finetune.__main__ import STAGES as TRANSFER
from pretrain.__main__ import STAGES as PRETRAINING

EPILOG = """\
examples:
  retouch demo
  retouch lecture
  retouch pretrain configs/pretrain/denoise.yaml data.source=folder:my/pictures out=runs/mine
  retouch probe configs/probe/linear.yaml encoder=runs/mine/encoder data.train=folder:labelled/train data.task=null
  retouch finetune configs/finetune/full.yaml encoder=runs/mine/encoder data.train=folder:labelled/train data.task=null
  retouch embed configs/probe/embed.yaml encoder=runs/mine/encoder data.source=folder:my/pictures
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, or 2 with one plain message for a user's mistake."""
    parser = Parser(
        prog="retouch",
        description="Learn from images without labels, by restoring damaged ones.",
        epilog=EPILOG.replace("  retouch ", f"  {program('retouch')} "),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"retouch {version('retouch')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_stages(commands, (*PRETRAINING, *TRANSFER))
    demo = commands.add_parser("demo", help="pretrain and probe on generated images, in minutes; no data, no account")
    demo.add_argument("--out", default="runs/demo", help="folder for everything the demo writes (default: runs/demo)")
    demo.set_defaults(run=_demo)
    lecture = commands.add_parser("lecture", help="every code from PCA to colorization, with pictures; no data")
    lecture.add_argument("--out", default="runs/lecture", help="folder for all it writes (default: runs/lecture)")
    lecture.set_defaults(run=_lecture)
    given = parser.parse_args(arguments)
    code: int = given.run(given)
    return code


# Imported only when needed: ``retouch --help`` must not load torch.


def _demo(given: argparse.Namespace) -> int:
    def work() -> None:
        from retouch.demo import demo

        demo(given.out)

    return answer("retouch demo", work, lossless=True, again="run it again")


def _lecture(given: argparse.Namespace) -> int:
    def work() -> None:
        from retouch.lecture import lecture

        lecture(given.out)

    return answer("retouch lecture", work, again="run it again")


if __name__ == "__main__":
    raise SystemExit(main())
