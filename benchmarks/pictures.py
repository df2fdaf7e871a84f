"""The picture in the README: photographs damaged in three ways, and restored.

    python benchmarks/pictures.py

The networks are trained on patches of the two photographs that come with scikit-learn. The two patches that are shown,
and all patches that overlap them, are left out of training. Writes ``docs/images/restored.png``. Ten minutes on two
cores.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from common.data import Loader, Subset, load_images
from common.data.photos import PhotosSource, places
from common.engine.loop import learn
from common.machine.distributed import World
from common.pixels import save_png, to_pil
from common.recipes import stage_config
from common.runs.logs import setup_console
from common.runs.memory import MemoryRun
from pretrain.config import PretrainConfig
from pretrain.report.panels import EDGE, FAINT, GAP, INK, LABEL, PAPER, seen

SIDE, ZOOM = 64, 2
SHOWN = torch.tensor([3, 28])  # rows of photos: a pagoda and a dahlia
NARROW = "encoder.model_args={width: 32}"
FIXED = [f"data.image_size={SIDE}", "augment.crop=null", "batch_size=64", "base_lr=8.0e-3", NARROW]
UNET = ["decoder.kind=unet", "decoder.subpixel=1"]
PRETEXTS = {
    "noise": ("denoise", ["steps=600", "pretext.corruption={kind: gaussian, sigma: 0.2}", *UNET]),
    "no color": ("colorize", ["steps=600"]),
    "holes": ("mask", ["steps=600", *UNET]),
}


def unseen(shown: Tensor) -> Subset:
    """The patches of `photos` that share no pixel with rows ``shown``."""
    photos = PhotosSource(side=SIDE)
    rows = torch.arange(len(photos))
    at, other = (torch.from_numpy(places(photos.seed, photos.split, some.numpy(), SIDE)) for some in (rows, shown))
    apart = (at[:, None] - other).abs()  # [rows shown 3]
    shared = (apart[..., 0] == 0) & (apart[..., 1:] < SIDE).all(-1)
    return Subset(photos, rows[~shared.any(1)], "without what is shown")


def restored(recipe: str, changes: list[str], shown: Tensor) -> tuple[Tensor, Tensor]:
    """Train, then damage and restore images ``[B 3 S S]``: the network's input and output."""
    config = stage_config(PretrainConfig, recipe, ["data.source=photos", *FIXED, *changes])
    here = World(0, 1, torch.device("cpu"))
    images = load_images(unseen(SHOWN), config.method.loaded_size(SIDE), workers=0)
    learner = config.method.build(SIDE, config.augment, here, config.seed)
    learner.attach(images)
    loader = Loader(images, batch_size=config.batch_size, seed=config.seed)
    learn(learner, loader, config, MemoryRun(here), title=recipe)
    found = learner.restored(shown)
    assert found is not None
    example, image = found
    return seen(example), image


def picture(columns: dict[str, tuple[Tensor, Tensor, Tensor]]) -> Image.Image:
    """Rows original, damaged and restored ``[B 3 S S]``, by kind of damage."""
    tile, head, between = SIDE * ZOOM, 34, 3 * GAP
    count = len(SHOWN)
    group = count * (tile + GAP) - GAP + between
    image = Image.new(
        "RGB",
        (EDGE + LABEL + len(columns) * group - between + EDGE, EDGE + head + 3 * (tile + GAP) - GAP + EDGE),
        PAPER,
    )
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(17)
    for row, label in enumerate(("original", "damaged", "restored")):
        pen.text((EDGE, EDGE + head + row * (tile + GAP) + tile // 2), label, fill=FAINT, font=font, anchor="lm")
    for place, (name, rows) in enumerate(columns.items()):
        left = EDGE + LABEL + place * group
        pen.text((left, EDGE), name, fill=INK, font=font)
        for row, images in enumerate(rows):
            for column, one in enumerate(images):
                enlarged = to_pil(one).resize((tile, tile), Image.Resampling.NEAREST)
                image.paste(enlarged, (left + column * (tile + GAP), EDGE + head + row * (tile + GAP)))
    return image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images/restored.png"))
    given = parser.parse_args()
    setup_console()
    shown = PhotosSource(side=SIDE).bulk(SHOWN).float() / 255
    columns = {name: (shown, *restored(*how, shown)) for name, how in PRETEXTS.items()}
    print(f"written to {save_png(picture(columns), given.out)}")


if __name__ == "__main__":
    main()
