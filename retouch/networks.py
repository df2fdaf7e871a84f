"""The networks of finished runs as functions of ``retouch``: torch modules in eval mode."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from common.encoders.base import Encoder
    from finetune.applied import Applied
    from pretrain.restoring.restorer import PictureRestorer


def open_restorer(run: str | Path, *, tile: int | None = None, overlap: float = 0.5) -> PictureRestorer:
    """Open the decoder that a run kept: a torch module in eval mode, without gradients.

    Calls take damaged pictures ``[B 3 H W]`` of any size, RGB in [0, 1], and return them restored:
    ``restorer(pictures)``, or ``restorer(pictures, hidden)`` with ``hidden`` ``[B 1 H W]``, 1 where a pixel should
    be filled.

    Args:
        run: a finished run of pretraining, its ``decoder/`` folder, or ``hf:USER/NAME``.
        tile: side of a tile in pixels; by default that of the images the network learned from.
        overlap: the fraction of a tile that overlaps its neighbor.

    Raises:
        UserError: there is no decoder, or it is damaged; the message says what to do.
    """
    from pretrain.restoring.restorer import open_restorer as work

    return work(run, tile=tile, overlap=overlap)


def load_encoder(folder: str | Path) -> Encoder:
    """Open an exported encoder, the encoder of a run, or ``hf:USER/NAME``: frozen, in eval mode, every tensor checked.

    Calls take images ``[B 3 H W]``, RGB in [0, 1]: ``encoder(images)`` returns the last map ``[B D h w]``,
    ``encoder.layers(images)`` all maps, shallow to deep, ``encoder.encode(images)`` one vector per image ``[B D]``.

    Raises:
        UserError: the folder is not an encoder, or is damaged; the message says what to do.
    """
    from common.encoders.load import load_encoder as load

    return load(Path(folder))


def load_classifier(run: str | Path, task: str | None = None, encoder: str | Path | None = None) -> Applied:
    """The classifier of a run of ``probe`` or ``finetune``: frozen, in eval mode, every tensor checked.

    Calls take images ``[B 3 H W]``, RGB in [0, 1], and return logits ``[B classes]`` in the order of ``class_names``;
    ``classifier.probabilities(logits)`` are calibrated: per class, or per label if images have several. A classifier of
    masks takes square images, and its logits ``[B classes S S]`` and probabilities, not calibrated, are of pixels.

    Args:
        run: a finished run, one of its classifiers, or ``hf:USER/NAME``.
        task: which of a probe's tasks; not needed if there is only one.
        encoder: where the encoder of a probe is now, if it was moved.

    Raises:
        UserError: there is no such classifier, or it is damaged; the message says what to do.
    """
    from finetune.classifier import open_classifier

    return open_classifier(run, task, encoder)
