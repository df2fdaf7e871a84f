"""What pretraining shows beside numbers: panels, atoms, what excites them, and what a code takes."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from common.encoders.base import Encoder
from common.encoders.storage import ENTRY_BYTES, NONZERO_BYTES
from common.files import write_json
from common.pixels import in_chunks
from common.runs.folder import Run
from pretrain.gradient.example import Example
from pretrain.report.atoms import save_atoms, save_exciting
from pretrain.report.explained import Explained
from pretrain.report.panels import save_panel

log = logging.getLogger("retouch")

EXCITED = 12  # atoms whose patches are shown
PATCHES = 10  # patches of each
RESULTS = "results.json"


def show_panel(run: Run, step: int, example: Example, restored: Tensor, title: str) -> None:
    """Originals, damaged and restored images as ``panels/step-*.png``, and to W&B."""
    path = run.folder / "panels" / f"step-{step:07d}.png"
    save_panel(path, example, restored, title=title)
    run.image("panel", path, step)


def save_report(
    run: Run, step: int, explained: Explained | None, error: float | None, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Write ``panels/atoms.png``, ``panels/exciting.png`` and ``results.json``; returns what the last holds.

    Args:
        error: ``Σ ‖x − x̂‖² / Σ ‖x‖²`` of images as their codes give them back, centred.
        facts: further entries.
    """
    results: dict[str, Any] = dict(facts)
    if error is not None:
        results["relative_reconstruction_error"] = error
    if explained is not None:
        explained = _upright(explained)
        codes = explained.codes
        use = codes.abs().mean(0)
        results |= {"atoms": codes.shape[1], "unused_atoms": int((use == 0).sum())}
        atoms = save_atoms(run.folder / "panels" / "atoms.png", explained.atoms.cpu(), use.cpu(), title="dictionary")
        exciting = save_exciting(run.folder / "panels" / "exciting.png", *_most_exciting(explained, use))
        for name, path in (("atoms", atoms), ("exciting", exciting)):
            run.image(name, path, step)
        log.info("%d atoms, %d unused", results["atoms"], results["unused_atoms"])
    run.tracker.summary(results)
    write_json(run.folder / RESULTS, results)
    return results


@torch.no_grad()
def add_storage(run: Run, encoder: Encoder, images: Tensor) -> dict[str, Any]:
    """Add to ``results.json`` what the code of an image takes, whatever the encoder; returns what was added.

    ``code_size``: entries of the encoder's output, all places of its map together; ``nonzeros``: of them, on average
    over ``images`` ``[N 3 S S]`` in [0, 1]; ``bytes_dense`` and ``bytes_sparse``: of an image, as float32, and as
    non-zeros with their indices.
    """
    nonzeros = size = 0
    for some in in_chunks(images):
        codes = encoder(some.to(encoder.mean.device)).flatten(1)
        nonzeros, size = nonzeros + int(codes.count_nonzero()), codes.shape[1]
    mean = nonzeros / len(images)
    storage = {
        "code_size": size,
        "nonzeros": round(mean, 2),
        "bytes_dense": ENTRY_BYTES * size,
        "bytes_sparse": round(NONZERO_BYTES * mean, 1),
    }
    log.info(
        "%.1f of %d entries of an image's code are not zero: %.0f bytes sparse, %d dense",
        mean,
        size,
        storage["bytes_sparse"],
        storage["bytes_dense"],
    )
    run.tracker.summary(storage)
    path = run.folder / RESULTS
    write_json(path, {**json.loads(path.read_text()), **storage})
    return storage


def _upright(explained: Explained) -> Explained:
    """The same code with every atom's sign such that it is added more than subtracted: what it looks like in use."""
    sign = torch.where(explained.codes.sum(0) < 0, -1.0, 1.0)
    return explained._replace(atoms=explained.atoms * sign[:, None, None, None], codes=explained.codes * sign)


def _most_exciting(explained: Explained, use: Tensor) -> tuple[Tensor, Tensor]:
    """The most used atoms ``[k 3 p p]`` and the patches that excite each most ``[k m 3 p p]``."""
    best = use.argsort(descending=True)[:EXCITED]
    strength = explained.codes[:, best]
    places = strength.topk(min(PATCHES, len(strength)), dim=0).indices.T  # [k m]
    return explained.atoms[best].cpu(), explained.patches[places].cpu()


def relative_error(images: Tensor, restored: Tensor, centred: Tensor) -> float:
    """``Σ ‖x − x̂‖² / Σ ‖x - centre‖²`` of images and their reconstructions ``[N 3 S S]``; ``centred`` ``[N d]``."""
    lost = (images - restored).double().square().sum()
    return float(lost / centred.double().square().sum().clamp_min(torch.finfo(torch.float64).tiny))
