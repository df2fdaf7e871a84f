"""From the bytes of an image file to a square of RGB pixels."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import threading
import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from common.data.levels import Levels, levels_of
from common.data.wide import (
    LOW,
    PHOTOMETRIC,
    check_readable,
    fourth_is_alpha,
    is_deep,
    load,
    missing,
    tag,
    wide_values,
    with_low_bytes,
)
from common.errors import one_line
from common.files import stream_at

# registered by PIL, but not readable by PIL alone, or not images
_NOT_IMAGES = {"BUFR", "EPS", "FITS", "GRIB", "HDF5", "MPEG", "PDF", "WMF"}

PNG = b"\x89PNG\r\n\x1a\n"  # the first bytes of such a file
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
INSTEAD = {  # what may have been saved under the name of an image
    b"version https://git-lfs": "a pointer of Git LFS, not the image: fetch it with `git lfs pull`",
    b"<!doctype html": "a web page, not an image: download it again",
    b"<html": "a web page, not an image: download it again",
    b"<svg": "an SVG drawing, which has no pixels: save it as PNG",
}
NEEDED = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf"}  # chunks of a PNG that determine its pixels

MAX_PIXELS = 1_000_000_000  # per image; PIL's own limit of 179 million refuses panoramas and scans
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # its limit is not ours
_limit = threading.Lock()


def image_suffixes() -> frozenset[str]:
    """Lower-case file suffixes (``.png``) of every image type that PIL or torchvision opens."""
    Image.preinit()  # first the frequent types: PIL tries them in this order, and without it JPEG comes late
    known = Image.registered_extensions()  # loads PIL's other plugins
    readable = (suffix for suffix, kind in known.items() if kind in Image.OPEN and kind not in _NOT_IMAGES)
    return frozenset(readable) | {".avif", ".heic", ".heif", ".hif", ".mpo"}  # PIL opens the last as JPEG


def open_image(data: bytes | str | Path) -> Image.Image | Tensor:
    """An image file or its bytes as PIL (only the header is read), or uint8 ``[3 h w]`` if only torchvision reads it.

    What else a file holds (texts, profiles) does not decide whether it is read.

    Raises:
        OSError, ValueError: neither can read it, or it has more than ``MAX_PIXELS``.
    """
    if not isinstance(data, bytes) and (kind := stream_at(data)):
        raise ValueError(f"{kind}, not a file")  # reading it would block
    try:
        return _opened(data)
    except Image.DecompressionBombError:
        return _open_large(data)
    except FileNotFoundError:
        raise
    except Exception as error:  # PIL raises anything
        raw = data if isinstance(data, bytes) else Path(data).read_bytes()
        if not raw:
            raise ValueError("the file is empty") from None
        if raw.startswith(PNG):
            with contextlib.suppress(Exception):
                return _opened(_bare_png(raw))
        if raw[4:8] == b"ftyp":
            return _open_heif(raw)
        if why := next((why for start, why in INSTEAD.items() if raw[:100].lstrip().lower().startswith(start)), ""):
            raise ValueError(why) from None
        if raw.startswith(TIFF) and isinstance(error, UnidentifiedImageError):
            return _open_with_torchvision(
                raw,
                "not a TIFF that PIL can read: save it with 8 or 16 bits in one or three channels, or one of float32",
            )
        return _open_with_torchvision(raw, None if isinstance(error, UnidentifiedImageError) else one_line(error))


def _opened(data: bytes | str | Path) -> Image.Image:
    image = Image.open(_readable(data))
    check_readable(image)
    return with_low_bytes(image, Image.open(_readable(data))) if is_deep(image) else image


def _bare_png(raw: bytes) -> bytes:
    """A PNG without the chunks that its pixels do not need: PIL refuses the file for a text of a megabyte."""
    kept, start = [PNG], len(PNG)
    while start + 12 <= len(raw):
        end = start + 12 + int.from_bytes(raw[start : start + 4], "big")
        if raw[start + 4 : start + 8] in NEEDED:
            kept.append(raw[start:end])
        start = end
    return b"".join(kept)


def _open_heif(raw: bytes) -> Image.Image | Tensor:
    """HEIC, which phones write, by the package pillow-heif if there is one, and AVIF for older versions of PIL."""
    heic = raw[8:12] not in (b"avif", b"avis")
    if heic and importlib.util.find_spec("pillow_heif") is not None:
        importlib.import_module("pillow_heif").register_heif_opener()
        try:
            return Image.open(io.BytesIO(raw))
        except UnidentifiedImageError:
            raise ValueError("pillow-heif cannot read this HEIC file") from None
    kind, remedy = ("HEIC", "pip install pillow-heif") if heic else ("AVIF", "pip install --upgrade pillow")
    return _open_with_torchvision(raw, f"{kind} images need another package here: {remedy}")


def _open_with_torchvision(raw: bytes, reason: str | None) -> Tensor:
    from torchvision.io import ImageReadMode, decode_image

    try:
        decoded: Tensor = decode_image(torch.frombuffer(bytearray(raw), dtype=torch.uint8), ImageReadMode.RGB)
    except RuntimeError:
        raise ValueError(reason or "not an image that PIL or torchvision can read") from None
    return decoded


def _readable(data: bytes | str | Path) -> io.BytesIO | str | Path:
    return io.BytesIO(data) if isinstance(data, bytes) else data


def _open_large(data: bytes | str | Path) -> Image.Image:
    """An image above PIL's limit, but not above ``MAX_PIXELS``.

    PIL's limit is global to the program, so it is restored after the header is read.
    """
    with _limit:
        usual = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # PIL warns above the limit, and refuses above twice the limit
        try:
            return Image.open(_readable(data))
        except Image.DecompressionBombError:
            raise ValueError(f"the image has more than {MAX_PIXELS:,} pixels") from None
        finally:
            Image.MAX_IMAGE_PIXELS = usual


def square(image: Image.Image | Tensor, size: int, levels: Levels | None = None) -> NDArray[np.uint8]:
    """Decode, apply the EXIF orientation, convert to RGB, scale the shorter side to ``size`` and crop the center.

    Scaling is bicubic with antialiasing; large images are first reduced by integer factors, JPEGs during decoding.
    Scaling and cropping are one resampling of the central square.

    Args:
        image: PIL of any mode, or uint8 ``[1 h w]`` or ``[3 h w]``.
        size: side of the square in pixels.
        levels: black and white of images of more than 8 bits; by default, those of this image alone.

    Returns:
        uint8 ``[3 size size]``.
    """
    if isinstance(image, Tensor):
        if image.shape == (3, size, size):
            return image.numpy()
    elif image.format == "JPEG":
        image.draft(None, (2 * size, 2 * size))  # never below twice the size; resampling does the rest
    image = upright(image, levels)
    width, height = image.size
    if (width, height) != (size, size):
        box = central_square(width, height)
        image = image.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def central_square(width: int, height: int) -> tuple[float, float, float, float]:
    """The largest square in the middle of an image: left, top, right and bottom, in pixels."""
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def upright(image: Image.Image | Tensor, levels: Levels | None = None) -> Image.Image:
    """Decode, apply the EXIF orientation and convert to RGB, at its own resolution.

    Args:
        image: PIL of any mode, or uint8 ``[1 h w]`` or ``[3 h w]``.
    """
    if isinstance(image, Tensor):
        return Image.fromarray(image.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy())
    load(image)
    _scale_deep(image, levels)
    with contextlib.suppress(Exception):  # a broken orientation is ignored
        ImageOps.exif_transpose(image, in_place=True)  # not in place, it copies every image, rotated or not
    return to_rgb(image, levels)


def turned(values: NDArray[np.bool_] | NDArray[np.uint8], image: Image.Image) -> Image.Image:
    """What belongs to the pixels of an image, ``[h w]``, upright by the EXIF orientation of that image."""
    shown = Image.fromarray(values)
    with contextlib.suppress(Exception):  # a broken orientation is ignored
        shown.getexif()[ExifTags.Base.Orientation] = image.getexif()[ExifTags.Base.Orientation]
        shown = ImageOps.exif_transpose(shown)
    return shown


def opacity(image: Image.Image | Tensor) -> Image.Image | None:
    """How opaque each pixel of an image is, as PIL's L, upright: 0 is transparent, 255 opaque.

    None if it has no transparency. ``upright`` changes an image: ask this first.
    """
    if isinstance(image, Tensor):
        return None
    load(image)
    transparent = image.info.get("transparency")
    if image.mode != "RGBA" and (values := wide_values(image)) is not None:  # one value or color may be transparent
        if not isinstance(transparent, int | tuple):
            return None
        clear = values == transparent
        return turned(np.where(clear.all(2) if clear.ndim == 3 else clear, 0, 255).astype(np.uint8), image)
    if not image.has_transparency_data or (image.mode == "RGBA" and not fourth_is_alpha(image)):
        return None
    _shorten_transparency(image)
    shown = image.convert("LA") if image.mode == "La" else image  # the only mode that PIL converts La to
    shown = shown if "A" in shown.getbands() else shown.convert("RGBA")
    return turned(np.asarray(shown.getchannel("A")), image)


def _shorten_transparency(image: Image.Image) -> None:
    """A transparent color of 16 bits, of an image decoded elsewhere -> its high bytes."""
    transparent = image.info.get("transparency")
    if isinstance(transparent, tuple) and max(transparent) > 255:
        image.info["transparency"] = tuple(value >> 8 for value in transparent)


def _scale_deep(image: Image.Image, levels: Levels | None) -> None:
    """Scale a color image of 16 bits, of which PIL has kept the high byte, in place."""
    if LOW not in image.info:
        return
    levels, values = levels or levels_of([image]) or Levels(0, 65535), wide_values(image)
    del image.info[LOW]
    assert values is not None
    colors = levels.to_bytes(values)
    if (nothing := missing(image, values)) is not None:
        colors[nothing] = 0
    transparent = image.info.pop("transparency", None)
    if isinstance(transparent, tuple):  # a 16-bit color, which no 8-bit pixel has
        colors[(values == transparent).all(2)] = 255
    alpha = image.getchannel("A") if image.mode == "RGBA" else None
    image.paste(Image.fromarray(colors).convert(image.mode))
    if alpha is not None:
        image.putalpha(alpha)


def to_rgb(image: Image.Image, levels: Levels | None = None) -> Image.Image:
    """Any PIL mode -> RGB.

    Transparent images are composited on white. Values of more than 8 bits are scaled by ``levels``, by default those
    of this image alone (``levels_of``).
    """
    transparent = image.info.get("transparency")
    if image.mode == "RGB" and not isinstance(transparent, tuple):
        return image
    if image.mode.startswith(("I", "F")):
        values = wide_values(image)
        assert values is not None
        gray = (levels or levels_of([image]) or Levels(0, 1)).to_bytes(values)
        if tag(image, PHOTOMETRIC) == 0:  # PIL inverts those of 8 bits itself
            gray = 255 - gray
        if (nothing := missing(image, values)) is not None:
            gray[nothing] = 0
        if isinstance(transparent, int):
            gray[values == transparent] = 255
        return Image.fromarray(gray).convert("RGB")
    if image.mode == "La":
        image = image.convert("LA")  # the only mode that PIL converts La to
    _shorten_transparency(image)
    if image.mode == "RGBA" and not fourth_is_alpha(image):
        return image.convert("RGB")
    if image.mode in ("RGBA", "RGBa", "LA", "PA") or transparent is not None:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
