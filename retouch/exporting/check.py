"""Compare an export with the network that it was made from."""

from __future__ import annotations

import logging
import math
from typing import NamedTuple

import torch
from torch import Tensor

from common.data import Source, build_source, in_order, load_images
from common.data.build import reopened
from common.data.levels import Levels
from common.errors import UserError, one_line
from common.runs.results import Record
from retouch.exporting.formats import Run
from retouch.exporting.settings import ExportConfig
from retouch.exporting.subject import Exportable, Subject

log = logging.getLogger("retouch")

TOLERANCE = 1e-4  # largest difference of an output, as a share of its root mean square
BATCH = 64


class Difference(Record):
    """The difference between an output of the export and that of the network, over all images."""

    output: str
    largest: float  # absolute
    scale: float  # root mean square of the output


class Check(Record):
    """The comparison of an export with its network."""

    images: int
    source: str  # of the images
    real: bool  # whether they are real images, not generated for the check
    differences: tuple[Difference, ...]

    @property
    def max_difference(self) -> float:
        return max(one.largest for one in self.differences)

    @property
    def text(self) -> str:
        """In words."""
        kind = f"images of {self.source}" if self.real else f"generated images ({self.source})"
        found = ", ".join(f"{one.output} {one.largest:.1e} (RMS {one.scale:.2g})" for one in self.differences)
        return f"on {self.images:,} {kind}, the largest difference from torch is {found}"


class Shown(NamedTuple):
    """Images to compare on."""

    images: Tensor  # uint8 [N 3 S S]
    source: str
    real: bool


def images_of(config: ExportConfig, subject: Subject) -> Shown:
    """Images to compare on: the requested ones, else the network's training images, else generated ones.

    Raises:
        UserError: the requested images cannot be read.
    """
    size, count = subject.image_size, config.check
    if config.data is not None:
        return _decoded(build_source(config.data), None, size, count, real=True)
    try:
        source = reopened(subject.provenance.source, subject.provenance.part)
        if source is not None:
            return _decoded(source, subject.provenance.levels, size, count, real=True)
    except (UserError, OSError, TypeError) as error:
        log.info("the images of the run cannot be read (%s); comparing on generated images", one_line(error))
    return _decoded(build_source("shapes"), None, size, count, real=False)


def _decoded(source: Source, levels: Levels | None, size: int, count: int, *, real: bool) -> Shown:
    images = load_images(source, size, limit=count, cache="none", check=False, levels=levels)
    return Shown(
        torch.cat([batch.images for batch in in_order(images, BATCH)]), source.spec, real and not source.endless
    )


@torch.no_grad()
def compared(network: Exportable, export: Run, shown: Shown) -> Check:
    """Compare the outputs of both on the same images.

    Raises:
        UserError: an output is not finite.
    """
    pairs: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for part in torch.split(shown.images, BATCH):
        images = part.float() / 255  # uint8 0..255 -> float 0..1
        given = network.given(images)
        expected, found = network(*given), export(*given)
        for name, values in found.items():
            pairs.setdefault(name, []).append((expected[name], values))
    differences = []
    for name, parts in pairs.items():
        ours, theirs = (torch.cat(side).double() for side in zip(*parts, strict=True))
        largest, scale = float((ours - theirs).abs().max()), float(ours.square().mean().sqrt())
        if not math.isfinite(largest + scale):
            raise UserError(
                f"{name} of the export, or of the network itself, is not finite on images of {shown.source}"
            )
        differences.append(Difference(output=name, largest=largest, scale=scale))
    return Check(images=len(shown.images), source=shown.source, real=shown.real, differences=tuple(differences))


def refuse_apart(check: Check, name: str) -> None:
    """Refuse an export that does not compute the same as the network.

    Raises:
        UserError: names every output that differs by more than ``TOLERANCE``.
    """
    far = [one for one in check.differences if not one.largest <= TOLERANCE * one.scale]
    if far:
        found = " and ".join(f"{one.output} by up to {one.largest:.1e} (RMS {one.scale:.2g})" for one in far)
        raise UserError(
            f"format={name}: the export differs from the network in torch: {found} on {check.images:,} images of "
            f"{check.source}, but only {TOLERANCE:g} of the RMS is allowed; it was not written; use another format"
        )
