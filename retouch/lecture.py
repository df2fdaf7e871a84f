"""The lecture as one walk: from principal components to colorization, every claim shown by a picture or a number."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from common.config import validate
from common.data import build_source, load_images
from common.encoders.folder import load_encoder
from common.encoders.sparse_code import SparseCode
from common.encoders.storage import ENTRY_BYTES
from common.files import write_json, write_text
from common.machine.cores import leave_busy_cores
from common.pixels import to_float
from finetune.config import ProbeConfig
from finetune.probe import probe
from finetune.results import CodeProperties
from finetune.table import markdown, two_decimals
from pretrain.config import PretrainConfig
from pretrain.run import pretrain
from retouch.curves import Point, centred_rows, save_curves, sparsity_curves

log = logging.getLogger("retouch")

PATCH = {"source": "photos", "image_size": 12, "limit": 100_000}
IMAGES = {"source": "shapes", "image_size": 32, "limit": 20_000}
LABELLED = 2000  # images
CURVE_PATCHES = 2000
CHANGES = ("gaussian", "shift", "flip", "brightness", "gray")
TASKS = ("shape", "color", "texture")
HEADER = ["code", "numbers", "non-zeros", *CHANGES, *TASKS]

# patches of photographs: what the atoms of a code look like
ATOMS: dict[str, dict[str, Any]] = {
    "pca": {"fit": {"kind": "pca", "components": 64}, "batch_size": 2048},
    "ica": {"fit": {"kind": "ica", "components": 64, "sample": 20_000}},
    "cca": {"fit": {"kind": "cca", "components": 64, "views": "neighbours"}, "batch_size": 2048},
    "sparse_coding": {
        "fit": {"kind": "sparse_coding", "atoms": 256, "strength": 0.5},
        "batch_size": 512,
        "steps": 300,
    },
    "sparse_coding_l0": {
        "fit": {"kind": "sparse_coding", "atoms": 256, "penalty": "atoms", "top_k": 8},
        "batch_size": 512,
        "steps": 300,
    },
    "linear_sparse_autoencoder": {
        "encoder": {"name": "linear", "model_args": {"code": 256}},
        "decoder": {"kind": "linear"},
        "pretext": {"kind": "identity", "distance": "squared"},
        "penalty": {"l1": 0.02, "dictionary": 1e-3},
        "optim": {"weight_decay": 0},
        "augment": {"crop": None, "flip": False},
        "batch_size": 512,
        "steps": 1500,
    },
}

# whole images with labels to probe: what a code is good for
CODES: dict[str, dict[str, Any]] = {
    "pca_images": {"fit": {"kind": "pca", "components": 64}, "batch_size": 2048},
    "deep_sparse": {
        "encoder": {"name": "mlp", "model_args": {"hidden": [1024], "code": 512, "rectify": True, "top_k": 16}},
        "decoder": {"kind": "linear"},
        "pretext": {"kind": "identity"},
        "batch_size": 256,
        "steps": 600,
    },
    "bottleneck": {
        "encoder": {"name": "small_cnn", "model_args": {"code_channels": 8}},
        "pretext": {"kind": "identity"},
        "batch_size": 128,
        "base_lr": 4e-3,
        "steps": 500,
    },
    "patch_dictionary": {
        "fit": {"kind": "patch_dictionary", "network": {"atoms": 400, "threshold": 0.25, "grid": 3}},
        "batch_size": 256,
        "steps": 100,
    },
    "denoise": {
        # no skips: the table is of the last map, which then has to carry all
        "pretext": {"kind": "denoise"},
        "batch_size": 128,
        "base_lr": 4e-3,
        "steps": 500,
    },
    "colorize": {"pretext": {"kind": "colorize"}, "batch_size": 128, "base_lr": 4e-3, "steps": 500},
}


class Row(NamedTuple):
    """What one code is good for."""

    name: str
    code: CodeProperties  # compact, invariant
    accuracy: dict[str, float]  # abstract: of a linear probe, by task


def lecture(out: str | Path = "runs/lecture") -> list[Row]:
    """Learn every code of the lecture on embedded data, picture its atoms, and say what each is good for.

    Writes a run folder for each code under ``out``, ``sparsity.png``, ``sparsity.json`` (L1 against L0), ``table.md``.

    Returns:
        One row per code of images.
    """
    started, out = time.monotonic(), Path(out)
    leave_busy_cores()
    for name, settings in ATOMS.items():
        log.info("\n%s, of patches of photographs", name)
        pretrain(_config(out, name, data=PATCH, **settings))
    points = _sparsity(out)

    rows = []
    for name, settings in CODES.items():
        log.info("\n%s, of images", name)
        pretrain(_config(out, name, data=IMAGES, **settings))
        rows.append(_measure(out, name, wide=name == "patch_dictionary"))

    Console(width=None if Console().is_terminal else 120).print(_table(rows))
    write_text(out / "table.md", markdown(HEADER, map(_cells, rows), right=True))
    for line in (
        f"done in {time.monotonic() - started:.0f} s",
        f"  atoms: {out}/*/panels/atoms.png, and what excites them: {out}/*/panels/exciting.png",
        f"  L1 against L0: {out}/sparsity.png ({len(points)} points)",
        f"  restored pictures: {out}/denoise/panels, {out}/colorize/panels",
        "the walk, step by step: docs/guides/lecture.md",
    ):
        log.info("%s", line)
    return rows


def _config(out: Path, name: str, **settings: Any) -> PretrainConfig:
    return validate(
        PretrainConfig, {"out": out / name, "overwrite": True, "wandb": {"group": out.name, "name": name}, **settings}
    )


def _sparsity(out: Path) -> list[Point]:
    """L1 against L0 under one dictionary, on patches of the part of the photographs it has not seen."""
    encoder = load_encoder(out / "sparse_coding" / "encoder")
    assert isinstance(encoder, SparseCode)
    images = load_images(build_source("photos:test"), encoder.image_size, limit=CURVE_PATCHES)
    rows = centred_rows(to_float(images.rows(torch.arange(len(images)))))
    points = sparsity_curves(rows, encoder.dictionary)
    save_curves(out / "sparsity.png", points, "What sparsity costs: held-out patches of photographs")
    write_json(
        out / "sparsity.json",
        {"dense_bytes": ENTRY_BYTES * encoder.args.atoms, "points": [p._asdict() for p in points]},
    )
    return points


def _measure(out: Path, name: str, wide: bool) -> Row:
    """Compact, invariant, abstract: of the code itself, the encoder's last map."""
    report = probe(
        ProbeConfig.model_validate(
            {
                "out": out / f"{name}-probe",
                "overwrite": True,
                "encoder": out / name / "encoder",
                "data": {
                    "train": "shapes",
                    "limit": LABELLED,
                    "test_limit": LABELLED,
                    "task": list(TASKS),
                },
                "probe": {"kind": "ridge", "layers": [-1], "poolings": ["flatten"], "search_images": None},
                "knn": None,
                "damage": [],
                "baselines": {"random_init": not wide, "pixels": False},
                "wandb": {"group": out.name, "name": f"{name}-probe"},
            }
        ),
        show=False,
    )
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
        title_justify="left", title="Compact; invariant (1: a change does not move it); abstract (linear probe, %)"
    )
    for index, name in enumerate(HEADER):
        table.add_column(name, justify="left" if index == 0 else "right", no_wrap=index == 0)
    for row in rows:
        table.add_row(*_cells(row))
    return table
