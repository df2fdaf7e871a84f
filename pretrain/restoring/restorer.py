"""The network of a run, ready to restore pictures of any size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from common.encoders.base import LUMA, TokenEncoder, refuse_other_ranges
from common.machine.precision import Precision, autocast, resolve_precision
from common.pixels import to_uint8
from pretrain.gradient.example import HIDDEN
from pretrain.gradient.kept import DecoderCard, decoder_folder, open_objective
from pretrain.gradient.objective import Objective
from pretrain.gradient.pretexts import Mixed, Pretext
from pretrain.restoring.tiles import Grid, restored_strips
from pretrain.ruler.restorers import Damaged

OVERLAP = 0.5  # share of a tile: every pixel is then in the inner half of some tile
BATCH = 64
PASS_PIXELS = 1 << 20  # pixels per pass, at most: 20 tiles of 224 px
ROWS = 512  # rows of a picture that are made gray at a time


class NotFiniteError(ValueError):
    """The network gives NaN or infinite numbers.

    Attributes:
        place: of the first such picture in its batch.
    """

    def __init__(self, place: int) -> None:
        self.place = place
        super().__init__("the network gives NaN or infinite numbers; set precision=float32, or use another run")


class PictureRestorer(nn.Module):
    """An encoder and its decoder, in eval mode, without gradients.

    Attributes:
        card: what is known about its training.
        grid: how pictures are cut into tiles.
        precision: the network's precision.
    """

    def __init__(self, objective: Objective, card: DecoderCard, grid: Grid, precision: Precision = "float32") -> None:
        super().__init__()
        self.objective, self.card, self.grid, self.precision = objective, card, grid, precision

    @property
    def pretext(self) -> Pretext:
        return self.objective.pretext

    @property
    def fill(self) -> Literal["gray", "mean"]:
        """What hidden pixels are filled with, as in training."""
        return fill_of(self.pretext)

    @property
    def device(self) -> torch.device:
        return self.objective.encoder.mean.device

    def forward(self, images: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Damaged pictures ``[B 3 H W]`` of any size, RGB in [0, 1] (noise may exceed it) -> restored, in [0, 1].

        Args:
            hidden: ``[B 1 H W]``, 1 where a pixel is to be filled; its own color is ignored.

        Raises:
            ValueError: values are farther outside [0, 1] than by the noise of its training, or their mean is.
        """
        if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[1] != 3:
            kind = f"{list(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
            raise ValueError(f"pictures must be a torch tensor [B 3 H W], RGB in [0, 1], not {kind}")
        hidden = torch.zeros_like(images[:, :1]) if hidden is None else hidden
        given = punched(Damaged(images.cpu(), hidden.cpu()), self.fill)
        refuse_other_ranges(given.images, self.pretext.noise)
        return torch.cat(list(self.strips(given)), dim=2).to(images.device)

    def strips(self, pictures: Damaged) -> Iterator[Tensor]:
        """Pictures of one size, restored in strips ``[B 3 h W]`` in [0, 1], from top to bottom, on the CPU.

        Args:
            pictures: ``[B 3 H W]``, uint8 0..255 or float 0..1, with hidden pixels filled, and ``[B 1 H W]``.

        Raises:
            NotFiniteError: names the first picture that cannot be restored.
        """
        top = 0
        for strip in restored_strips(self._tiles, pictures, self.grid):
            broken = (~strip.isfinite()).flatten(1).any(1)
            if bool(broken.any()):
                raise NotFiniteError(int(broken.nonzero()[0]))
            rows = slice(top, top + strip.shape[2])
            images, hidden = (part[:, :, rows] for part in pictures)
            images = images if images.is_floating_point() else images.float() / 255
            yield self.pretext.kept(strip, Damaged(images, hidden)).clamp(0, 1)
            top = rows.stop

    def damage(self, pictures: Tensor, seed: int, number: int) -> Damaged:
        """Clean pictures ``[B 3 H W]`` in [0, 1] -> damaged as in training; what is drawn depends on the two numbers.

        On the CPU, so that it is the same on every machine; the caller's random generators do not change.
        """
        drawn = np.random.SeedSequence((seed, number)).generate_state(1, np.uint64)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(int(drawn[0]))  # torch.manual_seed would seed every GPU too
            return self.pretext.damage(pictures.cpu(), self.objective.encoder)

    def seen(self, images: Tensor) -> Tensor:
        """What the network sees of pictures ``[B 3 H W]``, uint8 or float, as uint8: without color, if it sees gray."""
        shown = to_uint8(images) if images.is_floating_point() else images
        if self.card.view == "gray":
            luma = shown.new_tensor(LUMA, dtype=torch.float32).view(3, 1, 1)
            rows = [(part * luma).sum(1, keepdim=True).round().byte() for part in torch.split(shown, ROWS, dim=2)]
            shown = torch.cat(rows, dim=2).expand(-1, 3, -1, -1)
        return shown

    def _tiles(self, tiles: Damaged) -> Tensor:
        device = self.device
        with autocast(device, resolve_precision(self.precision, device)):
            return self.objective.restore_damaged(Damaged(*(part.to(device) for part in tiles))).float().cpu()


def fill_of(pretext: Pretext) -> Literal["gray", "mean"]:
    """What a pretext fills hidden pixels with in training."""
    return pretext.hole_fill if isinstance(pretext, Mixed) else "gray"


def punched(damaged: Damaged, fill: Literal["gray", "mean"]) -> Damaged:
    """The same with hidden pixels filled, whatever was there: gray, or the mean color of the visible ones."""
    return filled(damaged, fill) if damaged.hidden.any() else damaged  # a large picture is not copied


def filled(damaged: Damaged, fill: Literal["gray", "mean"]) -> Damaged:
    """As ``punched``, by operations that do not depend on whether a pixel is hidden."""
    images, hidden = damaged.images, damaged.hidden > 0
    whole = 255 if images.dtype == torch.uint8 else 1
    color = torch.full((1, 3, 1, 1), HIDDEN * whole, dtype=torch.float64)
    if fill == "mean":
        visible = (~hidden).sum((2, 3), keepdim=True)
        total = images.masked_fill(hidden, 0).sum((2, 3), keepdim=True, dtype=torch.float64)
        color = torch.where(visible > 0, total / visible, color)
    if whole == 255:
        color = color.round()
    return Damaged(torch.where(hidden, color.to(images.dtype), images), damaged.hidden)


def open_restorer(
    run: str | Path,
    *,
    tile: int | None = None,
    overlap: float = OVERLAP,
    batch_size: int = BATCH,
    precision: Precision = "float32",
) -> PictureRestorer:
    """The restorer that a finished run of pretraining has kept, on the CPU.

        restorer = open_restorer("runs/mine")
        restored = restorer(noisy)  # [B 3 H W] in [0, 1] -> the same shape

    Args:
        run: the folder of the run, or that of its encoder or decoder.
        tile: side of a tile in pixels, by default that of the images it learned from.
        overlap: the share of a tile that neighbors share.
        batch_size: tiles per pass; fewer if they are large.

    Raises:
        UserError: there is no decoder, or it is damaged; or the network does not take tiles of this size.
    """
    objective, card = open_objective(decoder_folder(run), tile)
    encoder = objective.encoder
    # tokens are dropped by whole patches: tiles begin where patches do
    step = encoder.patch_size if isinstance(encoder, TokenEncoder) else 1
    size = encoder.image_size
    batch = min(batch_size, max(1, PASS_PIXELS // size**2))
    return PictureRestorer(objective, card, Grid.of(size, overlap, step, batch), precision)
