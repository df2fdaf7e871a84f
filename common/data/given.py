"""Images in the memory of a program, under a name that settings can use: ``memory:NAME``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image
from torch import Tensor

from common.data.decode import open_image
from common.data.request import Request
from common.data.rows import even_rows
from common.data.source import Labels, Source, class_name, digest
from common.data.wide import wide_values
from common.data.words import MISSING
from common.errors import UserError, check_all, one_line

SCHEME = "memory"
LOOKED_AT = 16  # items, to see whether they are images, and whether the `targets` of a data set are their labels
_held: dict[str, GivenSource] = {}


class Items(Protocol):
    """A list, a tensor, or a torch ``Dataset`` with a length."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


def hold(items: Items, name: str, labels: Items | None = None) -> str:
    """Keep images under a name; returns ``memory:NAME``. Images that had this name before lose it.

    Raises:
        UserError: there are no items, or they are not images or not in order; labels are too few, too many, not in
            order or not classes; or the name cannot be used.
    """
    if not name or ":" in name or name != name.strip():
        raise UserError(f"name: {name!r} is not a name for images; use letters, such as mine")
    items, labels = check_all(lambda: _ordered(items), lambda: None if labels is None else _ordered(labels, "labels: "))
    if not len(items):
        raise UserError("there are no images; give at least one")
    if labels is not None and len(labels) != len(items):
        raise UserError(f"labels: {len(labels):,} of them for {len(items):,} images; give one for each")
    source = GivenSource(items, name, None if labels is None else _classes(labels))
    _check_images(source)
    _held[name] = source
    return source.spec


def _ordered(given: Items, key: str = "") -> Items:
    """Items 0, 1, ..., as ``_by_number`` finds them; ``key`` begins the message.

    Raises:
        UserError: there are no such items.
    """
    found = _by_number(given)
    if found is None:
        raise UserError(
            f"{key}{type(given).__name__} has no length or no order 0, 1, ...; give a list, a tensor, a Dataset with "
            "both, or one column of a table"
        )
    return found


def _by_number(given: Any) -> Items | None:
    """Itself if it has a length and items 0, 1, ...; a pandas column, which has an index of its own, as a list.

    None where there are no such items: tables and mappings have names for them.
    """
    if not hasattr(given, "__len__") or not hasattr(given, "__getitem__"):
        return None
    found: Items | None = given
    if callable(getattr(given, "keys", None)):
        found = given.to_list() if hasattr(given, "to_list") else None
    return found


def _check_images(source: GivenSource) -> None:
    """Refuse items that are not images. If one of a sample is an image, others that cannot be read are left out later.

    Raises:
        UserError: says why the first item is not an image.
    """
    problems = []
    for row in source.looked_at:
        try:
            source.image(row)
            return
        except Exception as error:  # data sets and decoders raise anything
            problems.append(one_line(error))
    raise UserError(f"the first of the images cannot be used: {problems[0]}")


def given_source(request: Request) -> GivenSource:
    """``memory:NAME``: the images of this name.

    Raises:
        UserError: this program holds none.
    """
    if request.rest not in _held:
        known = f"it holds {', '.join(f'{SCHEME}:{one}' for one in _held)}" if _held else "it holds none"
        raise UserError(
            f"{request.spec}: this program holds no such images; {known}: give them to retouch.images first"
        )
    return _held[request.rest]


class GivenSource(Source):
    """Images in the memory of this program.

    Items are PIL images, arrays ``[h w 3]`` or ``[h w]``, tensors ``[3 h w]`` or ``[1 h w]`` (uint8, or float in [0,
    1]), the bytes of image files, or tuples that begin with one of these. An item has to be the same whenever it is
    asked for.

    Args:
        classes: the class of each image, empty where it has none; by default those that the items bring.
    """

    only_here = True

    def __init__(self, items: Items, name: str, classes: Sequence[str] | None = None) -> None:
        self.items, self.spec, self._given = items, f"{SCHEME}:{name}", classes
        self.tasks = ("label",) if classes is not None or self._labeled else ()

    @property
    def _labeled(self) -> bool:
        """Whether items bring labels, as those of torchvision's data sets do."""
        _, item = next(self._read(self.looked_at), (0, None))
        return isinstance(_label(item), int | str)

    @property
    def looked_at(self) -> list[int]:
        """Some rows that stand for all, the first one first."""
        found: list[int] = even_rows(len(self), LOOKED_AT).tolist()
        return found

    def _read(self, rows: Iterable[int]) -> Iterator[tuple[int, object]]:
        """The items of these rows, without those that cannot be read."""
        for row in rows:
            try:
                item = self.items[row]
            except Exception:  # data sets raise anything; it is left out where images are decoded
                continue
            yield row, item

    @cached_property
    def fingerprint(self) -> str:
        names = () if not self.tasks else self._names
        return digest(["memory", *map(self._bytes, range(len(self))), "labels", *names])

    def _bytes(self, index: int) -> bytes:
        """Everything that determines the pixels of an image."""
        try:
            item = self._item(index)
            if isinstance(item, bytes):
                return item
            image = _as_image(item)
            if isinstance(image, Tensor):
                return str(tuple(image.shape)).encode() + image.contiguous().numpy().tobytes()
            values = wide_values(image)
            pixels = image.tobytes() if values is None else values.tobytes()
            facts = (image.mode, image.size, image.getpalette(), image.info.get("transparency"))
            return f"{facts} {image.getexif().get(ExifTags.Base.Orientation)}".encode() + pixels
        except Exception as error:  # data sets and decoders raise anything; it is left out where images are decoded
            return type(error).__name__.encode()  # a message may hold an address, which no other program has

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
        """The class of each image, empty where there is none."""
        if self._given is not None:
            return tuple(self._given)
        mapped = getattr(self.items, "target_transform", None) is not None  # then the classes have other numbers
        classes = None if mapped else getattr(self.items, "classes", None)
        return _classes(self._targets(mapped), classes if isinstance(classes, list | tuple) else None)

    def _targets(self, mapped: bool) -> Items:
        """The labels of the items: ``targets`` of torchvision's data sets, for which no image has to be read.

        Otherwise an item that cannot be read gets the label of another: its image is left out, so any will do.
        """
        count = len(self)
        targets = None if mapped else _by_number(getattr(self.items, "targets", None))
        if targets is not None and len(targets) == count and self._shows(targets):
            return targets
        known = {row: _label(item) for row, item in self._read(range(count))}
        other = next(iter(known.values()), None)
        return [known.get(row, other) for row in range(count)]

    def _shows(self, targets: Items) -> bool:
        """Whether a sample of the items brings these labels."""
        return all(_same(_label(item), _plain(targets[row])) for row, item in self._read(self.looked_at))

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


def _label(item: object) -> object:
    """The label that an item has after its image; None without one."""
    return _plain(item[1]) if isinstance(item, tuple | list) and len(item) > 1 else None


def _same(label: object, target: object) -> bool:
    """Whether both are the same class; an array is not a class."""
    return isinstance(label, int | str) and isinstance(target, int | str) and label == target


def _classes(labels: Items, names: Sequence[str] | None = None) -> tuple[str, ...]:
    """Labels as the names of classes, empty where there is none.

    Args:
        names: of the classes 0, 1, ...

    Raises:
        UserError: one is neither a number nor a word.
    """
    found = []
    for row in range(len(labels)):  # by its length: iterating over items may never end
        plain = _plain(labels[row])
        if plain is None or (isinstance(plain, float) and math.isnan(plain)):
            found.append("")
        elif not isinstance(plain, str | int | float):
            shown = " ".join(str(plain).split())[:60]
            raise UserError(f"labels: image {row} has {shown}, which is not a class; give one word or number per image")
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
        TypeError, ValueError, OSError: it is not an image; says what it is.
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
        raise TypeError(f"{type(item).__name__} is not an image; give PIL images, arrays or tensors{column}")
    if item.ndim != 3 or item.shape[0] not in (1, 3) or not item.numel():
        raise ValueError(f"a tensor {list(item.shape)} is not an image; give [3 h w] or [1 h w]")
    if item.is_floating_point():
        if not bool(((item >= 0) & (item <= 1)).all()):
            raise ValueError("a tensor of floats has values outside [0, 1]; give RGB in [0, 1], or uint8")
        item = (item.float() * 255).round().byte()
    elif item.dtype != torch.uint8:
        raise ValueError(f"a tensor of {item.dtype} is not an image; give uint8, or floats in [0, 1]")
    return item.detach().cpu().expand(3, -1, -1)


def _of_array(item: NDArray[Any]) -> Image.Image:
    """An array ``[h w]``, ``[h w 1]`` or ``[h w 3]`` as PIL."""
    plane = item[..., 0] if item.ndim == 3 and item.shape[2] == 1 else item
    try:
        return Image.fromarray(plane)
    except (TypeError, ValueError):
        raise ValueError(
            f"an array {list(item.shape)} of {item.dtype} is not an image; give uint8 [h w 3] or [h w]"
        ) from None
