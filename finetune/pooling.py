"""Pooling of feature maps into vectors, and the feature spaces a probe chooses from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from common.errors import UserError, check_all

POOLINGS = ("avg", "avg2", "max", "flatten")
Shape = tuple[int, int, int]  # D, h, w of a map


class Part(NamedTuple):
    """One layer with one pooling: the unit that is extracted, stored and combined into spaces."""

    layer: int
    pooling: str

    @property
    def name(self) -> str:
        return f"{self.layer}.{self.pooling}"


class Space(NamedTuple):
    """A feature space: the concatenated parts of some layers with some poolings."""

    layers: tuple[int, ...]  # counted from 0, shallow to deep
    poolings: tuple[str, ...]
    parts: tuple[Part, ...]
    width: int  # features
    positions: int = 1  # cells of each channel, where the features are one map that is read as such

    @property
    def layer(self) -> str:
        """For results: ``2`` or ``0+1+2``."""
        return "+".join(map(str, self.layers))

    @property
    def pooling(self) -> str:
        """For results: ``avg`` or ``avg+avg2+max``."""
        return "+".join(self.poolings)


def pool(maps: Tensor, pooling: str) -> Tensor:
    """Maps ``[B D h w]`` -> vectors, float32.

    ``avg`` and ``max`` give ``[B D]``; ``avg2`` averages each quarter (fewer if a side is 1) and gives ``[B 4D]``;
    ``avgN``, likewise, N x N cells; ``flatten`` gives ``[B D*h*w]``.
    """
    maps = maps.float()
    match pooling:
        case "avg":
            return maps.mean(dim=(2, 3))
        case "max":
            return maps.amax(dim=(2, 3))
        case "flatten":
            return maps.flatten(1)
    if (cells := _cells(pooling)) is not None:
        return adaptive_avg_pool2d(maps, (min(cells, maps.shape[2]), min(cells, maps.shape[3]))).flatten(1)
    raise ValueError(f"unknown pooling {pooling!r}")


def pooled_width(shape: Shape, pooling: str) -> int:
    """The number of features that ``pool`` makes from one map."""
    channels, height, width = shape
    if (cells := _cells(pooling)) is not None:
        return channels * min(cells, height) * min(cells, width)
    return channels * {"avg": 1, "max": 1, "flatten": height * width}[pooling]


def cells_within(layer: int, shape: Shape, most: int, max_width: int) -> Space:
    """A map as it is, or averaged to fewer cells: at most ``most`` per side, and ``max_width`` features."""
    whole = max(shape[1:])
    side = next(
        (cells for cells in range(min(most, whole), 1, -1) if pooled_width(shape, f"avg{cells}") <= max_width), 1
    )
    pooling = _simplest(shape, "flatten") if side == whole else f"avg{side}" if side > 1 else "avg"
    width = pooled_width(shape, pooling)
    return Space((layer,), (pooling,), (Part(layer, pooling),), width, width // shape[0])


def _cells(pooling: str) -> int | None:
    """N of ``avgN``."""
    number = pooling.removeprefix("avg")
    return int(number) if number != pooling and number.isdecimal() else None


def build_spaces(
    shapes: Sequence[Shape], layers: Sequence[int | str], poolings: Sequence[str], max_width: int
) -> tuple[list[Space], list[str]]:
    """All layer choices with all poolings, without duplicates, narrowest first.

    Args:
        shapes: the shapes of the encoder's maps, shallow to deep.
        layers: layer numbers (negative from the end), ``each``, ``all``, or ``lastN``.
        poolings: names joined by ``+``, as in ``avg+max``.
        max_width: wider spaces are skipped.

    Returns:
        The spaces, and a line about each skipped space.

    Raises:
        UserError: a layer does not exist, or no space is left.
    """
    choices = layer_choices(layers, len(shapes))
    spaces: dict[tuple[Part, ...], Space] = {}
    skipped: list[str] = []
    for chosen in dict.fromkeys(choices):
        for names in poolings:
            parts: dict[Part, None] = {}
            for layer in chosen:
                for pooling in names.split("+"):
                    parts[Part(layer, _simplest(shapes[layer], pooling))] = None
            kept = tuple(dict.fromkeys(part.pooling for part in parts))
            width = sum(pooled_width(shapes[part.layer], part.pooling) for part in parts)
            space = Space(chosen, kept, tuple(parts), width)
            if width > max_width:
                skipped.append(f"layer {space.layer}, {space.pooling}: {width:,} features, more than {max_width:,}")
            else:
                spaces.setdefault(tuple(parts), space)
    if not spaces:
        raise UserError(
            *skipped, title="probe.max_width excludes all features; raise it, or choose other layers or poolings:"
        )
    return sorted(spaces.values(), key=lambda space: space.width), skipped


def one_space(shapes: Sequence[Shape], layer: int | str, pooling: str) -> Space:
    """The features of one choice of layers under one pooling, however wide.

    Raises:
        UserError: there is no such layer, or ``layer`` means several choices.
    """
    spaces, _ = build_spaces(shapes, [layer], [pooling], max_width=1 << 30)
    if len(spaces) != 1:
        raise UserError(f"layer: {layer!r} selects several feature sets; choose one with a number, all, or lastN")
    return spaces[0]


def concatenate(parts: Sequence[Tensor]) -> Tensor:
    """Parts ``[n F_p]`` -> one matrix ``[n ΣF_p]``, always a new tensor."""
    return torch.cat(list(parts), dim=1) if len(parts) > 1 else parts[0].clone()


def layer_choices(layers: Sequence[int | str], count: int) -> list[tuple[int, ...]]:
    """The layers that each of these names, by number, in an encoder with ``count`` layers.

    Raises:
        UserError: a layer does not exist.
    """
    found = check_all(*(lambda layer=layer: _layer_choices(layer, count) for layer in layers))
    return [choice for choices in found for choice in choices]


def _layer_choices(layer: int | str, count: int) -> list[tuple[int, ...]]:
    if layer == "each":
        return [(index,) for index in range(count)]
    if layer == "all":
        return [tuple(range(count))]
    if isinstance(layer, str):
        return [tuple(range(max(0, count - int(layer.removeprefix("last"))), count))]
    if not -count <= layer < count:
        raise UserError(f"there is no layer {layer}; the encoder has layers 0 to {count - 1}")
    return [(layer % count,)]


def _simplest(shape: Shape, pooling: str) -> str:
    """One name for all poolings that give the same features of a map."""
    if shape[1:] == (1, 1):
        return "avg"
    if max(shape[1:]) <= 2 and pooling == "flatten":
        return "avg2"
    return pooling
