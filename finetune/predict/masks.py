"""Masks that a probe has predicted, as files: gray PNG images of class numbers, each as large as its image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from common.data import Images
from common.data.decode import central_square
from common.data.masks import VALUES, side_lengths
from common.data.result_names import result_names
from common.pixels import save_png

MASKS = "masks"  # their folder in that of the run


@dataclass(frozen=True)
class MaskFiles:
    """Where masks are written, and which numbers they hold."""

    folder: Path  # of the run
    files: list[str]  # of each image, from that folder
    images: Images
    numbers: tuple[int, ...]  # of the classes
    outside: int  # where nothing is known

    @classmethod
    def of(cls, folder: Path, images: Images, numbers: tuple[int, ...]) -> MaskFiles:
        """``outside`` is 255, or the next smaller number that is not a class."""
        unused = [number for number in range(VALUES) if number not in numbers]
        files = [f"{MASKS}/{name}" for name in result_names(images.source, images.kept.tolist())]
        return cls(folder, files, images, numbers, max(unused, default=VALUES - 1))

    def write(self, classes: Tensor, rows: Tensor) -> None:
        """Write the masks of the images ``rows`` ``[b]``, atomically.

        Args:
            classes: int64 ``[b S S]``, of the pixels of the squares that the network has seen.
        """
        masks = torch.tensor(self.numbers, dtype=torch.uint8)[classes.cpu()].numpy()
        for mask, row in zip(masks, rows.tolist(), strict=True):
            size = side_lengths(self.images.source.image(int(self.images.kept[row])))
            path = self.folder / self.files[row]
            path.parent.mkdir(parents=True, exist_ok=True)
            save_png(laid_over(mask, size, self.outside), path)


def laid_over(mask: NDArray[np.uint8], size: tuple[int, int], outside: int) -> Image.Image:
    """Class numbers of the central square ``[S S]`` -> of a whole image of ``size`` (width, height), nearest pixels."""
    width, height = size
    left, top, right, _ = (int(edge) for edge in central_square(width, height))
    side = right - left
    whole = Image.new("L", size, outside)
    whole.paste(Image.fromarray(mask).resize((side, side), Image.Resampling.NEAREST), (left, top))
    return whole
