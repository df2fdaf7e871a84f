"""`torchvision:NAME[:split]`: data sets that torchvision can download and read."""

from __future__ import annotations

import difflib
import inspect
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from common.data.request import Request
from common.data.source import Labels, Source, digest
from common.errors import UserError, one_line
from common.machine.cache import cache_folder

# these read a folder of the user's own, whose images may change: name, split and length do not identify them
_OWN_FOLDERS = ("DatasetFolder", "ImageFolder")


class TorchvisionSource(Source):
    """A class of ``torchvision.datasets`` by name, downloaded on first use.

    ``split`` becomes ``train=True/False`` or ``split=...``, whichever the class has; ``train`` also finds ``trainval``.

    Raises:
        UserError: there is no such class or split, it is not an image classification set, or the download fails.
    """

    def __init__(self, spec: str, name: str, split: str = "train", root: str | None = None) -> None:
        self.spec, self.name, self.split, self.root = spec, name, split, root
        import torchvision  # takes 160 MB and a second to import

        known = [key for key in torchvision.datasets.__all__ if isinstance(getattr(torchvision.datasets, key), type)]
        if name not in known:
            near = difflib.get_close_matches(name.lower(), [key.lower() for key in known], n=1)
            hint = next((f"; did you mean {key!r}?" for key in known if near and key.lower() == near[0]), "")
            raise UserError(f"{spec}: torchvision has no data set {name!r}{hint}")
        if name in _OWN_FOLDERS:
            raise UserError(f"{spec} is not a published data set but reads folders of your own; use folder:PATH")
        kind = getattr(torchvision.datasets, name)
        self.one_piece = not {"train", "split"} & set(inspect.signature(kind).parameters)
        self._data = self._open(kind, Path(root) if root else cache_folder() / "torchvision")
        self.tasks = ("label",) if self._has_labels() else ()

    def _open(self, kind: Any, root: Path) -> Any:
        parameters = inspect.signature(kind).parameters
        options: dict[str, Any] = {}
        if "root" in parameters:
            try:
                root.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(
                    f"{self.spec}: downloads cannot be kept in {root} ({error.strerror}); "
                    "set RETOUCH_CACHE or data.root to a folder that can be written"
                ) from None
            options["root"] = str(root)
        if "download" in parameters:
            options["download"] = True
        names = [self.split]
        if "train" in parameters:
            if self.split not in ("train", "test"):
                raise UserError(f"{self.spec}: no split {self.split!r}; it has train, test")
            options["train"] = self.split == "train"
        elif "split" in parameters:
            names += ["trainval"] if self.split == "train" else []
        elif self.split != "train":
            raise UserError(
                f"{self.spec}: no split {self.split!r}; it has no test set: leave data.test out, and a part is held out"
            )
        reason = ""
        for name in names:
            if "split" in parameters and "train" not in parameters:
                options["split"] = name
            try:
                return kind(**options)
            except Exception as error:  # download, checksum and split errors share no base class
                reason = one_line(error, 300)
                if not isinstance(error, ValueError):
                    break  # a ValueError means no such split; the next name may be right
        raise UserError(f"{self.spec}: torchvision could not open it in {root}: {reason}")

    def _has_labels(self) -> bool:
        stored = _stored_labels(self._data)
        if stored is None:
            return True  # known only after reading the rows
        values = _as_classes(stored)
        return bool(values) and min(values or [-1]) >= 0  # -1: STL-10's unlabeled part

    @cached_property
    def fingerprint(self) -> str:
        return digest(["torchvision", self.name, self.split, len(self)])  # published sets do not change

    def __len__(self) -> int:
        return len(self._data)

    def image(self, index: int) -> Image.Image | Tensor:
        image: Image.Image | Tensor = self._data[index][0]
        return image

    def published_test(self) -> Source | None:
        """Its own test split, where the set is not one piece and the spec names no split.

        Raises:
            UserError: the test split cannot be fetched.
        """
        if self.one_piece or ":" in self.spec.partition(":")[2]:
            return None
        return TorchvisionSource(self.spec, self.name, "test", self.root)

    def where(self, index: int) -> str:
        return f"{self.spec}[{index}]"

    def labels(self, task: str | None = None, rows: Tensor | None = None) -> Labels:
        task = self.resolve(task)
        stored = _stored_labels(self._data)
        if stored is None:
            stored = [self._data[index][1] for index in range(len(self))]
        classes = _as_classes(stored)
        if classes is None:
            raise UserError(f"{self.spec}: its targets are not classes, so it has images only")
        values = torch.tensor(classes, dtype=torch.int64)
        given = getattr(self._data, "classes", None)
        names = tuple(map(str, given)) if given else tuple(map(str, range(int(values.max()) + 1)))
        return Labels(values if rows is None else values[rows], names, task)


def torchvision_source(request: Request) -> TorchvisionSource:
    """``torchvision:NAME[:SPLIT]``.

    Raises:
        UserError: as ``TorchvisionSource``.
    """
    return TorchvisionSource(request.spec, request.name, request.named_split, request.root)


def _as_classes(stored: Any) -> list[int] | None:
    """Targets as class numbers, or ``None`` if they are boxes, masks, attributes or words."""
    try:
        return [int(value) for value in stored]
    except (TypeError, ValueError, RuntimeError):
        return None


def _stored_labels(data: Any) -> Any | None:
    """The list of labels, which most sets keep under one of a few names; ``None`` if there is none."""
    for name in ("targets", "labels", "_labels"):
        stored = getattr(data, name, None)
        if stored is not None:
            return stored
    samples = getattr(data, "samples", None) or getattr(data, "_samples", None)
    return [label for _, label in samples] if samples else None
