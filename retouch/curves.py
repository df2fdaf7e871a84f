"""The cost of sparsity: reconstruction error against the number of non-zeros, with L1 and L0 penalties."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common.encoders.storage import NONZERO_BYTES
from common.pixels import save_png
from common.solvers import fista, iht, omp

L1 = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)  # λ of ‖s‖₁, for pixels in [0, 1]
L0 = (0.0001, 0.0005, 0.002, 0.01, 0.05, 0.2, 0.5)  # λ of ‖s‖₀
BUDGETS = (1, 2, 4, 8, 16, 32)  # atoms of orthogonal matching pursuit

INK, FAINT = "#1c1e22", "#787c82"
COLORS = {"L1, FISTA": "#c2410c", "L0, hard thresholding": "#7c8aa0", "L0, matching pursuit": "#1d4ed8"}


class Point(NamedTuple):
    """One penalty on one set of patches."""

    method: str
    setting: str
    nonzeros: float  # mean per patch
    error: float  # Σ ‖x − W s‖² / Σ ‖x‖²
    bytes: float  # of a code that stores only its non-zeros; a dense code takes 4 h


def sparsity_curves(rows: Tensor, dictionary: Tensor) -> list[Point]:
    """Codes of centered rows ``[n d]`` in one dictionary ``[d h]`` of unit-norm atoms, by penalty and strength."""
    d, h = dictionary.shape
    total = rows.double().square().sum()

    def point(method: str, setting: str, codes: Tensor) -> Point:
        nonzeros = float((codes != 0).sum(1).float().mean())
        error = float((rows - codes @ dictionary.T).double().square().sum() / total)
        return Point(method, setting, nonzeros, error, NONZERO_BYTES * nonzeros)

    return [
        *(point("L1, FISTA", f"λ {value:g}", fista(rows, dictionary, value)) for value in L1),
        *(point("L0, hard thresholding", f"λ {value:g}", hard(rows, dictionary, value)) for value in L0),
        *(point("L0, matching pursuit", f"k {k}", omp(rows, dictionary, k)) for k in BUDGETS if k <= min(d, h)),
    ]


def hard(rows: Tensor, dictionary: Tensor, l0: float) -> Tensor:
    """Hard thresholding from the L1 codes of the same threshold: from zero, it stops at a poor local minimum."""
    return iht(rows, dictionary, l0, start=fista(rows, dictionary, 2 * l0**0.5))


def save_curves(path: str | Path, points: Sequence[Point], title: str) -> Path:
    """The curves as a PNG, atomically: error against non-zeros, both on logarithmic axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # takes a second to import
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.6), dpi=150, layout="constrained")
    canvas: Any = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for method, color in COLORS.items():
        along = sorted((one.nonzeros, one.error, one.setting) for one in points if one.method == method)
        kept = [one for one in along if one[0] > 0.5]
        axes.plot([one[0] for one in kept], [one[1] for one in kept], "o-", color=color, label=method, markersize=4)
    axes.set(xscale="log", yscale="log", xlabel="non-zeros per code", ylabel="relative reconstruction error")
    axes.set_title(title, loc="left", color=INK, fontsize=12)
    axes.grid(True, which="both", color="#e6e7ea", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, labelcolor=FAINT)
    canvas.draw()
    return save_png(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB"), path)


def centered_rows(images: Tensor) -> Tensor:
    """Patches ``[n 3 p p]`` in [0, 1] -> rows ``[n d]``, each minus its mean."""
    rows = torch.flatten(images, 1)
    return rows - rows.mean(1, keepdim=True)
