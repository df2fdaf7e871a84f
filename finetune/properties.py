"""Label-free properties of a code: how compact it is, and how invariant to nuisance changes.

The third property, abstraction, is measured by probes: accuracy on a task. The code g(x) is the encoder's last map,
flattened, so deep and linear encoders are measured in the same way.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from common.corruptions import Gaussian, Gray
from common.data import Images
from common.data.rows import even_rows
from common.encoders.base import Encoder
from common.encoders.storage import ENTRY_BYTES, NONZERO_BYTES
from common.engine.schedule import seed_step
from common.machine.layout import channels_last
from common.machine.precision import autocast
from common.pixels import to_float
from finetune.features import Extraction
from finetune.records import CodeProperties

log = logging.getLogger("retouch")

Change = Callable[[Tensor], Tensor]

IMAGES = 1000  # at most this many images are used
ZERO = 1e-6  # an entry counts as zero if it is at most this fraction of its code's largest magnitude
SHIFT = 2  # pixels to the right
BRIGHTNESS = 0.8


def shift(images: Tensor) -> Tensor:
    """Shift ``[B 3 H W]`` two pixels to the right; the left edge is filled by reflection."""
    return pad(images, (SHIFT, 0, 0, 0), mode="reflect")[..., :-SHIFT]


def flip(images: Tensor) -> Tensor:
    """Flip ``[B 3 H W]`` left to right."""
    return images.flip(-1)


def darken(images: Tensor) -> Tensor:
    """Multiply ``[B 3 H W]`` in [0, 1] by 0.8."""
    return images * BRIGHTNESS


CHANGES: dict[str, Change] = {
    "gaussian": Gaussian(sigma=0.1),
    "shift": shift,
    "flip": flip,
    "brightness": darken,
    "gray": Gray(),
}


def measure_properties(encoder: Encoder, images: Images, how: Extraction, seed: int = 0) -> CodeProperties:
    """Measure how compact and invariant a frozen encoder's code is, on at most 1,000 evenly spaced images.

    - ``size``: entries of the last map, D*h*w; ``nonzeros``: mean count of non-zero entries per image; ``bytes``: per
      image, in the smaller of two formats: all entries as float32, or the non-zeros with their indices.
    - ``invariance``: a score per nuisance change c, ``1 - E ‖g(c(x)) - g(x)‖² / E ‖g(x) - g(x')‖²`` with x' another
      image: 1 if the change does not move the code, 0 if it moves the code as far as to another image, negative if
      farther. ``None`` if undefined: there is only one image, all images have the same code and a change moves it, or
      codes are not finite.

    Args:
        encoder: on any device; it is moved to ``how.device``, to channels_last, and set to eval mode.
        seed: of the noise, which also depends on the batch number.
    """
    started = time.monotonic()
    channels_last(encoder.eval(), how.device)
    rows = even_rows(len(images), IMAGES)
    spread, nonzeros = _Spread(), 0
    moved = dict.fromkeys(CHANGES, 0.0)
    with torch.inference_mode():
        for number, batch in enumerate(images.batches(torch.split(rows, how.batch_size), how.workers)):
            pixels = to_float(batch.images.to(how.device))  # uint8 0..255 -> float 0..1
            codes = _codes(encoder, pixels, how)
            spread.add(codes)
            magnitudes = codes.abs()
            nonzeros += int((magnitudes > ZERO * magnitudes.amax(1, keepdim=True)).sum())
            for name, change in CHANGES.items():
                seed_step(seed, number)
                away = _codes(encoder, change(pixels), how) - codes
                moved[name] += float(away.square().sum(dtype=torch.float64))
    count, kept = spread.count, nonzeros / spread.count
    log.debug("code properties from %s images in %.1f s", f"{count:,}", time.monotonic() - started)
    return CodeProperties(
        size=spread.size,
        nonzeros=kept,
        bytes=min(ENTRY_BYTES * spread.size, NONZERO_BYTES * kept),
        invariance={name: invariance(total / count, spread.between) for name, total in moved.items()},
    )


def invariance(moved: float, between: float) -> float | None:
    """``1 - moved / between`` from mean squared distances; 1 if nothing moves, ``None`` if undefined."""
    if moved == 0:
        return 1.0
    return 1 - moved / between if between > 0 and math.isfinite(moved + between) else None


def _codes(encoder: Encoder, pixels: Tensor, how: Extraction) -> Tensor:
    """Images ``[B 3 H W]``, RGB -> codes ``[B D*h*w]``, float32."""
    with autocast(how.device, how.precision):
        maps: Tensor = encoder(pixels)
    return maps.flatten(1).float()


@dataclass
class _Spread:
    """The mean squared distance between the codes of two different images, from one pass.

    Over all pairs i ≠ j of n codes, ``mean ‖g_i - g_j‖² = 2 / (n - 1) (Σ ‖g_i‖² - ‖Σ g_i‖² / n)``: no pairs need to
    be drawn. Codes are taken relative to the first one: this changes no distance, and avoids the cancellation error
    of a large common offset.
    """

    count: int = 0
    origin: Tensor | None = None  # [1 F]
    sum: Tensor | None = None  # [F], float64
    squares: float = 0.0

    def add(self, codes: Tensor) -> None:
        if self.origin is None or self.sum is None:
            self.origin, self.sum = codes[:1].clone(), torch.zeros_like(codes[0], dtype=torch.float64)
        away = codes - self.origin
        self.count += len(codes)
        self.sum += away.sum(0, dtype=torch.float64)
        self.squares += float(away.square().sum(dtype=torch.float64))

    @property
    def size(self) -> int:
        return 0 if self.sum is None else len(self.sum)

    @property
    def between(self) -> float:
        if self.count < 2 or self.sum is None:
            return 0.0
        return 2 / (self.count - 1) * max(self.squares - float(self.sum.square().sum()) / self.count, 0.0)
