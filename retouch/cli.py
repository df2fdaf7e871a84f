"""The command line: ``retouch COMMAND``, and its stages: ``retouch STAGE [RECIPE or RUN] [key.sub=value ...]``."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from textwrap import fill
from typing import Any

from common.errors import check_all
from common.machine.versions import signature
from common.recipes import CHOICE, STAGES, find_recipe, full_names, listing, offered, recipes, sweeps
from common.runs.completion import complete_run, remember_keys
from common.runs.console import Parser, Stage, add_stages, answer, columns, program
from common.runs.describe import describe, settings_of
from common.runs.screen import say
from common.settings import check_overrides
from finetune.__main__ import STAGES as TRANSFER
from pretrain.__main__ import RESTORING
from pretrain.__main__ import STAGES as PRETRAINING
from retouch.exporting.settings import ExportConfig, export_config

STUDY = Stage(
    "study",
    "will pretraining help on my pictures, by how much, and with which method?",
    "retouch.studies.command",
    "retouch.studies.config:StudyConfig",
    lossless=True,
)

EPILOG = """\
examples:
  retouch demo
  retouch pretrain colorize data=my/pictures out=runs/mine
  retouch probe linear encoder=runs/mine data=my/labeled out=runs/mine-probe
  retouch finetune full encoder=runs/mine data=my/labeled
  retouch embed encoder=runs/mine data=my/pictures
  retouch predict runs/mine-probe data=my/new
  retouch search runs/mine data=my/pictures query=image.jpg
  retouch restore runs/mine data=my/new
  retouch strange runs/mine data=my/pictures --top 20
  retouch study data=my/pictures labels=my/labeled budget=20m
  retouch report runs/mine runs/mine-probe -o report.html
  retouch repeat runs/mine-probe
  retouch runs --sort result
  retouch label encoder=runs/mine data=my/pictures -o label.html
  retouch export runs/mine to=exports/mine format=onnx
  retouch pretrain denoise --help

encoders of colorize see pictures in gray: use mask or denoise if yours are
gray, or if color tells your classes apart
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, or 2 with one plain message for a user's mistake."""
    parser = command_line()
    if "_ARGCOMPLETE" in os.environ:  # set by a shell that completes the line
        import argcomplete

        argcomplete.autocomplete(parser, always_complete_options=False)
    given = parser.parse_args(arguments)
    code: int = given.run(given)
    return code


def command_line() -> Parser:
    """All commands and their arguments."""
    parser = Parser(
        prog="retouch",
        description="Learn from images without labels, by restoring damaged ones.",
        epilog=EPILOG.replace("  retouch ", f"  {program('retouch')} "),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=signature())

    def show_help(given: argparse.Namespace) -> int:
        say(parser.format_help().rstrip())
        return 0

    parser.set_defaults(run=show_help)  # if no command is named
    commands = parser.add_subparsers(metavar="COMMAND")
    add_stages(commands, (*PRETRAINING, *TRANSFER, *RESTORING, STUDY))
    shipped = commands.add_parser("recipes", help="list the recipes, or print one", description=_recipes.__doc__)
    name: Any = shipped.add_argument("recipe", nargs="?", metavar="RECIPE", help="a name, or STAGE/NAME")
    name.completer = lambda **_: full_names([*offered(), *sweeps()])
    shipped.add_argument("--json", action="store_true", help="list them for programs")
    shipped.set_defaults(run=_recipes)
    demo = commands.add_parser(
        "demo",
        help="pretrain and probe on generated images, in minutes; no data or account needed",
        description=_demo.__doc__,
    )
    demo.add_argument("--out", default="runs/demo", help="folder for everything the demo writes (default: runs/demo)")
    demo.add_argument(
        "settings",
        nargs="*",
        metavar="key.sub=value",
        help="settings of both pretraining runs, such as steps=200; retouch pretrain denoise_demo --help lists them",
    )
    demo.add_argument(
        "--probe",
        action="append",
        default=[],
        metavar="key.sub=value",
        help="a setting of both probes, such as seed=1; retouch probe demo --help lists them",
    )
    demo.set_defaults(run=_demo)
    lecture = commands.add_parser(
        "lecture",
        help="every code from PCA to colorization, with pictures; no data needed",
        description=_lecture.__doc__,
    )
    lecture.add_argument(
        "--out", default="runs/lecture", help="folder for everything it writes (default: runs/lecture)"
    )
    lecture.set_defaults(run=_lecture)
    _add_commands_of_runs(commands)
    for name, command in commands.choices.items():
        examples = (line.strip() for line in EPILOG.splitlines())
        command.example = next((line for line in examples if line.startswith(f"retouch {name} ")), "")
    return parser


def _add_commands_of_runs(commands: argparse._SubParsersAction[Parser]) -> None:
    """The commands about existing runs."""
    again = commands.add_parser(
        "repeat", help="run a result again, and check whether its numbers are the same", description=_repeat.__doc__
    )
    again.add_argument(
        "result", metavar="RUN", help="a finished run of pretrain, probe or finetune, or its results.json"
    )
    again.add_argument("-o", "--out", metavar="FOLDER", help="default: RUN-repeat-1, RUN-repeat-2, ...")
    again.add_argument("--resume", action="store_true", help="continue a repetition that was stopped, in the folder -o")
    again.set_defaults(run=_repeat)
    report = commands.add_parser("report", help="one page with the findings of runs", description=_report.__doc__)
    report.add_argument("runs", nargs="+", metavar="RUN", help="a finished run, or a folder of runs, such as runs/demo")
    report.add_argument(
        "-o", "--out", metavar="FILE", help="default: report.html; for a model card, such as mine/encoder/README.md"
    )
    form = report.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="a model card instead, printed unless -o names a file")
    form.add_argument(
        "--label",
        nargs="*",
        metavar="key.sub=value",
        help="add a part for labeling images: those that the encoder learned from, or data=IMAGES, encoder=RUN, "
        "data.limit=1000, ...",
    )
    report.set_defaults(run=_report)
    runs = commands.add_parser("runs", help="list the runs and their results", description=_runs.__doc__)
    runs.add_argument("folder", nargs="?", default="runs", metavar="FOLDER", help="default: runs")
    orders = ("started", "name", "stage", "state", "result", "size")
    runs.add_argument("--sort", choices=orders, default=orders[0], help=SORTED)
    runs.add_argument("--json", action="store_true", help="list them for programs")
    runs.set_defaults(run=_runs)
    label = commands.add_parser(
        "label", help="a page for labeling images, with an encoder's help", description=_label.__doc__
    )
    label.add_argument(
        "settings", nargs="+", metavar="key.sub=value", help="encoder=RUN data=IMAGES, data.limit=1000, ..."
    )
    label.add_argument("-o", "--out", default="label.html", metavar="FILE", help="default: label.html")
    label.set_defaults(run=_label)
    export = commands.add_parser(
        "export",
        help="a trained network for timm, ONNX Runtime, torch alone, or the Hugging Face Hub",
        description=_export.__doc__,
        epilog=f"settings:\n\n{describe(settings_of(ExportConfig, {}, {}), columns())}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    words: Any = export.add_argument(
        "words", nargs="+", metavar="RUN key=value", help="a finished run, to=FOLDER, format=onnx, ..."
    )
    words.completer = lambda prefix, **_: complete_run("export", prefix)
    export.set_defaults(run=_export)


def _recipes(given: argparse.Namespace) -> int:
    """List the recipes that come with Retouch, or print one: retouch recipes denoise > mine.yaml copies it."""

    def work() -> None:
        chosen = recipes() if given.recipe is None else [find_recipe(given.recipe)]
        if given.json:
            keys = ("stage", "name", "title", "expect")
            entries = [{key: getattr(one, key) for key in keys} | {"path": str(one.path)} for one in chosen]
            say(json.dumps(entries, indent=2, ensure_ascii=False))
        elif given.recipe is not None:
            say(chosen[0].text.rstrip("\n"))
        else:
            stages = {stage: {one.name: one for one in offered(stage)} for stage in STAGES}
            listed = (f"retouch {stage}\n{listing(of, columns(), expect=True)}" for stage, of in stages.items())
            searches = listing({one.name: one for one in sweeps()}, columns(), expect=True)
            searching = f"wandb sweep, with a copy: retouch recipes NAME > sweep.yaml\n{searches}"
            lessons = ", ".join(f"{one.stage}/{one.name}" for one in chosen if one.is_lesson)
            before, after = (fill(text, columns()) for text in (CHOICE, f"parts of retouch lecture: {lessons}"))
            say("\n\n".join([before, *listed, searching, after]))

    return answer("retouch recipes", work)


# Imported only when needed: ``retouch --help`` must not load torch.


def _demo(given: argparse.Namespace) -> int:
    """Train two encoders without labels on generated images, one by denoising and one by colorization. Then a linear
    classifier learns three tasks from each, next to the same networks untrained and to raw pixels. One table and one
    page, report.html, show the results. To continue a demo that was stopped, run it again.
    """

    def work() -> None:
        check_all(lambda: check_overrides(given.settings), lambda: check_overrides(given.probe))
        from retouch.demo import demo

        demo(given.out, pretraining=given.settings, probing=given.probe)

    return answer("retouch demo", work, lossless=True, again="run it again")


def _lecture(given: argparse.Namespace) -> int:
    """Learn every kind of code, from PCA to colorization, on data that comes with Retouch, and show with pictures and
    numbers what each has learned.
    """

    def work() -> None:
        from retouch.lecture import lecture

        lecture(given.out)

    return answer("retouch lecture", work, again="run it again")


def _repeat(given: argparse.Namespace) -> int:
    """Run a result again from its settings, into a new folder, and compare every number. Differences in versions,
    machine or images are reported before it starts. Exit code: 0 if the result is identical, or within the interval;
    1 if it is different, or the repetition was stopped.
    """
    same = False

    def work() -> None:
        nonlocal same
        from retouch.repetition import repeat

        found = repeat(given.result, given.out, resume=given.resume)
        same = found is not None and found.verdict != "different"

    code = answer("retouch repeat", work, again="run it again, with -o FOLDER --resume if its folder exists")
    return code or (0 if same else 1)


def _report(given: argparse.Namespace) -> int:
    """Write the findings of runs as one HTML file, which needs no network, and no script unless --label adds a part for
    labeling images.
    """

    def work() -> None:
        from retouch.reporting.card import model_card, write_card
        from retouch.reporting.page import write_report

        if not given.markdown:
            say(f"{write_report(given.runs, given.out or 'report.html', given.label)}")
        elif given.out is None:
            say(model_card(given.runs).rstrip("\n"))
        else:
            say(f"{write_card(given.runs, given.out)}")

    return answer("retouch report", work, again="run it again")


SORTED = (
    "default: started, the latest first; result: numbers of the same kind together (accuracy, mean average precision, "
    "mean IoU, PSNR, reconstruction error), the best first, and runs without a number last; size: the largest first"
)


def _runs(given: argparse.Namespace) -> int:
    """List the runs in a folder and below: stage, recipe, whether they have finished, their result, and their size on
    disk. To continue a stopped run, repeat its command with out=RUN resume=true.
    """

    def work() -> None:
        from retouch.listing.found import find_runs
        from retouch.listing.table import runs_json, runs_text

        found = find_runs(given.folder, given.sort)
        say(runs_json(found) if given.json else runs_text(found))

    return answer("retouch runs", work, again="run it again")


def _label(given: argparse.Namespace) -> int:
    """Write a page in which you click images and name their classes. It learns from that which images to show next, and
    saves labels.csv for probe and finetune (data=labels.csv) and study (labels=labels.csv). It contacts no server.
    """

    def work() -> None:
        from common.config import load_config
        from retouch.labeling.page import write_page
        from retouch.labeling.settings import LabelConfig

        say(f"{write_page(load_config(LabelConfig, {}, given.settings), given.out).path}")

    return answer("retouch label", work, again="run it again")


def _export(given: argparse.Namespace) -> int:
    """Write a trained network in a form that needs no Retouch, and compare it with the original on images."""

    def work() -> None:
        from retouch.exporting.export import export

        remember_keys("export", ExportConfig.model_fields)
        say(export(export_config(*given.words)).text)

    return answer("retouch export", work, again="run it again")


if __name__ == "__main__":
    raise SystemExit(main())
