"""Notebooks as pages: their text as it is, code in blocks, and the outputs that are stored with them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"


def pages() -> dict[str, str | bytes]:
    """Path in the site -> text of a page, or bytes of a picture."""
    found: dict[str, str | bytes] = {}
    for path in sorted(FOLDER.glob("*.ipynb")):
        found |= page(path)
    return found


def page(path: Path) -> dict[str, str | bytes]:
    """One notebook, and its pictures."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    pictures: dict[str, str | bytes] = {}
    parts: list[str] = []
    for cell in cells:
        text = "".join(cell["source"]).strip()
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        parts.append(_block(text, "python"))
        for output in cell["outputs"]:
            parts += _shown(output, path.stem, pictures)
    title, *rest = parts[0].split("\n", 1)
    intro = f"[Download this notebook]({path.name}){{ .md-button download }}"
    return {f"notebooks/{path.stem}.md": "\n\n".join([title, *rest, intro, *parts[1:]]) + "\n"} | pictures


def _shown(output: dict[str, Any], stem: str, pictures: dict[str, str | bytes]) -> list[str]:
    """An output as Markdown; ``pictures`` gets the files that it shows."""
    data = output.get("data", {})
    if "image/png" in data:
        name = f"{stem}-{len(pictures) + 1}.png"
        pictures[f"notebooks/{name}"] = base64.b64decode("".join(data["image/png"]))
        return [f"![What the code above draws]({name})"]
    text = "".join(output.get("text", data.get("text/plain", ""))).rstrip()
    return [_block(text, "text")] if text else []


def _block(text: str, language: str) -> str:
    return f"```{language}\n{text}\n```"
