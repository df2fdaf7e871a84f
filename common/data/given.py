"""Images that a program holds, under a name by which settings can mean them: ``memory:NAME``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image
from torch import Tensor

from common.data.decode import open_image
from common.data.rows import even_rows
from common.data.source import Labels, Source, class_name, digest
from common.data.wide import wide_values
from common.data.words import MISSING
from common.errors import UserError, one_line

SCHEME = "memory"
LOOKED_AT = 16  # items of a data set, to see whether its `targets` are their labels
_held: dict[str, GivenSource] = {}


class Items(Protocol):
    """A list, a tensor, or a torch ``Dataset`` with a length."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


def hold(items: Items, name: str, labels: Items | None = None) -> str:
    """Keep images under a name; returns ``memory:NAME``. Images that had this name before lose it.

    Raises:
        UserError: there are none, the first one is no image, labels are too few, too many or no classes, or the name is
            none.
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
    if hasattr(items, "to_list"):  # of pandas, which counts by its own index
        items = items.to_list()
    source = GivenSource(items, name, None if labels is None else _classes(labels))
    try:
        source.image(0)
    except (TypeError, ValueError, OSError) as error:
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

    Items are PIL images, arrays ``[h w 3]`` or ``[h w]``, tensors ``[3 h w]`` or ``[1 h w]`` (uint8, or float in [0,
    1]), the bytes of image files, or tuples that begin with one of these. An item has to be the same whenever it is
    asked for.

    Args:
        classes: the class of each image, empty where it has none; by default those that the items bring.
    """

    def __init__(self, items: Items, name: str, classes: Sequence[str] | None = None) -> None:
        self.items, self.spec, self._given = items, f"{SCHEME}:{name}", classes
        self.tasks = ("label",) if classes is not None or self._labeled else ()

    @property
    def _labeled(self) -> bool:
        """Whether items bring labels, as those of torchvision's data sets do."""
        item = None if isinstance(self.items, Tensor) else self.items[0]
        return isinstance(item, tuple | list) and len(item) > 1 and isinstance(_plain(item[1]), int | str)

    @cached_property
    def fingerprint(self) -> str:
        names = () if not self.tasks else self._names
        return digest(["memory", *map(self._bytes, range(len(self))), "labels", *names])

    def _bytes(self, index: int) -> bytes:
        """All that decides over the pixels of an image."""
        item = self._item(index)
        if isinstance(item, bytes):
            return item
        try:
            image = _as_image(item)
            if isinstance(image, Tensor):
                return str(tuple(image.shape)).encode() + image.contiguous().numpy().tobytes()
            values = wide_values(image)
            pixels = image.tobytes() if values is None else values.tobytes()
            facts = (image.mode, image.size, image.getpalette(), image.info.get("transparency"))
            return f"{facts} {image.getexif().get(ExifTags.Base.Orientation)}".encode() + pixels
        except Exception as error:  # decoders raise anything; it is left out where images are decoded
            return one_line(error).encode()

    def __len__(self) -> int:
        return len(self.items)

    def _item(self, index: int) -> object:
        item = self.items[index]
        return item[0] if isinstance(item, tuple | list) else item

    def image(self, index: int) -> Image.Image | Tensor:
        return _as_image(self._item(index))

    def where(self, index: int) -> str:
        return f"{self.spec}[{index}]"

    @cached_property
    def _names(self) -> tuple[str, ...]:
        """The class of each image, empty where it has none."""
        if self._given is not None:
            return tuple(self._given)
        mapped = getattr(self.items, "target_transform", None) is not None  # then these are of other numbers
        classes = None if mapped else getattr(self.items, "classes", None)
        return _classes(self._targets(mapped), classes if isinstance(classes, list | tuple) else None)

    def _targets(self, mapped: bool) -> Any:
        """The labels of the items: ``targets`` of torchvision's data sets, for which no image has to be read."""
        count = len(self)
        targets = None if mapped else getattr(self.items, "targets", None)
        if targets is not None and len(targets) == count:
            some = even_rows(count, LOOKED_AT).tolist()
            if all(_plain(self.items[row][1]) == _plain(targets[row]) for row in some):
                return targets
        return [self.items[row][1] for row in range(count)]

    def labels(self, task: str | None = None, rows: Tensor | None = None) -> Labels:
        task = self.resolve(task)
        if missing := [row for row, name in enumerate(self._names) if not name]:
            raise UserError(
                f"{self.spec}: {len(missing):,} of {len(self):,} images have no class, such as {self.where(missing[0])}"
                ": leave them out"
            )
        classes = sorted(set(self._names), key=_in_order)
        number = {name: place for place, name in enumerate(classes)}
        values = torch.tensor([number[name] for name in self._names])
        return Labels(values if rows is None else values[rows], tuple(classes), task)


def _classes(labels: Any, names: Sequence[str] | None = None) -> tuple[str, ...]:
    """Labels as the names of classes, empty where there is none.

    Args:
        names: of the classes 0, 1, ...

    Raises:
        UserError: one is neither a number nor a word.
    """
    found = []
    for row, label in enumerate(labels):  # not by index: a pandas column has its own
        plain = _plain(label)
        if plain is None or (isinstance(plain, float) and math.isnan(plain)):
            found.append("")
        elif not isinstance(plain, str | int | float):
            shown = " ".join(str(plain).split())[:60]
            raise UserError(f"labels: that of image {row} is {shown}, and no class; give one word or number per image")
        elif names is not None and isinstance(plain, int) and plain < len(names):
            found.append(class_name(str(names[plain])) if plain >= 0 else "")  # -1 is torchvision's for none
        else:
            name = class_name(str(plain))
            found.append("" if name in MISSING else name)
    return tuple(found)


def _plain(label: object) -> object:
    """A number of numpy or torch as Python's."""
    if isinstance(label, np.generic):
        return label.item()
    if isinstance(label, np.ndarray):
        return label.item() if label.size == 1 else label
    return label.item() if isinstance(label, Tensor) and label.numel() == 1 else label


def _in_order(name: str) -> tuple[bool, int, str]:
    """Numbers by their size, before all other names."""
    return (False, int(name), name) if name.isdecimal() else (True, 0, name)


def _as_image(item: object) -> Image.Image | Tensor:
    """One item as PIL, or as uint8 ``[3 h w]``.

    Raises:
        TypeError, ValueError, OSError: it is no image; says what it is.
    """
    if isinstance(item, Image.Image):
        return item
    if isinstance(item, bytes):
        return open_image(item)
    if isinstance(item, np.ndarray):
        if item.ndim == 3 and item.dtype.kind == "f":
            item = torch.from_numpy(np.ascontiguousarray(item.transpose(2, 0, 1)))
        else:
            return _of_array(item)
    if not isinstance(item, Tensor):
        column = ", such as the column of images of this table" if isinstance(item, Mapping) else ""
        raise TypeError(f"{type(item).__name__} is no image; give PIL images, arrays or tensors{column}")
    if item.ndim != 3 or item.shape[0] not in (1, 3) or not item.numel():
        raise ValueError(f"a tensor {list(item.shape)} is no image; give [3 h w] or [1 h w]")
    if item.is_floating_point():
        if not bool(((item >= 0) & (item <= 1)).all()):
            raise ValueError("a tensor of floats has values outside [0, 1]; give RGB in [0, 1], or uint8")
        item = (item.float() * 255).round().byte()
    elif item.dtype != torch.uint8:
        raise ValueError(f"a tensor of {item.dtype} is no image; give uint8, or floats in [0, 1]")
    return item.detach().cpu().expand(3, -1, -1)


def _of_array(item: NDArray[Any]) -> Image.Image:
    """An array ``[h w]``, ``[h w 1]`` or ``[h w 3]`` as PIL."""
    plane = item[..., 0] if item.ndim == 3 and item.shape[2] == 1 else item
    try:
        return Image.fromarray(plane)
    except (TypeError, ValueError):
        raise ValueError(
            f"an array {list(item.shape)} of {item.dtype} is no image; give uint8 [h w 3] or [h w]"
        ) from None
