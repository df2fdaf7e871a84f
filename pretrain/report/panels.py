"""Panels: original, damaged and restored images in one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from common.letters import Font, lettering
from common.pixels import save_png, to_pil
from common.runs.folder import Run
from pretrain.gradient.example import Example
from pretrain.method import MethodLearner
from pretrain.sample import PANEL_IMAGES, sample

TILE = 128  # minimum pixels per image: 32 px images are enlarged four times
GAP, EDGE, LABEL = 6, 20, 100  # between images, around the picture, and the column of row labels
HEAD = 44  # the height of the title
LINE, SMALL = 17, 13  # the height of a line of a caption, and the size of its letters
LARGE = 22  # the size of the letters of the title
INK, FAINT, PAPER = (28, 30, 34), (120, 124, 130), (255, 255, 255)


def panel(example: Example, restored: Tensor, title: str = "") -> Image.Image:
    """Three rows, ``original``, ``damaged`` and ``restored``, one column per image.

    ``restored`` is RGB ``[B 3 H W]`` in [0, 1]. Small images are enlarged by an integer factor, every pixel a crisp
    square. The damaged row is what the encoder saw: noise clipped to [0, 1], hidden pixels gray. It is omitted if
    nothing was damaged.
    """
    damaged = seen(example)
    rows = {"original": example.clean, "damaged": damaged, "restored": restored}
    if torch.equal(damaged, example.clean):
        del rows["damaged"]
    side = restored.shape[3]
    tile = side * max(1, round(TILE / side))
    return in_rows(
        {
            label: [to_pil(image).resize((tile, tile), Image.Resampling.NEAREST) for image in images]
            for label, images in rows.items()
        },
        tile,
        title,
    )


def in_rows(
    rows: Mapping[str, Sequence[Image.Image]],
    tile: int,
    title: str = "",
    captions: Sequence[Sequence[str]] = (),
    keys: Mapping[str, Image.Image] | None = None,
) -> Image.Image:
    """Images of at most ``tile`` pixels, a labeled row of each kind, with a column for each of what they show.

    Args:
        captions: lines of text below each column.
        keys: what explains the colors of a row, shown below its label, by row.
    """
    count, head = max(map(len, rows.values())), HEAD if title else 0
    lines = max(map(len, captions), default=0)
    width = EDGE + LABEL + count * (tile + GAP) - GAP + EDGE
    height = EDGE + head + len(rows) * (tile + GAP) - GAP + lines * LINE + EDGE
    picture = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(picture)
    if title:
        shown, font = _fitting(title, width - 2 * EDGE, LARGE)
        pen.text((EDGE, EDGE), shown, fill=INK, font=font)
    for row, (label, images) in enumerate(rows.items()):
        top = EDGE + head + row * (tile + GAP)
        pen.text((EDGE, top + tile // 2), label, fill=FAINT, font=ImageFont.load_default(17), anchor="lm")
        if keys and label in keys:
            picture.paste(keys[label], (EDGE, top + tile // 2 + LINE))
        for column, image in enumerate(images):
            picture.paste(image, (EDGE + LABEL + column * (tile + GAP), top + (tile - image.height) // 2))
    for column, texts in enumerate(captions):
        for line, text in enumerate(texts):
            place = (EDGE + LABEL + column * (tile + GAP), height - EDGE - (lines - line) * LINE + 3)
            shown, font = _fitting(text, tile, SMALL)
            pen.text(place, shown, fill=FAINT, font=font)
    return picture


def _fitting(text: str, width: int, size: int) -> tuple[str, Font]:
    """The end of a text in letters of this size, as much of it as fits into ``width`` pixels, and its font."""
    shown, font = lettering(text, size)
    cut = shown
    while font.getlength(cut) > width:
        shown = shown[1:]
        cut = f"...{shown}"
    return cut, font


def panel_images(picture: Image.Image, side: int) -> dict[str, list[Image.Image]] | None:
    """The images of a panel with a title, by row: what ``panel`` put together, at their own size of ``side`` pixels.

    ``None`` if the picture is laid out in another way.
    """
    tile = side * max(1, round(TILE / side))
    rows, below = divmod(picture.height - 2 * EDGE - HEAD + GAP, tile + GAP)
    columns, beside = divmod(picture.width - 2 * EDGE - LABEL + GAP, tile + GAP)
    labels = {2: ("original", "restored"), 3: ("original", "damaged", "restored")}.get(rows)
    if labels is None or below or beside or columns < 1:
        return None

    def image(row: int, column: int) -> Image.Image:
        left, top = EDGE + LABEL + column * (tile + GAP), EDGE + HEAD + row * (tile + GAP)
        return picture.crop((left, top, left + tile, top + tile)).resize((side, side), Image.Resampling.NEAREST)

    return {label: [image(row, column) for column in range(columns)] for row, label in enumerate(labels)}


def seen(example: Example) -> Tensor:
    """What the encoder saw, as RGB ``[B 3 H W]`` in [0, 1]."""
    return example.seen.clamp(0, 1)


class Panels:
    """Pictures of the same images, damaged in the same way and restored by the learner, during training."""

    def __init__(self, learner: MethodLearner, title: str, run: Run) -> None:
        self.learner, self.title, self.run = learner, title, run

    def show(self, step: int) -> dict[str, float]:
        """Write ``panels/step-*.png``, and send it to W&B; there is no metric to log."""
        shown = sample(self.learner.images, PANEL_IMAGES, size=self.learner.encoder.image_size)
        found = self.learner.restored(shown.to(self.learner.encoder.mean.device))
        if found is not None:
            path = self.run.folder / "panels" / f"step-{step:07d}.png"
            save_panel(path, *found, title=f"{self.title}, step {step}")
            self.run.image("panel", path, step)
        return {}


def save_panel(path: str | Path, example: Example, restored: Tensor, title: str = "") -> Path:
    """Write ``panel`` as PNG, atomically."""
    return save_png(panel(example, restored, title), path)
