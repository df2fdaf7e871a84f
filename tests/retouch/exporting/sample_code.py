"""The code in a model card: reads it, and runs it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor


def code_of(folder: Path, heading: str) -> str:
    """The sample below a heading of the card in a folder, for that folder."""
    _, found, below = (folder / "README.md").read_text(encoding="utf-8").partition(f"## {heading}")
    assert found
    lines = below.partition("\n## ")[0].splitlines()
    return "\n".join(line[4:] for line in lines if line.startswith("    ") or not line).replace("FOLDER", str(folder))


def run_code(code: str, images: Tensor, **given: Any) -> dict[str, Any]:
    """What the code makes of images; each shape that a comment names is that of the result."""
    made: dict[str, Any] = {"images": images, **given}
    exec(code, made)
    known = {"B": len(images), "3": 3, "H": images.shape[2], "W": images.shape[3], "S": images.shape[3]}
    if "classifier" in made:
        known |= dict.fromkeys(("classes", "labels"), len(made["classifier"].class_names))
    said = re.findall(r"^(\w+) = .*# .*?\[([^\]]+)\](?:, RGB in \[0, 1\] -> \[([^\]]+)\])?", code, re.MULTILINE)
    for name, one, other in said:
        found = list(made[name].shape)
        wanted = [known.get(part, size) for part, size in zip((other or one).split(), found, strict=True)]
        assert found == wanted, (name, other or one)
    assert said
    return made
