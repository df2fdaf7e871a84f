"""Images that a program holds, under a name by which settings can mean them: ``memory:NAME``."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from common.data.source import Labels, Source, class_name, digest
from common.errors import UserError, one_line

SCHEME = "memory"
_held: dict[str, GivenSource] = {}


class Items(Protocol):
    """A list, a tensor, or a torch ``Dataset`` with a length."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


def hold(items: Items, name: str, labels: Items | None = None) -> str:
    """Keep images under a name; returns ``memory:NAME``. Images that had this name before lose it.

    Raises:
        UserError: there are none, the first one is no image, labels are too few or too many, or the name is none.
    """
    if not name or ":" in name or name != name.strip():
        raise UserError(f"name: {name!r} is no name of images; use letters, such as mine")
    if not hasattr(items, "__len__") or not hasattr(items, "__getitem__"):
        raise UserError(
            f"{type(items).__name__} has no length or no order; give a list, a tensor or a Dataset with both"
        )
    if not len(items):
        raise UserError("there are no images; give one at least")
    if labels is not None and len(labels) != len(items):
        raise UserError(f"labels: {len(labels):,} of them for {len(items):,} images; give one for each")
    source = GivenSource(items, name, labels)
    try:
        source.image(0)
    except (TypeError, ValueError) as error:
        raise UserError(f"the first of the images cannot be used: {one_line(error)}") from None
    _held[name] = source
    return source.spec


def held(name: str) -> GivenSource:
    """The images of this name.

    Raises:
        UserError: this program holds none.
    """
    if name not in _held:
        known = f"it holds {', '.join(f'{SCHEME}:{one}' for one in _held)}" if _held else "it holds none"
        raise UserError(
            f"{SCHEME}:{name}: this program holds no such images; {known}: give them to retouch.images first"
        )
    return _held[name]


class GivenSource(Source):
    """Images in the memory of this program.

    Items are PIL images, uint8 arrays ``[h w 3]`` or ``[h w]``, tensors ``[3 h w]`` or ``[1 h w]`` (uint8, or float in
    [0, 1]), or tuples that begin with one of these. An item has to be the same whenever it is asked for.
    """

    def __init__(self, items: Items, name: str, labels: Items | None = None) -> None:
        self.items, self.spec, self._given = items, f"{SCHEME}:{name}", labels
        self.tasks = ("label",) if labels is not None or self._labeled else ()

    @property
    def _labeled(self) -> bool:
        """Whether items bring labels, as those of torchvision's data sets do."""
        item = None if isinstance(self.items, Tensor) else self.items[0]
        return isinstance(item, tuple) and len(item) > 1 and isinstance(_plain(item[1]), int | str)

    @cached_property
    def fingerprint(self) -> str:
        names = () if not self.tasks else self._names
        return digest(["memory", *map(self._bytes, range(len(self))), "labels", *names])

    def _bytes(self, index: int) -> bytes:
        image = self.image(index)
        if isinstance(image, Tensor):
            return str(tuple(image.shape)).encode() + image.contiguous().numpy().tobytes()
        return f"{image.mode} {image.size}".encode() + image.tobytes()

    def __len__(self) -> int:
        return len(self.items)

    def image(self, index: int) -> Image.Image | Tensor:
        item = self.items[index]
        return _as_image(item[0] if isinstance(item, tuple | list) else item)

    def where(self, index: int) -> str:
        return f"{self.spec}[{index}]"

    @cached_property
    def _names(self) -> tuple[str, ...]:
        """The class of each image."""
        if self._given is not None:
            return tuple(class_name(str(_plain(one))) for one in _all(self._given))
        targets = getattr(self.items, "targets", None)  # of torchvision's data sets: no image has to be read
        if targets is None or len(targets) != len(self):
            targets = [item[1] for item in _all(self.items)]
        classes = getattr(self.items, "classes", None)
        plain = [_plain(one) for one in targets]
        return tuple(class_name(str(classes[one] if classes and isinstance(one, int) else one)) for one in plain)

    def labels(self, task: str | None = None, rows: Tensor | None = None) -> Labels:
        task = self.resolve(task)
        classes = sorted(set(self._names), key=_in_order)
        values = torch.tensor([classes.index(name) for name in self._names])
        return Labels(values if rows is None else values[rows], tuple(classes), task)


def _all(items: Items) -> Iterator[Any]:
    return (items[index] for index in range(len(items)))


def _plain(label: object) -> object:
    """A number of numpy or torch as Python's."""
    if isinstance(label, np.generic):
        return label.item()
    return label.item() if isinstance(label, Tensor) and label.numel() == 1 else label


def _in_order(name: str) -> tuple[bool, int, str]:
    """Numbers by their size, before all other names."""
    return (False, int(name), name) if name.isdecimal() else (True, 0, name)


def _as_image(item: object) -> Image.Image | Tensor:
    """One item as PIL, or as uint8 ``[3 h w]``.

    Raises:
        TypeError, ValueError: it is no image; says what it is.
    """
    if isinstance(item, Image.Image):
        return item
    if isinstance(item, bytes):
        return Image.open(io.BytesIO(item))
    if isinstance(item, np.ndarray):
        return Image.fromarray(item)
    if not isinstance(item, Tensor):
        raise TypeError(f"{type(item).__name__} is no image; give PIL images, arrays or tensors")
    if item.ndim != 3 or item.shape[0] not in (1, 3):
        raise ValueError(f"a tensor {list(item.shape)} is no image; give [3 h w] or [1 h w]")
    if item.is_floating_point():
        if not bool(((item >= 0) & (item <= 1)).all()):
            raise ValueError("a tensor of floats has values outside [0, 1]; give RGB in [0, 1], or uint8")
        item = (item.float() * 255).round().byte()
    elif item.dtype != torch.uint8:
        raise ValueError(f"a tensor of {item.dtype} is no image; give uint8, or floats in [0, 1]")
    return item.detach().cpu().expand(3, -1, -1)
