"""The lecture in one run: from principal components to colorization, every claim with a picture or a number."""

from __future__ import annotations

import logging
import time
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from rich.table import Table

from common.data import build_source, load_images
from common.encoders.load import ENCODER, load_encoder
from common.encoders.sparse_code import SparseCode
from common.encoders.storage import ENTRY_BYTES
from common.errors import UserError
from common.files import write_json, write_text
from common.machine.cores import leave_busy_cores
from common.machine.distributed import world
from common.pixels import to_float
from common.recipes import stage_config
from common.runs.folder import StageConfig, open_run
from common.runs.screen import screen
from common.runs.tracking import WandbConfig
from finetune.config import ProbeConfig
from finetune.probe import probe
from finetune.records import CodeProperties
from finetune.table import markdown, two_decimals
from pretrain.config import PretrainConfig
from pretrain.run import pretrain
from retouch.curves import Point, centered_rows, save_curves, sparsity_curves
from retouch.packages import how_to_install

log = logging.getLogger("retouch")

CURVE_PATCHES = 2000
GUIDE = Path(__file__).resolve().parents[1] / "docs/guides/lecture.md"
CHANGES = ("gaussian", "shift", "flip", "brightness", "gray")
TASKS = ("shape", "color", "texture")
HEADER = ["code", "numbers", "non-zeros", *CHANGES, *TASKS]
PROBE = "lecture"  # the recipe

# Runs; each follows the recipe NAME_lecture. On patches of photographs: what the atoms of a code look like.
ATOMS = ("pca", "ica", "cca", "sparse_coding", "sparse_coding_l0", "linear_sparse_autoencoder")
# On whole images, which have labels to probe: how useful a code is.
CODES = ("pca_images", "deep_sparse", "bottleneck", "patch_dictionary", "denoise", "colorize")
WIDE = "patch_dictionary"  # its code is so wide that the untrained twin is not probed


class LectureConfig(StageConfig):
    """``retouch lecture``: its folder is a run folder with a run folder for every code, and replaces an earlier one."""

    stage: ClassVar[str] = "lecture"
    writes: ClassVar[tuple[str, ...]] = (
        *("sparsity.png", "sparsity.json", "table.md", *ATOMS, *CODES),
        *(f"{name}-probe" for name in CODES),
        *StageConfig.writes,
    )

    overwrite: bool = True
    wandb: WandbConfig = WandbConfig(mode="disabled")  # each code is a W&B run of its own


class Row(NamedTuple):
    """How useful one code is."""

    name: str
    code: CodeProperties  # compact, invariant
    accuracy: dict[str, float]  # abstract: accuracy of a linear probe, by task


def lecture(out: str | Path = "runs/lecture") -> list[Row]:
    """Learn every code of the lecture on built-in data, picture its atoms, and measure how useful it is.

    Writes a run folder per code under ``out``, ``sparsity.png``, ``sparsity.json`` (L1 against L0) and ``table.md``.

    Returns:
        One row per code of images.

    Raises:
        UserError: matplotlib is missing, or ``out`` holds something other than an earlier lecture.
    """
    if find_spec("matplotlib") is None:
        raise UserError(f"the lecture draws its curves with matplotlib; install it: {how_to_install('lecture')}")
    config = LectureConfig(out=Path(out))
    with world() as here, open_run(config, here):
        return _lecture(config.out)


def _lecture(out: Path) -> list[Row]:
    started = time.monotonic()
    leave_busy_cores()
    for name in ATOMS:
        log.info("\n%s, on patches of photographs", name)
        _pretrain(out, name)
    points = _sparsity(out)

    rows = []
    for name in CODES:
        log.info("\n%s, on images", name)
        _pretrain(out, name)
        rows.append(_measure(out, name))

    screen(pipe_width=120).print(_table(rows))
    write_text(out / "table.md", markdown(HEADER, map(_cells, rows), right=True))
    for line in (
        f"done in {time.monotonic() - started:.0f} s",
        f"  atoms: {out}/*/panels/atoms.png, and the patches that excite them: {out}/*/panels/exciting.png",
        f"  L1 against L0: {out}/sparsity.png ({len(points)} points)",
        f"  restored pictures: {out}/denoise/panels, {out}/colorize/panels",
        *([f"step-by-step guide: {GUIDE}"] if GUIDE.is_file() else []),  # not in a wheel
    ):
        log.info("%s", line)
    return rows


def _pretrain(out: Path, name: str) -> None:
    pretrain(stage_config(PretrainConfig, f"{name}_lecture", _run(out, name)))


def _run(out: Path, name: str) -> list[str]:
    """The settings that belong to a run, not to a recipe."""
    return [f"out={out / name}", "overwrite=true", f"wandb.group={out.name}", f"wandb.name={name}"]


def _sparsity(out: Path) -> list[Point]:
    """L1 against L0 with one dictionary, on held-out patches of the photographs."""
    encoder = load_encoder(out / "sparse_coding" / ENCODER)
    assert isinstance(encoder, SparseCode)
    images = load_images(build_source("photos:test"), encoder.image_size, limit=CURVE_PATCHES)
    rows = centered_rows(to_float(images.rows(torch.arange(len(images)))))
    points = sparsity_curves(rows, encoder.dictionary)
    save_curves(out / "sparsity.png", points, "The cost of sparsity on held-out patches of photographs")
    write_json(
        out / "sparsity.json",
        {"dense_bytes": ENTRY_BYTES * encoder.args.atoms, "points": [p._asdict() for p in points]},
    )
    return points


def _measure(out: Path, name: str) -> Row:
    """How compact, invariant and abstract the code itself is: the encoder's last map."""
    untrained = f"baselines.random_init={str(name != WIDE).lower()}"
    run = [*_run(out, f"{name}-probe"), f"encoder={out / name / ENCODER}", untrained]
    report = probe(stage_config(ProbeConfig, PROBE, run), show=False)
    code = report.results[0].code
    assert code is not None
    return Row(name, code, {result.task: result.linear.test.accuracy for result in report.results})


def _cells(row: Row) -> list[str]:
    return [
        row.name,
        f"{row.code.size:,}",
        f"{row.code.nonzeros:,.0f}",
        *(two_decimals(row.code.invariance[change]) for change in CHANGES),
        *(f"{100 * row.accuracy[task]:.1f}" for task in TASKS),
    ]


def _table(rows: list[Row]) -> Table:
    table = Table(
        title_justify="left", title="Code properties: compact, invariant (1 = unchanged), abstract (linear probe, %)"
    )
    for index, name in enumerate(HEADER):
        table.add_column(name, justify="left" if index == 0 else "right", no_wrap=index == 0)
    for row in rows:
        table.add_row(*_cells(row))
    return table
