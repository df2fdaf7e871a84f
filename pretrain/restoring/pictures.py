"""Pictures at their own resolution, with their holes and clean versions."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from common.data import Source, build_source
from common.data.decode import opacity, turned, upright
from common.data.folder import TreeSource
from common.data.images import kept_rows
from common.data.levels import Levels
from common.data.masks import find_masks
from common.data.paired_files import paired_files
from common.data.result_names import result_names
from common.data.wide import load, wide_values
from common.errors import UserError, check_all
from pretrain.restoring.config import PicturesToRestore

PROFILE_SPACE = slice(16, 20)  # where a color profile names its color space (ICC.1, 7.2.8)


class Picture(NamedTuple):
    """A picture as it is given, and what is known about it."""

    image: Tensor  # uint8 [3 H W]
    hidden: Tensor | None  # bool [1 H W]; None if nothing is hidden
    clean: Tensor | None  # uint8 [3 H W]
    profile: bytes | None  # the color profile in its file
    opacity: Tensor | None  # uint8 [1 H W], 255 where it is opaque; None if it has no transparency, else seen on white


class Pictures:
    """Pictures of a source, by row.

    Attributes:
        rows: those that are used.
        names: the name of the result of each of ``rows``: the path of the picture below its folder, as PNG.
        scale: they are made this much smaller, together with masks and clean versions.
        levels: black and white of pictures and clean versions of more than 8 bits; by default, those of the source.
    """

    def __init__(
        self, source: Source, rows: Tensor, masks: Source | None, clean: Source | None, scale: float = 1.0
    ) -> None:
        self.source, self.rows, self.masks, self.clean, self.scale = source, rows.tolist(), masks, clean, scale
        self.names = result_names(source, self.rows)
        self.levels: Levels | None = None

    def read(self, row: int) -> Picture:
        """Row ``row`` of the source.

        Raises:
            Exception: of any kind, if it cannot be read; ValueError if the clean one or the mask has another size.
        """
        opened, levels = self.source.image(row), self.levels or self.source.levels
        profile, opaque = _profile(opened), opacity(opened)
        image = upright(opened, levels)
        hidden = None if self.masks is None else holes(self.masks.image(row))
        # the same value has to be the same gray in both
        clean = None if self.clean is None else upright(self.clean.image(row), levels or self.clean.levels)
        if hidden is not None and hidden.shape != (image.height, image.width):
            height, width = hidden.shape
            raise ValueError(f"its mask has {width}x{height} pixels, but the picture has {image.width}x{image.height}")
        if clean is not None and clean.size != image.size:
            raise ValueError(
                f"its clean version has {clean.width}x{clean.height} pixels, but the picture has "
                f"{image.width}x{image.height}"
            )
        return Picture(
            _pixels(self._smaller(image)),
            None if hidden is None else torch.from_numpy(self._smaller_holes(hidden))[None],
            None if clean is None else _pixels(self._smaller(clean)),
            profile,
            None if opaque is None else torch.from_numpy(np.array(self._smaller(opaque)))[None],
        )

    def _smaller(self, image: Image.Image) -> Image.Image:
        return image if self.scale == 1 else image.resize(self._size(*image.size), Image.Resampling.BICUBIC)

    def _smaller_holes(self, hidden: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """A pixel is hidden if any part of it was."""
        if self.scale == 1:
            return hidden
        wide = Image.fromarray(hidden.astype(np.float32)).resize(
            self._size(hidden.shape[1], hidden.shape[0]), Image.Resampling.BOX
        )
        return np.asarray(wide) > 0

    def _size(self, width: int, height: int) -> tuple[int, int]:
        return scaled(width, self.scale), scaled(height, self.scale)


def scaled(side: int, scale: float) -> int:
    """A side in pixels, made smaller."""
    return max(1, round(side * scale))


def open_pictures(data: PicturesToRestore, scale: float) -> Pictures:
    """Open what the settings name; nothing is decoded.

    Raises:
        UserError: with every problem.
    """
    source = build_source(data.source, image=data.image, root=data.root, levels=data.levels, single=True)
    masks, clean = check_all(
        lambda: None if data.masks is None else find_masks(source, data.masks, "train", "data.masks"),
        lambda: None if data.clean is None else _clean(source, data.clean),
    )
    return Pictures(source, kept_rows(source, data.limit), masks, clean, scale)


def _profile(opened: Image.Image | Tensor) -> bytes | None:
    """The color profile of an opened file if it is an RGB profile: the colors of the result are RGB."""
    found = opened.info.get("icc_profile") if isinstance(opened, Image.Image) else None
    return found if found and found[PROFILE_SPACE] == b"RGB " else None


def _clean(source: Source, spec: str) -> Source:
    try:
        clean = build_source(spec)
    except UserError as error:
        raise UserError(*(f"data.clean: {problem}" for problem in error.lines)) from None
    if not (isinstance(source, TreeSource) and isinstance(clean, TreeSource)):
        raise UserError("data.clean: pictures and their clean versions are matched by their paths: give two folders")
    return paired_files(source, clean, "data.clean", "clean version")


def holes(mask: Image.Image | Tensor) -> NDArray[np.bool_]:
    """Which pixels of a mask are not 0, ``[h w]``, upright; in color, which are not black. Any number of bits will do.

    Raises:
        ValueError: it is a JPEG, whose values are not exact, or is transparent in places.
    """
    if isinstance(mask, Tensor) or mask.format == "JPEG":
        raise ValueError("its mask is in a format that changes values, such as JPEG: save it as PNG")
    load(mask)
    if "A" in mask.getbands() and np.asarray(mask.getchannel("A")).min() < 255:
        raise ValueError(
            "its mask has transparency, which may stand for either: save it without, black where the picture stays and "
            "white where it is to be filled"
        )
    values = wide_values(mask)
    if values is None:
        in_color = mask.mode not in ("1", "L", "P")
        values = np.asarray(mask.convert("RGB") if in_color else mask)
    hidden = values != 0
    found: NDArray[np.bool_] = np.array(turned(hidden.any(2) if hidden.ndim == 3 else hidden, mask))
    return found


def _pixels(image: Image.Image) -> Tensor:
    """RGB -> uint8 ``[3 H W]``."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def shown_where(picture: Picture) -> Tensor:
    """The opacity of the restored picture, uint8 ``[1 H W]``: that of the picture, and opaque where holes were filled.

    An area may have been erased, and marked by a mask, so that it is filled.
    """
    assert picture.opacity is not None
    return picture.opacity if picture.hidden is None else picture.opacity.masked_fill(picture.hidden, 255)


def with_opacity(picture: Tensor, opacity: Tensor) -> Image.Image:
    """A picture that was seen on white, as RGBA: on white, it looks the same again where its opacity allows it.

    ``255 - seen = a (255 - color) / 255``, so ``255 - color = 255 (255 - seen) / a``; what is invisible is white.

    Args:
        picture: as it was seen, uint8 ``[3 H W]``.
        opacity: ``a``, uint8 ``[1 H W]``, which stays as it is.
    """
    seen, a = picture.numpy(), opacity.numpy().astype(np.uint16)
    below = (255 - seen).astype(np.uint16) * 255  # at most 65025, so that uint16 holds it
    color = 255 - np.minimum((below + a // 2) // np.maximum(a, 1), 255)
    color[:, a[0] == 0] = 255
    return Image.fromarray(np.concatenate([color, a]).astype(np.uint8).transpose(1, 2, 0))


def number_of(name: str) -> int:
    """A number that belongs to the name of a result: what is drawn for a picture does not depend on the others."""
    return int.from_bytes(hashlib.sha256(name.encode(errors="surrogateescape")).digest()[:4])
