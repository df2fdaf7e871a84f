"""`shapes`: the built-in data set, a generator of small labeled scenes that needs no disk and has any length.

Each 32x32 image shows one object (10 shapes, 8 colors, 4 textures, independent and uniform) at a random position, size
and rotation, under uneven light, on a patterned background scattered with small distractors of other colors, and is
grainy, as if photographed in poor light: some are nearly clean, in others noise hides most of the object. Image i is a
function of (seed, split, i) alone. Apart from the sine and cosine of four angles per image, computed in float64,
pixels come from correctly rounded operations only, so they depend neither on the batch nor on the vector unit.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from common.data.counter import Floats, Ints, keys, uniform
from common.data.source import Labels, Source, digest

SIZE = 32
SHAPES = ("circle", "ring", "square", "triangle", "pentagon", "star", "cross", "crescent", "heart", "arrow")
COLORS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
TEXTURES = ("plain", "stripes", "dots", "checker")  # of the object
TASKS = ("shape", "color", "texture")
MASKS: dict[str, tuple[str, ...]] = {
    "object": ("background", "object"),
    "shape": ("background", *SHAPES),
    "color": ("background", *COLORS),
    "texture": ("background", *TEXTURES),
}  # what masks tell apart: the object's pixels by its classes, or from the background alone
HUES = (0.0, 28.0, 54.0, 118.0, 180.0, 222.0, 272.0, 322.0)  # degrees, jittered by HUE_JITTER
HUE_JITTER = 7.0
LENGTHS = {"train": 20_000, "test": 4_000}
VERSION = 2  # part of the fingerprint: raise it whenever any pixel changes

CELLS = 4  # clutter: at most one distractor in each cell of a 4x4 grid
CHUNK = 64  # images drawn at once: their planes stay in the L2 cache


class ShapesSource(Source):
    """Rows 0, 1, 2, ... of the generator. ``length`` only limits a pass: rows beyond it exist too."""

    endless = True
    color_tasks = ("color", "all")
    mask_columns = tuple(MASKS)

    def __init__(
        self, split: str = "train", length: int | None = None, seed: int = 0, default: str | None = None
    ) -> None:
        self.split, self.seed, self.default = split, seed, default
        self.length = LENGTHS[split] if length is None else length
        self.spec = f"shapes:{split}:{self.length}"
        self.tasks = tuple(sorted((*TASKS, "all"), key=lambda task: task != default))

    @property
    def fingerprint(self) -> str:
        return digest(["shapes", VERSION, self.split, self.length, self.seed])

    def __len__(self) -> int:
        return self.length

    def image(self, index: int) -> Tensor:
        return self.bulk(torch.tensor([index]))[0]

    def bulk(self, rows: Tensor) -> Tensor:
        return torch.from_numpy(draw(self.seed, self.split, rows.numpy()))

    def published_test(self) -> Source:
        """The test split in its whole length: the same images whatever the seed of the training set."""
        return ShapesSource("test", default=self.default)

    def default_tasks(self) -> tuple[str, ...]:
        return TASKS if self.default is None else (self.default,)

    def where(self, index: int) -> str:
        return f"shapes:{self.split}[{index}]"

    def labels(self, task: str | None = None, rows: Tensor | None = None) -> Labels:
        task = self.resolve(task)
        index = np.arange(self.length) if rows is None else rows.numpy()
        shape, color, texture = classes(uniform(self.seed, self.split, index, 3))
        values = {"shape": shape, "color": color, "texture": texture, "all": (shape * 8 + color) * 4 + texture}
        names = {"shape": SHAPES, "color": COLORS, "texture": TEXTURES, "all": COMBINED}
        return Labels(torch.from_numpy(values[task]), names[task], task)

    def masks(self, column: str) -> Source:
        return ShapeMasks(self, column)


class ShapeMasks(Source):
    """The masks of ``shapes``: 0 where an image shows its background, else 1 + the class of the object."""

    tasks = ()
    endless = True

    def __init__(self, images: ShapesSource, column: str) -> None:
        self.images, self.column, self.mask_names = images, column, MASKS[column]
        self.spec = f"{images.spec} ({column})"

    @property
    def fingerprint(self) -> str:
        return digest([self.images.fingerprint, self.column])

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(self.bulk(torch.tensor([index]))[0, 0].numpy())

    def bulk(self, rows: Tensor) -> Tensor:
        covers = draw_object(self.images.seed, self.images.split, rows.numpy())
        values = torch.ones(len(rows), dtype=torch.int64)
        if self.column != "object":
            values += self.images.labels(self.column, rows).values
        return (torch.from_numpy(covers) * values[:, None, None]).to(torch.uint8)[:, None]

    def where(self, index: int) -> str:
        return f"the {self.column} mask of {self.images.where(index)}"

    def labels(self, task: str | None = None, rows: Tensor | None = None) -> Labels:
        raise ValueError("masks have no labels")


COMBINED = tuple(f"{color} {texture} {shape}" for shape in SHAPES for color in COLORS for texture in TEXTURES)


def classes(u: Floats) -> tuple[Ints, Ints, Ints]:
    """The first three uniform numbers of each image ``[n >=3]`` -> shape, color and texture, each ``[n]``."""
    shape, color, texture = ((u[:, k] * count).astype(np.int64) for k, count in enumerate((10, 8, 4)))
    return shape, color, texture


def draw(seed: int, split: str, rows: Ints) -> NDArray[np.uint8]:
    """Images ``rows`` ``[n]`` of the generator, uint8 ``[n 3 32 32]``, antialiased."""
    out = np.empty((len(rows), 3, SIZE, SIZE), np.uint8)
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        out[start : start + CHUNK] = _draw_chunk(seed, split, part)
    return out


def draw_object(seed: int, split: str, rows: Ints) -> NDArray[np.bool_]:
    """Where images ``rows`` ``[n]`` show their object, bool ``[n 32 32]``: the pixels whose middle it covers."""
    out = np.empty((len(rows), SIZE, SIZE), bool)
    for start in range(0, len(rows), CHUNK):
        numbers = uniform(seed, split, rows[start : start + CHUNK], 48)
        draws = _Draws(numbers[:, 3:])
        draws.column = BACKGROUND
        out[start : start + CHUNK] = _object(classes(numbers)[0], draws).cover >= 0.5
    return out


def _noise(seed: int, split: str, rows: Ints) -> Floats:
    """Pixel noise ``[n 3 32 32]``, uniform in [-1, 1): three bytes of one 32-bit hash per pixel."""
    key = (keys(seed, split, rows) >> np.uint64(32)).astype(np.uint32)
    x = key[:, None] ^ (np.arange(SIZE * SIZE, dtype=np.uint32) * np.uint32(0x9E3779B9))
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x21F0AAAD)
    x ^= x >> np.uint32(15)
    x *= np.uint32(0x735A2D97)
    x ^= x >> np.uint32(15)
    byte = x.astype("<u4", copy=False).view(np.uint8).reshape(len(rows), SIZE, SIZE, 4)[..., :3]
    return np.moveaxis(byte, 3, 1).astype(np.float32) * np.float32(2 / 256) - np.float32(1)


# Drawing, in units of pixels, x to the right and y down, the origin in the middle of the image.


class _Draws:
    """The uniform numbers of each image in order, scaled; every use takes its own column."""

    def __init__(self, u: Floats) -> None:
        self.u, self.column = u, 0

    def __call__(self, low: float = 0.0, high: float = 1.0) -> Floats:
        self.column += 1
        return self.u[:, self.column - 1] * np.float32(high - low) + np.float32(low)


BACKGROUND = 11  # numbers that the background takes


class _Object(NamedTuple):
    """Where the object is: the distance of each pixel from its middle, and how much of each pixel it covers."""

    dx: Floats  # [n 32 32]
    dy: Floats
    cover: Floats  # in [0, 1]


def _plane(count: int) -> tuple[Floats, Floats]:
    """x and y of each pixel, ``[n 32 32]``."""
    axis = np.arange(SIZE, dtype=np.float32) - np.float32((SIZE - 1) / 2)
    return np.broadcast_to(axis, (count, SIZE, SIZE)), np.broadcast_to(axis[:, None], (count, SIZE, SIZE))


def _object(shape: Ints, draws: _Draws) -> _Object:
    """u and v are its own coordinates, 1 at the radius."""
    x, y = _plane(len(shape))
    radius = draws(8.5, 13.0)
    reach = np.float32(SIZE / 2 + 0.5) - radius * np.float32(0.9)
    dx, dy = x - _planes(draws(-1, 1) * reach), y - _planes(draws(-1, 1) * reach)
    cos, sin = _turn(draws(0, 360))
    u = (dx * cos + dy * sin) / _planes(radius)
    v = (dy * cos - dx * sin) / _planes(radius)
    distance = _distance(shape, u, v) * _planes(radius)
    return _Object(dx, dy, np.clip(np.float32(0.5) - distance, 0, 1))


def _draw_chunk(seed: int, split: str, rows: Ints) -> NDArray[np.uint8]:
    numbers = uniform(seed, split, rows, 48)
    shape, color, texture = classes(numbers)
    draws = _Draws(numbers[:, 3:])
    x, y = _plane(len(rows))

    # background: two related dull colors in a pattern independent of the object's
    hue, value, saturation = draws(0, 360), draws(0.25, 0.85), draws(0.05, 0.4)
    base = _rgb(hue, saturation, value)
    other = _rgb(hue + draws(-50, 50), saturation + draws(-0.05, 0.15), value * draws(0.75, 0.92))
    pattern = _pattern((draws() * 4).astype(np.int64), x, y, draws(0, 180), draws(6, 11), draws)
    image = base[:, :, None, None] + (other - base)[:, :, None, None] * pattern[:, None]

    # clutter: vivid distractors, at most one in each cell of a grid, so that each pixel depends on one only
    image = _clutter(image, uniform(seed, split, rows, CELLS * CELLS * 8, first=48))

    # object
    dx, dy, cover = _object(shape, draws)
    hue = np.array(HUES, np.float32)[color] + draws(-HUE_JITTER, HUE_JITTER)
    saturation, value = draws(0.45, 0.9), draws(0.65, 1.0)
    light = _rgb(hue, saturation, value)
    dark = _rgb(hue, saturation, value * draws(0.1, 0.25))
    pattern = _pattern(texture, dx, dy, draws(0, 180), draws(4.4, 6.2), draws)
    surface = light[:, :, None, None] + (dark - light)[:, :, None, None] * pattern[:, None]
    image += (surface - image) * cover[:, None]

    # light: brighter on one side; then camera noise
    cos, sin = _turn(draws(0, 360))
    slope = (x * cos + y * sin) * _planes(draws(0.0, 0.35) / np.float32(SIZE / 2))
    image *= (_planes(draws(0.7, 1.05)) * (slope + np.float32(1)))[:, None]
    image += _noise(seed, split, rows) * _planes(draws(0.1, 0.45))[:, None]
    pixels: NDArray[np.uint8] = (np.clip(image, 0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)
    return pixels


def _clutter(image: Floats, u: Floats) -> Any:
    """Draw discs and boxes of 1 to 2.5 pixels over the background, by eight numbers per cell, ``[n 16 * 8]``."""
    n, side = len(u), SIZE // CELLS
    u = u.reshape(n, CELLS, CELLS, 8)
    there, round_, radius, left, top, hue, saturation, value = np.moveaxis(u, 3, 0)
    radius = radius * np.float32(1.4) + np.float32(1.1)
    room = np.float32(side / 2) - radius
    axis = np.arange(side, dtype=np.float32) - np.float32((side - 1) / 2)
    cells = (slice(None), slice(None), None, slice(None), None)  # [n row (y) column (x)]
    dx = np.abs(axis - ((left * 2 - 1) * room)[cells])
    dy = np.abs(axis[:, None, None] - ((top * 2 - 1) * room)[cells])
    disc = np.sqrt(dx * dx + dy * dy)
    box = np.maximum(dx, dy) * np.float32(1.2)
    distance = np.where((round_ < 0.5)[cells], disc, box) - radius[cells]
    cover = np.clip(np.float32(0.5) - distance, 0, 1) * (there < 0.5)[cells]
    cover = cover.reshape(n, 1, SIZE, SIZE)
    color = _rgb(hue * 360, saturation * np.float32(0.4) + np.float32(0.5), value * np.float32(0.4) + np.float32(0.55))
    color = np.broadcast_to(color[:, :, :, None, :, None], (n, 3, CELLS, side, CELLS, side)).reshape(n, 3, SIZE, SIZE)
    return image + (color - image) * cover


def _pattern(kind: Ints, x: Floats, y: Floats, angle: Floats, period: Floats, draws: _Draws) -> Any:
    """Weight of the second color, ``[n 32 32]`` in [0, 1]; 0 everywhere for ``plain``."""
    cos, sin = _turn(angle)
    turns = np.float32(1) / _planes(period)
    # triangle waves in [-1, 1] along two axes; their slope is 4 / period per pixel, which sets the soft edge
    a = _wave((x * cos + y * sin) * turns + _planes(draws()))
    b = _wave((y * cos - x * sin) * turns + _planes(draws()))
    soft = _planes(period) * np.float32(0.25)
    kind = kind[:, None, None]
    level = np.where(kind == 1, a, np.where(kind == 2, a + b - np.float32(0.55), a * b * np.float32(1.5)))
    return np.where(kind == 0, np.float32(0), np.clip(level * soft + np.float32(0.5), 0, 1))


def _wave(turns: Floats) -> Any:
    return np.abs(turns - np.floor(turns) - np.float32(0.5)) * np.float32(4) - np.float32(1)


def _distance(shape: Ints, u: Any, v: Any) -> Floats:
    """Signed distance to the outline ``[n 32 32]``, negative inside, for each row's own shape."""
    out = np.empty(u.shape, np.float32)
    for k, outline in enumerate(_OUTLINES):
        mine = np.flatnonzero(shape == k)
        if len(mine):
            out[mine] = outline(u[mine], v[mine])
    return out


def _circle(u: Floats, v: Floats) -> Any:
    return np.sqrt(u * u + v * v) - np.float32(0.92)


def _ring(u: Floats, v: Floats) -> Any:
    return np.abs(np.sqrt(u * u + v * v) - np.float32(0.75)) - np.float32(0.23)


def _square(u: Floats, v: Floats) -> Any:
    return np.maximum(np.abs(u), np.abs(v)) - np.float32(0.78)


def _triangle(u: Floats, v: Floats) -> Any:
    return _sides(u + np.float32(0.05), v, 3)[0] - np.float32(0.56)


def _pentagon(u: Floats, v: Floats) -> Any:
    return _sides(u, v, 5)[0] - np.float32(0.8)


def _star(u: Floats, v: Floats) -> Any:
    # inside a pentagram: outside at most one of the five lines that bound its core
    return _sides(u, v, 5)[1] - np.float32(0.4)


def _cross(u: Floats, v: Floats) -> Any:
    u, v = np.abs(u), np.abs(v)
    return np.maximum(np.maximum(u, v) - np.float32(0.95), np.minimum(u, v) - np.float32(0.3))


def _crescent(u: Floats, v: Floats) -> Any:
    w = u - np.float32(0.5)
    hole = np.float32(0.75) - np.sqrt(w * w + v * v)
    return np.maximum(np.sqrt(u * u + v * v) - np.float32(1), hole)


def _heart(u: Floats, v: Floats) -> Any:
    # a square, and a disc on each of two adjacent sides
    h = np.float32(0.56)
    u, v = u + np.float32(0.16), v + np.float32(0.16)
    first = np.sqrt((u - h) * (u - h) + v * v)
    second = np.sqrt(u * u + (v - h) * (v - h))
    return np.minimum(np.minimum(first, second), np.maximum(np.abs(u), np.abs(v))) - h


def _arrow(u: Floats, v: Floats) -> Any:
    v = np.abs(v)
    head = np.maximum(np.float32(-0.02) - u, (u - np.float32(1)) * np.float32(0.62) + v * np.float32(0.785))
    shaft = np.maximum(np.abs(u + np.float32(0.45)) - np.float32(0.5), v - np.float32(0.25))
    return np.minimum(head, shaft)


_OUTLINES = (_circle, _ring, _square, _triangle, _pentagon, _star, _cross, _crescent, _heart, _arrow)


def _sides(u: Floats, v: Floats, count: int) -> tuple[Floats, Floats]:
    """The largest and second largest projection of a point on ``count`` evenly spaced directions."""
    first = second = np.full_like(u, -np.inf)
    for k in range(count):
        angle = 2 * math.pi * k / count
        out = u * np.float32(math.cos(angle)) + v * np.float32(math.sin(angle))
        second = np.maximum(second, np.minimum(first, out))
        first = np.maximum(first, out)
    return first, second


def _planes(values: Floats) -> Floats:
    """One number per image ``[n]``, shaped to broadcast over its pixels ``[n 1 1]``."""
    return values[:, None, None]


def _turn(degrees: Floats) -> tuple[Floats, Floats]:
    radians = np.deg2rad(degrees.astype(np.float64))
    return _planes(np.cos(radians).astype(np.float32)), _planes(np.sin(radians).astype(np.float32))


def _rgb(hue: Floats, saturation: Floats, value: Floats) -> Floats:
    """HSV (degrees, [0, 1], [0, 1]), each ``[n ...]`` -> RGB in [0, 1] ``[n 3 ...]``."""
    sector = hue * np.float32(1 / 60)
    channels = []
    for offset in (5, 3, 1):
        k = sector + np.float32(offset)
        k = k - np.floor(k * np.float32(1 / 6)) * np.float32(6)
        channels.append(value - value * saturation * np.clip(np.minimum(k, np.float32(4) - k), 0, 1))
    return np.stack(channels, axis=1)
