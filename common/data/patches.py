"""`patches:SOURCE`: square patches of one's own images, for learning dictionaries.

Patches are cut at native resolution with the requested side, where other sources shrink whole images to it: a
photograph shrunk to 12 px has no edges left to learn. Each image gives the same number of patches, in neighboring
rows, so a pass in order opens every image once or a few times. A patch's position is a function of (seed, row) alone.
One image at a time is in memory.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from common.data.counter import uniform
from common.data.decode import upright
from common.data.levels import Levels
from common.data.source import Labels, Source, digest
from common.errors import UserError

SIDE = 16  # pixels, by default
ROWS = 100_000  # few images give this many patches in total: enough for a dictionary of hundreds of atoms
EACH = 10  # many images give this many patches each
VERSION = 1  # part of the fingerprint: raise it whenever the patches change


class PatchesSource(Source):
    """``each`` patches of every image of ``source``, unlabeled: row i is cut from image ``i // each``.

    An image smaller than a patch counts as unreadable: it is skipped with a warning, and an error if all are.

    Args:
        levels: black and white of images of more than 8 bits; by default, those of ``source``.
    """

    tasks = ()

    def __init__(
        self, source: Source, seed: int = 0, each: int | None = None, side: int = SIDE, levels: Levels | None = None
    ) -> None:
        self.source, self.seed, self.side, self._levels = source, seed, side, levels
        self.each = each or max(EACH, -(-ROWS // len(source)))
        self.rows_per_image, self.only_here = self.each, source.only_here
        self.spec = f"patches:{source.spec}"

    @property
    def fingerprint(self) -> str:
        return digest(["patches", VERSION, self.seed, self.each, self.side, self.source.fingerprint])

    def __len__(self) -> int:
        return len(self.source) * self.each

    @property
    def levels(self) -> Levels | None:
        return self._levels or self.source.levels

    def set_levels(self, levels: Levels) -> None:
        self.source.set_levels(levels)

    def at(self, size: int) -> PatchesSource:
        return PatchesSource(self.source, self.seed, self.each, size, self._levels)

    def scaled(self, levels: Levels | None) -> PatchesSource:
        return PatchesSource(self.source, self.seed, self.each, self.side, levels)

    def image(self, index: int) -> Tensor:
        return self._cut(index // self.each, torch.tensor([index]))[0]

    def bulk(self, rows: Tensor) -> Tensor | None:
        patches = torch.empty(len(rows), 3, self.side, self.side, dtype=torch.uint8)
        images = rows // self.each
        try:
            for number in torch.unique(images).tolist():
                patches[images == number] = self._cut(number, rows[images == number])
        except Exception:  # decoders raise anything; reading row by row will find the image
            return None
        return patches

    def where(self, index: int) -> str:
        return f"{self.source.where(index // self.each)}, patch {index % self.each}"

    def labels(self, task: str | None = None, rows: Tensor | None = None) -> Labels:
        raise UserError(f"{self.spec} has no labels, but labels are needed here")

    def _cut(self, number: int, rows: Tensor) -> Tensor:
        """Patches ``rows`` ``[n]``, all from image ``number``, uint8 ``[n 3 side side]``."""
        image, side = upright(self.source.image(number), self.levels), self.side
        width, height = image.size
        if min(width, height) < side:
            raise ValueError(f"the image has {width}x{height} px, less than a patch of {side} px")
        places = uniform(self.seed, "train", rows.numpy(), 2).astype(np.float64) * (height - side + 1, width - side + 1)
        boxes = [(left, top, left + side, top + side) for top, left in places.astype(int).tolist()]
        patches = np.stack([np.asarray(image.crop(box)) for box in boxes])  # [n side side 3]
        return torch.from_numpy(patches).permute(0, 3, 1, 2)
