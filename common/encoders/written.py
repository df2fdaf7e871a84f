"""What a run that goes on has exported before: a folder that is no longer what was written is left as it is."""

from __future__ import annotations

from pathlib import Path

from common.encoders.card import WEIGHTS, digest
from common.encoders.export import refuse_foreign
from common.encoders.load import read_encoder_card
from common.errors import UserError, moved_away


def check_written(folder: Path, lost: Path | None = None) -> None:
    """Check that an export can be written again in its place, as a run does that is resumed after it.

    A folder that is not there is no problem: the run writes it.

    Args:
        lost: the folder that must be gone for that, by default this one.

    Raises:
        UserError: a file of it is damaged, modified, missing, or not an encoder's; says what to do.
    """
    if not folder.exists():
        return
    try:
        card = read_encoder_card(folder)
        if digest(card, folder / WEIGHTS) != card.sha256:
            raise UserError(f"{folder / WEIGHTS} is damaged or was modified (sha256 differs)")
        refuse_foreign(folder)
    except UserError as error:
        raise moved_away(error, lost or folder) from None
