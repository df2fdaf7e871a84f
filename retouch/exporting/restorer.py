"""The whole network of a pretraining run, encoder and decoder, which restores damaged images."""

from __future__ import annotations

import torch
from torch import Tensor

from common.encoders.load import ENCODER
from common.errors import UserError
from pretrain.gradient.kept import decoder_folder, open_objective
from pretrain.gradient.objective import Objective
from pretrain.restoring.restore import provenance
from pretrain.restoring.restorer import fill_of, filled
from pretrain.ruler.restorers import Damaged
from retouch.exporting.settings import ExportConfig
from retouch.exporting.subject import HIDDEN, IMAGES, RESTORED, Exportable, Subject, run_around

HOLES_SEED = 0  # for the holes in the images on which an export is compared


class Restored(Exportable):
    """Damaged images ``[B 3 S S]``, RGB in [0, 1] (noise may exceed it) -> ``restored``, the same shape, in [0, 1]."""

    output = "restorer"
    names = (RESTORED,)

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.restored(Damaged(images, torch.zeros_like(images[:, :1])))  # nothing is hidden

    def restored(self, damaged: Damaged) -> dict[str, Tensor]:
        objective, pretext = self.objective, self.objective.pretext
        example = pretext.given(damaged, objective.encoder)
        restored = pretext.picture(objective.predict(example)[0], example, objective.state)
        return {RESTORED: pretext.kept(restored, damaged).clamp(0, 1)}


class HolesFilled(Restored):
    """Damaged images, and ``hidden`` ``[B 1 S S]``, above 0 where a pixel is to be filled -> ``restored``.

    The colors of hidden pixels are ignored.
    """

    inputs = (IMAGES, HIDDEN)

    def forward(self, images: Tensor, hidden: Tensor) -> dict[str, Tensor]:  # type: ignore[override]  # one more input
        return self.restored(filled(Damaged(images, (hidden > 0).to(images)), fill_of(self.objective.pretext)))

    @property
    def varies(self) -> str:
        dropped = self.objective.pretext.drops_tokens(self.objective.encoder)
        return "its encoder sees only patches without holes, and their number varies" if dropped else ""

    def given(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images with holes as in training."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(HOLES_SEED)
            damaged = self.objective.pretext.damage(images, self.objective.encoder)
        return tuple(one.contiguous() for one in damaged)  # tracing fixes the strides of the inputs


def open_restored(config: ExportConfig) -> Subject:
    """The restorer that a run kept.

    Raises:
        UserError: it has none, or its files are damaged.
    """
    if config.task is not None or config.encoder is not None:
        raise UserError("task and encoder apply to classifiers of probes, but this exports a restorer: remove them")
    folder = decoder_folder(config.run)
    objective, card = open_objective(folder)
    beside = folder.parent / ENCODER
    network = HolesFilled(objective) if objective.pretext.fills_holes else Restored(objective)
    return Subject(
        network=network.eval(),
        encoder=objective.encoder,
        card=None,
        folder=folder,
        run=run_around(config.run, folder),
        sha256=card.sha256,
        image_size=card.image_size,
        provenance=provenance(folder),
        encoder_at=beside if beside.is_dir() else None,
    )
