"""From numbers to plain English: how good a restorer is, what is wrong with it, and whether training may stop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from common.config import Config
from common.engine.curve import Stall
from pretrain.ruler.health import Health

SAME = 0.05  # dB: restorers that are closer than this are equally good,
SLIGHT = 0.5  # and those that are closer than this differ by about a tenth of the squared error, or less
COPIED = 0.05  # a network copies where it changes its input by less than this share of the damage (squared)
DEAD = 0.5  # share of dead features from which an encoder counts as dead, if it is far above the untrained one's
CONSTANT = 0.5  # share of constant features from which it counts as collapsed
FEW_DIRECTIONS = 0.1  # effective rank, relative to the untrained network's, below which it counts as collapsed;
ONE_DIRECTION = 1.2  # or, if the untrained network's is at least 2, in itself. Healthy training lowers it by half or so
RISEN = 1.5  # held-out loss, relative to the lowest so far, above which training diverges or overfits
GAP = 1.1  # held-out loss, relative to the training loss, above which a network memorizes,
CHANCE = 0.001  # if no more than this share of sound networks would have such a gap by chance


Kind = Literal["copying", "collapsed", "dead", "diverging", "overfitting", "memorizing"]
REMARKS: frozenset[Kind] = frozenset({"memorizing"})  # true of good encoders too, so no fault


class Verdict(Config):
    """A fault and its likely cause, or something to know."""

    kind: Kind
    text: str

    @property
    def is_fault(self) -> bool:
        return self.kind not in REMARKS

    @property
    def sentence(self) -> str:
        """``A fault was found: ...`` or ``Note: ...``."""
        return f"{'A fault was found' if self.is_fault else 'Note'}: {self.text}."


class Losses(NamedTuple):
    """Mean losses over as many training and held-out images, measured in the same way."""

    training: float
    held_out: float | None
    chance: float  # probability of a difference this large if held-out images are no harder, in [0, 1]

    @classmethod
    def of(cls, training: Tensor, held_out: Tensor | None, groups: Tensor) -> Losses:
        """From the loss of each training and held-out image, float64 ``[n]`` and ``[m]``, alike damaged in pairs.

        Differences within pairs do not depend on the luck of the damage. A paired t-test tells them from zero.

        Args:
            groups: int64 ``[m]``: held-out rows of one group are cut from one image, and count once.
        """
        if held_out is None:
            return cls(float(training.mean()), None, 1.0)
        from scipy.stats import ttest_1samp  # takes a second to import

        pairs = min(len(training), len(held_out))
        groups = torch.unique(groups[:pairs], return_inverse=True)[1]
        apart = torch.bincount(groups, held_out[:pairs] - training[:pairs]) / torch.bincount(groups)
        few = len(apart) < 2
        chance = 1.0 if few else float(ttest_1samp(apart.numpy(), 0, alternative="greater").pvalue)
        return cls(float(training.mean()), float(held_out.mean()), chance)


def standing(psnr: float, restorers: Mapping[str, float]) -> str:
    """How a network with this PSNR (dB) compares with trivial restorers, by name; the best of them is always named.

    ``better than non-local means (PSNR 27.1 against 25.9)``
    """
    if not restorers:
        return f"PSNR {psnr:.1f}"
    beaten = {name: value for name, value in restorers.items() if psnr > value + SAME}
    best = max(restorers, key=restorers.__getitem__)
    if not beaten:
        return f"no better than {best} (PSNR {psnr:.1f} against {restorers[best]:.1f})"
    next_below = max(beaten, key=beaten.__getitem__)
    slightly = "slightly " if psnr < beaten[next_below] + SLIGHT else ""
    better = f"{slightly}better than {next_below} (PSNR {psnr:.1f} against {beaten[next_below]:.1f})"
    return better if best in beaten else f"{better}, but not than {best} ({restorers[best]:.1f})"


def progress(stalled: Stall, patience: int) -> str:
    """The advice to stop, once a loss has made no progress for ``patience`` measurements; else empty."""
    if stalled.points < patience:
        return ""
    return f"no progress for {stalled.steps:,} steps: stopping is safe"


def verdicts(
    found: Health,
    untrained: Health,
    *,
    changed: float | None,
    losses: Losses,
    earlier: Sequence[float],
) -> tuple[Verdict, ...]:
    """All faults, and what else is to be known; empty if there is nothing.

    Args:
        found, untrained: health of the encoder, and of the same network before training.
        changed: mean squared change of the input by the network, relative to the damage; None if nothing is damaged.
        losses: on training and on held-out images.
        earlier: held-out losses before this one.
    """
    texts: dict[Kind, str] = {}
    if changed is not None and changed < COPIED:
        texts["copying"] = (
            "the network returns its input, as doing nothing would; likely cause: too few steps, or damage too weak to "
            "be worth restoring"
        )
    if found.dead >= DEAD and found.dead > untrained.dead + DEAD / 2:
        texts["dead"] = (
            f"{found.dead:.0%} of the features are 0 for every image (untrained: {untrained.dead:.0%}); likely cause: "
            "base_lr or penalty.l1 is too high"
        )
    elif found.constant >= CONSTANT or _few_directions(found.effective_rank, untrained.effective_rank):
        texts["collapsed"] = (
            f"the features have collapsed: {found.effective_rank:.1f} effective directions (untrained: "
            f"{untrained.effective_rank:.1f}), similarity of two images {found.similarity:.3f}; likely cause: base_lr "
            "is too high, or the decoder's skips bypass the last map"
        )
    training, held_out, chance = losses
    if held_out is not None:
        lowest = min(earlier, default=held_out)
        if held_out > GAP * training and chance < CHANCE:
            if held_out > RISEN * lowest:
                texts["overfitting"] = (
                    f"the held-out loss has risen from {lowest:.4g} to {held_out:.4g}, while that on training images "
                    f"is {training:.4g}: new pictures are restored worse than before; likely cause: too many steps "
                    "for so few images. More images or stronger augmentation (smaller crops, as in "
                    "augment.crop=[0.3, 1.0]) help the restored pictures; a probe decides about the features"
                )
            else:
                texts["memorizing"] = (
                    f"the loss is {held_out:.4g} on held-out images and {training:.4g} on training images: new "
                    "pictures are restored worse than those of the training. This is about the restored pictures; the "
                    "features may still be good, and a probe decides"
                )
        elif held_out > RISEN * lowest:
            texts["diverging"] = (
                f"the held-out loss was {lowest:.4g} and is {held_out:.4g}: training diverges; likely cause: base_lr "
                "is too high"
            )
    return tuple(Verdict(kind=kind, text=text) for kind, text in texts.items())


def _few_directions(rank: float, untrained: float) -> bool:
    return rank < FEW_DIRECTIONS * untrained or (rank < ONE_DIRECTION and untrained >= 2)
