"""How many changed copies of images are found among the training images.

    python benchmarks/near_duplicates.py --name cifar10 --size 32 --data 'parquet:CIFAR10/train-*.parquet'

Of the training images that ``--data`` names, ``--planted`` are copied and changed as published pictures often are:
cropped, compressed, scaled, brightened. The copies play the role of test images, and the search of ``retouch probe``
looks for them among ``--pool`` images, the originals included. ``recall`` is the share of copies that are found with
their original; ``candidates`` is the share that the hash alone proposes. ``strangers`` is the share of images outside
the pool with a match: published sets contain repetitions, so not all are mistakes.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from record import record
from torch import Tensor

from common.data import Images, build_source, load_images
from common.data.duplicates import APART, fingerprints, near_pairs

Change = Callable[[Image.Image], Image.Image]


def crop(share: float, left: float = 0.3, top: float = 0.7) -> Change:
    """Crop to this share of each side, off center, and enlarge to the old size."""

    def changed(image: Image.Image) -> Image.Image:
        width, height = (share * side for side in image.size)
        x, y = left * (image.width - width), top * (image.height - height)
        return image.resize(image.size, Image.Resampling.BICUBIC, box=(x, y, x + width, y + height))

    return changed


def jpeg(quality: int) -> Change:
    def changed(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=quality)
        return Image.open(file).convert("RGB")

    return changed


def scaled(share: float) -> Change:
    """Scale each side to this share, and back."""

    def changed(image: Image.Image) -> Image.Image:
        width, height = (max(1, round(share * side)) for side in image.size)
        return image.resize((width, height), Image.Resampling.LANCZOS).resize(image.size, Image.Resampling.BICUBIC)

    return changed


CHANGES: dict[str, Change] = {
    "unchanged": lambda image: image,
    "jpeg 50": jpeg(50),
    "jpeg 10": jpeg(10),
    "half the size": scaled(0.5),
    "a quarter of the size": scaled(0.25),
    "brightness 0.6": lambda image: ImageEnhance.Brightness(image).enhance(0.6),
    "brightness 1.4": lambda image: ImageEnhance.Brightness(image).enhance(1.4),
    "contrast 0.6": lambda image: ImageEnhance.Contrast(image).enhance(0.6),
    "gray": lambda image: ImageOps.grayscale(image).convert("RGB"),
    "crop 95%": crop(0.95),
    "crop 90%": crop(0.9),
    "crop 80%": crop(0.8),
    "crop 70%": crop(0.7),
    "mirrored": ImageOps.mirror,
}


def recalls(images: Images, pool: int, planted: int, strangers: int) -> dict[str, Any]:
    """For each change, the share of ``planted`` copies of the first images that is found among the first ``pool``.

    Raises:
        ValueError: the images are so similar that near-duplicates cannot be identified.
    """
    pixels = images.rows(torch.arange(pool + strangers))
    theirs = fingerprints(_changed(images, pixels[:pool], CHANGES["unchanged"]))
    found: dict[str, Any] = {}
    for name, change in CHANGES.items():
        ours = fingerprints(_changed(images, pixels[:planted], change))
        pairs = near_pairs(ours, theirs)
        if pairs is None:
            raise ValueError("all images look alike")
        apart = (ours.hashes != theirs.hashes[:planted]).sum(1)
        found[name] = {
            "recall": len({pair.test for pair in pairs if pair.test == pair.other}) / planted,
            "candidates": float((apart <= APART).double().mean()),
        }
    if strangers:
        pairs = near_pairs(fingerprints(_changed(images, pixels[pool:], CHANGES["unchanged"])), theirs)
        found["strangers"] = len({pair.test for pair in pairs or []}) / strangers
    return found


def _changed(images: Images, pixels: Tensor, change: Change) -> Images:
    """Every image of the pixels ``[n 3 S S]``, changed, in memory."""
    found = [np.asarray(change(Image.fromarray(one.permute(1, 2, 0).numpy()))) for one in pixels]
    changed = torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).contiguous()
    return Images(images.source, images.size, torch.arange(len(changed)), changed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--pool", type=int, default=8000)
    parser.add_argument("--planted", type=int, default=1000)
    parser.add_argument("--strangers", type=int, default=1000)
    given = parser.parse_args()
    images = load_images(build_source(given.data), given.size, limit=given.pool + given.strangers, cache="none")
    mixed = np.random.default_rng(0).permutation(len(images))  # sources are sorted by class
    found = recalls(images.only(torch.from_numpy(mixed)), given.pool, given.planted, given.strangers)
    for name, entry in found.items():
        print(name, entry)
    sizes = {"size": given.size, "pool": given.pool, "planted": given.planted, "strangers_looked_at": given.strangers}
    record("near_duplicates", {given.name: {**sizes, **found}}, seed=0, add=True)


if __name__ == "__main__":
    main()
