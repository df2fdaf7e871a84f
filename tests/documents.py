"""The code of documents, and what it needs to run in a moment: a home with pictures, and recipes of two steps."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import pytest
import yaml
from PIL import Image

from common import recipes
from retouch.cli import main
from tests.common.data.samples import picture, png

ROOT = Path(__file__).resolve().parents[1]
TORCHRUN = r"torchrun --nproc-per-node \d+ -m "  # what it starts runs in one process as well
COMMAND = re.compile(rf"^    (?:\$ )?(?:{TORCHRUN})?(retouch .*)$", re.MULTILINE)
ELSEWHERE = ("retouch demo", "retouch lecture", "hf:NAME")  # tested on their own; a name that does not exist
PICTURES = 24  # in each folder
SOME = 80  # images of a source that comes with Retouch
TRAINED = {"batch_size": 8, "precision": "float32"}
QUICK: dict[str, dict[str, Any]] = {
    "finetune": {**TRAINED, "steps": 2, "epochs": None, "compare": {"linear_probe": False, "from_scratch": False}},
    "probe": {"precision": "float32", "damage": [], "properties": False, "null_check": False},
    "embed": {"precision": "float32"},
    "study": {"contestants": ["scratch"]},
}


class Command(NamedTuple):
    """A command as typed, and the document that contains it."""

    document: str
    line: str

    @property
    def typed(self) -> str:
        """Without its comment."""
        return self.line.partition(" #")[0].rstrip()


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def commands(*documents: str) -> list[Command]:
    """Those of a document in its order, each once even if the document has it twice; without those tested elsewhere."""
    found = [Command(document, line) for document in documents for line in COMMAND.findall(text_of(document))]
    known: dict[tuple[str, str], Command] = {}
    for one in found:
        if not any(text in one.line for text in ELSEWHERE):
            known.setdefault((one.document, one.typed), one)
    return [*known.values()]


def samples(document: str) -> list[str]:
    """Its Python code, sample by sample."""
    found: list[str] = re.findall(r"```python\n(.*?)```", text_of(document), re.DOTALL)
    return found


def run(line: str) -> int:
    """The exit code of a command as typed, with two steps where it names more."""
    line = re.sub(r"\bsteps=\d+", "steps=2", line.partition(" > ")[0])
    try:
        return main(shlex.split(line, comments=True)[1:])
    except SystemExit as ended:  # --help
        return int(ended.code or 0)


def make_home(home: Path, *, classes: bool = False) -> Path:
    """The folder of a user, with pictures of all kinds that commands name.

    Args:
        classes: ``my/pictures`` has a folder per class, as ``my/labeled`` has.
    """
    for number in range(PICTURES):
        some, other = picture(number, 40, 36), f"{'abcd'[number % 4]}/{number}.png"
        names = (f"my/pictures/{other if classes else f'{number}.png'}", f"my/labeled/{other}", f"my/new/{number}.png")
        for path in names:
            (home / path).parent.mkdir(parents=True, exist_ok=True)
            some.save(home / path)
    (home / "plates").mkdir()
    for number in range(4):
        values = np.random.default_rng(number).integers(0, 4096, (40, 36), np.uint16)
        Image.fromarray(values).save(home / "plates" / f"{number}.png")
    (home / "shards").mkdir()
    columns = datasets.Features({"image": datasets.Image()})
    rows = datasets.Dataset.from_dict(
        {"image": [{"bytes": png(number), "path": None} for number in range(12)]}, columns
    )
    rows.to_parquet(home / "shards" / "train-0.parquet")
    picture(3, 40, 36).save(home / "image.jpg")
    return home


def shorten_recipes(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """The shipped recipes with a few steps on a few images, written to ``folder`` and found in place of the others."""
    patch.setenv("WANDB_MODE", "disabled")
    for one in recipes.recipes():
        path = folder / one.stage / one.path.name
        path.parent.mkdir(exist_ok=True)
        header = re.match(r"(?:#.*\n)*", one.text)
        assert header is not None
        path.write_text(header[0] + yaml.safe_dump(_short(one.stage, yaml.safe_load(one.text))))
    patch.setattr(recipes, "FOLDER", folder)


def _short(stage: str, tree: dict[str, Any]) -> dict[str, Any]:
    """The settings of a recipe, made short."""
    short = tree | QUICK.get(stage, {})
    if stage == "pretrain":
        network = tree.get("encoder", {})
        short |= {"batch_size": 8, "steps": 2} if "steps" in tree else {}
        if "fit" not in tree:
            short["precision"] = "float32"
            if "name" not in network:
                short["encoder"] = network | {"model_args": network.get("model_args", {}) | {"depth": 1}}
        elif tree["fit"]["kind"] == "tca":
            short["fit"] = tree["fit"] | {"landmarks": SOME // 2, "components": 8}
    if stage == "probe" and "probe" not in tree:
        short["probe"] = {"layers": ["last3"], "poolings": ["avg"]}
    if "data" in tree:
        tests = {"test_limit": SOME} if stage == "probe" else {}
        short["data"] = tree["data"] | {"limit": SOME} | tests
    return short
