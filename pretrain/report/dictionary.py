"""Pictures of the atoms of a code, and of the patches that excite them."""

from __future__ import annotations

import torch
from torch import Tensor

from common.runs.folder import Run
from pretrain.report.atoms import save_atoms, save_exciting
from pretrain.report.explained import Explained

EXCITED = 12  # atoms whose patches are shown
PATCHES = 10  # patches per atom


def show_dictionary(run: Run, step: int, explained: Explained) -> int:
    """Write ``panels/atoms.png`` and ``panels/exciting.png``; returns how many atoms no patch uses.

    Of an atom and its mirror image, one is shown, and both are counted.
    """
    explained = upright(explained)
    use = explained.codes.abs().mean(0)
    title = "dictionary, without mirror images" if explained.mirrored else "dictionary"
    panels = run.folder / "panels"
    atoms = save_atoms(panels / "atoms.png", explained.atoms.cpu(), use.cpu(), title=title)
    exciting = save_exciting(panels / "exciting.png", *most_exciting(explained, use))
    for name, path in (("atoms", atoms), ("exciting", exciting)):
        run.image(name, path, step)
    return int((use == 0).sum()) * (2 if explained.mirrored else 1)


def upright(explained: Explained) -> Explained:
    """The same code with signs chosen so that every atom is added more than subtracted: how it looks in use."""
    sign = torch.where(explained.codes.sum(0) < 0, -1.0, 1.0)
    return explained._replace(atoms=explained.atoms * sign[:, None, None, None], codes=explained.codes * sign)


def most_exciting(explained: Explained, use: Tensor) -> tuple[Tensor, Tensor]:
    """The most used atoms ``[k 3 p p]`` and the patches that excite each most ``[k m 3 p p]``."""
    best = use.argsort(descending=True)[:EXCITED]
    strength = explained.codes[:, best]
    places = strength.topk(min(PATCHES, len(strength)), dim=0).indices.T  # [k m]
    return explained.atoms[best].cpu(), explained.patches[places.to(explained.patches.device)].cpu()
