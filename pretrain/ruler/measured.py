"""What the ruler measured at one step, as it is logged, printed and kept in ``results.json``."""

from __future__ import annotations

from common.config import Config
from pretrain.ruler.health import Health
from pretrain.ruler.verdicts import Verdict, standing


class Measured(Config):
    """A network next to trivial restorers and its untrained twin, without labels.

    Attributes:
        step: step of training.
        images: number of images that everything but the losses is measured on.
        held_out: whether they are held out; else they are training images.
        nothing_to_restore: how many of them PSNR is not measured on, such as gray images if color is to be restored.
        psnr: PSNR of the network, in dB: the mean over images.
        restorers: PSNR of trivial restorers, by name, on the same damaged images.
        training_loss, held_out_loss: losses of the averaged weights, on images that are not augmented.
        health, untrained: health of the encoder, and of the same network before training.
        verdicts: what is wrong, or to be known.
    """

    step: int
    images: int
    held_out: bool
    nothing_to_restore: int = 0
    psnr: float
    restorers: dict[str, float]
    training_loss: float
    held_out_loss: float | None
    health: Health
    untrained: Health
    verdicts: tuple[Verdict, ...]

    @property
    def numbers(self) -> dict[str, float]:
        """For curves; the trivial restorers are constant lines next to the network's."""
        held_out = {} if self.held_out_loss is None else {"held_out/loss": self.held_out_loss}
        return {
            "psnr/network": self.psnr,
            **{f"psnr/{name}": value for name, value in self.restorers.items()},
            "held_out/training_loss": self.training_loss,
            **held_out,
            **{f"health/{name}": value for name, value in self.health.numbers.items()},
        }

    def brief(self, held_out: int) -> str:
        """For the console: ``step 800: better than a median filter (PSNR 27.1 against 25.9) on 256 held-out images``.

        Args:
            held_out: how many images are held out.
        """
        count = f"{self.images:,} of {held_out:,}" if self.held_out and self.images < held_out else f"{self.images:,}"
        beaten = not self.restorers or self.psnr > max(self.restorers.values())
        return (
            f"step {self.step:,}: {standing(self.psnr, self.restorers)} on {count} "
            f"{self._kind} images{self._left_out}{self._memorized}"
            f"{'' if beaten else '; a probe judges the features'}"
        )

    @property
    def _kind(self) -> str:
        return "held-out" if self.held_out else "training"

    @property
    def _memorized(self) -> str:
        """The warning that belongs to every number that was measured on training images."""
        return "" if self.held_out else ", which the network may have memorized"

    @property
    def _left_out(self) -> str:
        have = "has" if self.nothing_to_restore == 1 else "have"
        return f" ({self.nothing_to_restore:,} {have} nothing to restore)" if self.nothing_to_restore else ""

    @property
    def sentence(self) -> str:
        """``step 800: better than non-local means (PSNR 27.1 against 25.9) on 256 held-out images; ...``"""
        losses = f"loss {self.training_loss:.4g}"
        if self.held_out_loss is not None:
            losses = f"held-out loss {self.held_out_loss:.4g} (training {self.training_loss:.4g})"
        return (
            f"step {self.step:,}: {standing(self.psnr, self.restorers)} on {self.images:,} {self._kind} "
            f"images{self._left_out}{self._memorized}; {losses}; effective rank {self.health.effective_rank:.1f} of "
            f"{self.health.features} (untrained {self.untrained.effective_rank:.1f})"
        )
