"""The network of a pretraining run as a whole, encoder and decoder: it restores damaged images."""

from __future__ import annotations

import torch
from torch import Tensor

from common.errors import UserError
from pretrain.gradient.kept import decoder_folder, open_objective
from pretrain.gradient.objective import Objective
from pretrain.gradient.pretexts import Mask
from pretrain.restoring.restore import provenance
from pretrain.ruler.restorers import Damaged
from retouch.exporting.settings import ExportConfig
from retouch.exporting.subject import RESTORED, Exportable, Subject, run_around


class Restored(Exportable):
    """Damaged images ``[B 3 S S]``, RGB in [0, 1] (noise may exceed it) -> ``restored``, the same shape, in [0, 1]."""

    output = "restorer"
    names = (RESTORED,)

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        objective, pretext = self.objective, self.objective.pretext
        damaged = Damaged(images, torch.zeros_like(images[:, :1]))  # nothing is hidden
        example = pretext.given(damaged, objective.encoder)
        restored = pretext.picture(objective.predict(example)[0], example, objective.state)
        return {RESTORED: pretext.kept(restored, damaged).clamp(0, 1)}


def open_restored(config: ExportConfig) -> Subject:
    """The restorer that a run kept.

    Raises:
        UserError: it has none, its files are damaged, or it needs to know where pixels are hidden.
    """
    if config.task is not None or config.encoder is not None:
        raise UserError("task and encoder apply to classifiers of probes, but this exports a restorer: remove them")
    folder = decoder_folder(config.run)
    objective, card = open_objective(folder)
    if isinstance(objective.pretext, Mask):
        raise UserError(
            f"output=restorer: {config.run} fills holes, but the input of an export is only an image, which does not "
            "say where they are: use retouch restore or retouch.open_restorer"
        )
    return Subject(
        network=Restored(objective).eval(),
        encoder=objective.encoder,
        card=None,
        folder=folder,
        run=run_around(config.run, folder),
        sha256=card.sha256,
        image_size=card.image_size,
        provenance=provenance(folder),
    )
