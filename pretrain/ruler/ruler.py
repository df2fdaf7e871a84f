"""Measures a learner at every panel: next to trivial restorers, on held-out images, and next to its untrained twin."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from common.data.rows import even_rows
from common.engine.curve import Curve, stall
from common.errors import UserError
from common.pixels import CHUNK_PIXELS, rows_within, split_rows, to_float, to_uint8
from pretrain.gradient.example import Example, joined
from pretrain.method import MethodLearner
from pretrain.ruler.budget import affordable
from pretrain.ruler.health import Health, health
from pretrain.ruler.measured import Measured
from pretrain.ruler.restorers import Damaged, Restore, anything_lost, do_nothing, psnr
from pretrain.ruler.twin import STATISTICS, untrained
from pretrain.ruler.verdicts import Kind, Losses, progress, verdicts
from pretrain.sample import SAMPLE_IMAGES, sample, sampled

log = logging.getLogger("retouch")

LEAST = 64  # images, held out and of training, that losses are measured on; most: SAMPLE_IMAGES
FEWEST, MOST, PIXELS = 32, 512, 1 << 18  # images that restorers and health are measured on: 256 of 32 px
TUNED = 32  # training images on which the strength of a restorer is chosen
CHUNK = 32  # images per pass
HOW = "Ctrl-C, then the same command with resume=true stop.when=flat, exports the encoder"


class _Fixed(NamedTuple):
    """What stays the same from measurement to measurement. Images are uint8 ``[n 3 S S]``."""

    images: Tensor  # held-out images, or training images if there are none
    shown: int  # how many of them, from the first on, all restorers restore and the encoders see
    training: Tensor  # as many training images; none if the others are training images too
    groups: Tensor  # int64 [n]: held-out images with the same number are cut from one image
    lost: Tensor  # bool [shown], whether there is anything to restore; all if there is in none
    restorers: dict[str, float]  # PSNR of trivial restorers
    untrained: Health


class _Tried(NamedTuple):
    """One pass of the network over images."""

    losses: Tensor  # float64 [n]
    levels: Tensor  # PSNR of the first ones, float64 [shown]
    changed: float | None  # how much the network changes them, relative to the damage; None if there is none


class Ruler:
    """Measures a learner that restores damaged images, in words and numbers.

    Every measurement damages the same images in the same way, so its curves are smooth. What does not change is
    computed at the first one.

    Args:
        learned: images that are learned from between two measurements, which decide how many are measured on.
        at_once: pixels that a trivial restorer is given at once, in whole chunks; results differ only by rounding.
            None: as suits the device.
    """

    def __init__(self, learner: MethodLearner, learned: int, at_once: int | None = None) -> None:
        self.learner, self.most = learner, affordable(learned, least=LEAST, most=SAMPLE_IMAGES)
        if at_once is None:  # a chunk stays in a processor's cache; on a GPU, starting each operation takes time
            at_once = 0 if learner.encoder.mean.device.type == "cpu" else CHUNK_PIXELS
        self.at_once = at_once
        self.curve = Curve()  # the held-out loss
        self.last: Measured | None = None
        self.remarked = set[Kind]()  # once per run is enough

    def show(self, step: int) -> Mapping[str, float]:
        """Measure, and say what was found; returns the numbers.

        Raises:
            UserError: the loss is not a finite number.
        """
        found = self.last = self._measure(step)
        held = self.learner.held
        log.info("%s", found.brief(0 if held is None else len(held)))
        log.debug("%s", found.sentence)
        if found.held_out_loss is not None:
            self.curve.add(step, found.held_out_loss)
        if said := progress(stall(self.curve.points), self.learner.stop.patience):
            log.info("%s (%s)", said, "stop.when=flat" if self.learner.stop.when == "flat" else HOW)
        for verdict in found.verdicts:
            if verdict.is_fault:
                log.warning("%s", verdict.text)
            elif verdict.kind not in self.remarked:
                self.remarked.add(verdict.kind)
                log.info("note: %s", verdict.text)
        return found.numbers

    def result(self, step: int) -> Measured:
        """The measurement of the last step; made again if an earlier process made it."""
        if self.last is None or self.last.step != step:
            self.last = self._measure(step)
        return self.last

    def flat(self) -> bool:
        """Whether training may end: the setting is on, and the held-out loss has made no progress for long enough."""
        stop = self.learner.stop
        return stop.when == "flat" and stall(self.curve.points).points >= stop.patience

    # ---- one measurement

    @torch.no_grad()
    def _measure(self, step: int) -> Measured:
        fixed = self._fixed
        tried = self._try(fixed.images, fixed.shown)
        held_out = tried.losses if len(fixed.training) else None
        training = tried.losses if held_out is None else self._try(fixed.training, 0).losses
        if not math.isfinite(float(tried.losses.sum() + training.sum())):
            raise UserError(f"the loss of the averaged weights is not finite at step {step}: {self.learner.remedy}")
        losses = Losses.of(training, held_out, fixed.groups)
        found = health(self.learner.encoder, to_float(fixed.images[: fixed.shown]))
        earlier = [value for at, value in self.curve.points if at < step]
        wrong = verdicts(found, fixed.untrained, changed=tried.changed, losses=losses, earlier=earlier)
        return Measured(
            step=step,
            images=fixed.shown,
            held_out=held_out is not None,
            nothing_to_restore=int((~fixed.lost).sum()),
            psnr=round(float(tried.levels[fixed.lost].mean()), 3),
            restorers=fixed.restorers,
            training_loss=losses.training,
            held_out_loss=losses.held_out,
            health=found,
            untrained=fixed.untrained,
            verdicts=wrong,
        )

    def _try(self, images: Tensor, shown: int) -> _Tried:
        """Losses over uint8 images ``[n 3 S S]``, and what the network makes of the first ``shown``."""
        losses, levels = list[Tensor](), list[Tensor]()
        moved, damage = list[Tensor](), list[Tensor]()
        for example, restored, loss in self.learner.trials(_chunks(to_float(images)), shown):
            if restored is not None:
                idle = self._restored(do_nothing, example)
                levels.append(psnr(restored, example.clean, example.weight))
                moved.append(_apart(restored, idle, example.weight))
                damage.append(_apart(example.clean, idle, example.weight))
            losses.append(loss.double())
        shown_levels = torch.cat(levels).cpu() if levels else torch.zeros(0)
        whole, changed = _total(damage), _total(moved)  # read once, as a GPU is waited for each time
        return _Tried(torch.cat(losses).cpu(), shown_levels, changed / whole if whole else None)

    def _damaged(self, images: Tensor) -> Iterator[Example]:
        return self.learner.damaged(_chunks(images))

    def _passes(self, images: Tensor) -> Iterator[Example]:
        """Images damaged chunk by chunk, and joined to as many as a restorer is given at once."""
        damaged, pixels = self._damaged(images), images.shape[2:].numel()
        chunks = rows_within(pixels * rows_within(pixels, CHUNK_PIXELS, CHUNK), self.at_once)
        while some := list(islice(damaged, chunks)):
            yield joined(some)

    def _restored(self, restore: Restore, example: Example) -> Tensor:
        """What a trivial restorer makes of damaged images, RGB in [0, 1]."""
        return self.learner.aided(restore(Damaged(example.seen, example.hidden)), example).clamp(0, 1)

    # ---- what stays the same

    @cached_property
    def _fixed(self) -> _Fixed:
        learner = self.learner
        known, measured = sample(learner.images), learner.images if learner.held is None else learner.held
        images = sample(measured, self.most)
        shown = _shown(images)
        order = _spread(len(images), shown)
        images, rows = images[order], measured.kept[sampled(measured, self.most)][order]
        restorers, lost = self._tuned(known), list[Tensor]()
        levels = {name: list[Tensor]() for name in restorers}
        for example in self._passes(images[:shown]):
            for name, restore in restorers.items():
                levels[name].append(psnr(self._restored(restore, example), example.clean, example.weight))
            best = torch.stack([found[-1] for found in levels.values()]).amax(0)
            lost.append(anything_lost(best, learner.spared))
        some = torch.cat(lost).cpu()
        some = some if some.any() else torch.ones_like(some)
        return _Fixed(
            images=to_uint8(images),
            shown=shown,
            training=to_uint8(known[even_rows(len(known), 0 if learner.held is None else len(images))]),
            groups=rows // measured.source.rows_per_image,
            lost=some,
            restorers={name: round(float(torch.cat(found).cpu()[some].mean()), 3) for name, found in levels.items()},
            untrained=health(untrained(learner.encoder, known[even_rows(len(known), STATISTICS)]), images[:shown]),
        )

    def _tuned(self, training: Tensor) -> dict[str, Restore]:
        """Each restorer by name, at the strength that restores damaged training images ``[N 3 S S]`` best."""
        examples = list(self._damaged(training[even_rows(len(training), TUNED)]))

        def level(restore: Restore) -> float:
            found = (psnr(self._restored(restore, one), one.clean, one.weight) for one in examples)
            return sum(float(part.sum()) for part in found)

        there = training.to(self.learner.encoder.mean.device)
        candidates = {one.name: one.candidates(there) for one in self.learner.restorers}
        return {name: some[0] if len(some) == 1 else max(some, key=level) for name, some in candidates.items() if some}


def _apart(one: Tensor, other: Tensor, weight: Tensor | None) -> Tensor:
    """Summed squared difference of images, where error counts: a scalar."""
    difference = (one - other).square()
    return (difference if weight is None else difference * weight).sum()


def _total(sums: list[Tensor]) -> float:
    return float(torch.stack(sums).double().sum()) if sums else 0.0


def _chunks(images: Tensor) -> tuple[Tensor, ...]:
    return split_rows(images, images.shape[2:].numel(), CHUNK_PIXELS, CHUNK)


def _shown(images: Tensor) -> int:
    """How many images are restored by all: whole chunks, so that these are damaged alike alone and among all."""
    pixels = images.shape[2:].numel()
    chunk = rows_within(pixels, CHUNK_PIXELS, CHUNK)
    most = min(MOST, max(FEWEST, PIXELS // pixels)) // chunk * chunk
    return min(len(images), most)


def _spread(length: int, count: int) -> Tensor:
    """An order of ``length`` rows, ``count`` evenly spread ones first: some of each class in a sorted folder."""
    first = even_rows(length, count)
    others = torch.ones(length, dtype=torch.bool)
    others[first] = False
    return torch.cat([first, others.nonzero().flatten()])
