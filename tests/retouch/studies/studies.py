"""Tiny studies: 16 px, networks of a few channels, and rungs of a few steps that a plan gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.files import write_json
from retouch.studies.plan import Plan, Rung, Sizes

RECIPE = """\
steps: 9
batch_size: 16
augment: {{crop: null}}
encoder: {{model_args: {{width: 8, depth: 1}}}}
decoder: {{width: 32}}
precision: float32
held_out: 0
pretext: {{kind: {kind}}}
"""
NAMES = ("denoise_tiny", "colorize_tiny", "mask_tiny")
SIZES = Sizes(judged=60, fitted=70, tested=50)


def recipes(folder: Path) -> list[str]:
    """Recipes of three contestants, as files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        more = ", bins: 8" if name.startswith("colorize") else ""
        (folder / f"{name}.yaml").write_text(RECIPE.format(kind=name.partition("_")[0] + more))
    return [str(folder / f"{name}.yaml") for name in NAMES]


def plan(folder: Path, **changes: Any) -> str:
    """Two rungs: three contestants take three steps, two of them six more."""
    steps = dict.fromkeys(NAMES, 9)
    found = Plan(
        image_size=16,
        sizes=SIZES,
        simple=("pca",),
        steps=steps,
        rungs=(Rung(seconds=1.0, steps=dict.fromkeys(NAMES, 3)), Rung(seconds=4.0, steps=steps)),
        scratch=4,
        probe=True,
        damaged=30,
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "given.json", found.model_copy(update=changes).model_dump(mode="json"))
    return str(folder / "given.json")


def settings(folder: Path, out: str, **changes: Any) -> dict[str, Any]:
    """A study of generated images, by a plan."""
    values: dict[str, Any] = {
        "out": str(folder / out),
        "labels": {"train": "shapes:train:90", "test": "shapes:test:60", "task": "color", "workers": 0},
        "data": {"workers": 0},
        "image_size": 16,
        "contestants": [*recipes(folder), "pca", "scratch"],
        "plan": plan(folder),
        "wandb": {"mode": "disabled"},
    }
    return values | changes
