"""``retouch strange``: pictures that the network of a run restores worse than it restores others that are as hard.

How well a picture is restored says first of all how hard it is: fine texture is lost in noise, whatever restores it. So
every picture is also given to trivial restorers, which know nothing about what the network has learned. Most pictures
lie along a line of the network's PSNR over theirs. A strange one lies far below: what helps with others does not help
here. Pictures that have nothing to restore, such as gray ones for a network that colors, are not ranked.
"""

from __future__ import annotations

import csv
import io
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import theilslopes
from torch import Tensor

from common.data import Images, Source, build_source, in_order, load_images
from common.data.images import some_readable
from common.data.levels import SAMPLE, levels_of_training
from common.data.rows import even_rows
from common.encoders.provenance import warn_of_levels
from common.errors import UserError, check_all
from common.files import as_utf8, write_json, write_text
from common.machine.distributed import world
from common.machine.room import check_pass_batch
from common.pixels import save_png, to_float, to_uint8
from common.runs.folder import Run, check_run_folder, numbered, open_run, with_group
from common.runs.logs import early_log
from common.runs.results import RESULTS
from common.words import counted, true_minus
from pretrain.gradient.pretexts import Mask
from pretrain.restoring.config import SHEET, STRANGE, StrangeConfig
from pretrain.restoring.learned import learned_from
from pretrain.restoring.restore import provenance
from pretrain.restoring.restorer import NotFiniteError, PictureRestorer, open_restorer
from pretrain.restoring.results import IntactPicture, StrangePicture, StrangeResult
from pretrain.restoring.sheets import Shown, heat, heat_key, name_of, sheet
from pretrain.ruler.restorers import NORMAL_MEDIAN, Damaged, Restore, anything_lost, do_nothing, psnr

log = logging.getLogger("retouch")

TUNED = 32  # pictures on which the trivial restorer is chosen
FITTED = 1000  # pictures that the line is fitted to
FEW = 10  # below this many pictures, the slope of the line is 1
BRIGHT = 0.995  # share of the errors on a sheet that are shown darker than white


def strange(config: StrangeConfig) -> StrangeResult:
    """Rank the pictures, and write ``OUT/strange.csv`` and a sheet of the strangest ones.

    Raises:
        UserError: the run, the pictures or the run folder cannot be used; nothing has been written.
    """
    with world() as here, numbered(config, here) as config, early_log() as early:
        if here.size > 1:
            raise UserError("strange runs in one process: start it without torchrun")
        _, restorer, source = check_all(
            lambda: check_run_folder(config),
            lambda: open_restorer(config.run, batch_size=config.batch_size, precision=config.precision),
            lambda: _source(config),
        )
        data = config.data
        size = data.image_size or restorer.card.image_size
        trained_on = provenance(config.run)
        levels = levels_of_training(source, data.levels, trained_on.levels)
        images = load_images(
            source, size, limit=data.limit, workers=data.workers, cache="none", check=False, levels=levels
        )
        check_pass_batch(config.batch_size, len(images), size, here)
        images = some_readable(images, data.workers)
        warn_of_levels(trained_on, images.levels, source.spec)
        config = with_group(config, trained_on.group)
        with open_run(config, here, early) as run:
            restorer = restorer.to(here.device)
            judge = Judge(restorer, images, config)
            copies = counted(judge.draws, "copy", "copies")
            log.info("%s of each picture; the best trivial restorer is %s", copies, judge.name)
            learned = learned_from(config.run, trained_on, images.source, images.kept)
            return _results(judge, images, _measure(judge, images, config), learned, config, run)


def _source(config: StrangeConfig) -> Source:
    data = config.data
    return build_source(data.source, image=data.image, root=data.root, levels=data.levels)


# ---- one picture


class Tried(NamedTuple):
    """A damaged copy of some pictures, and what became of it. RGB ``[B 3 S S]`` in [0, 1]."""

    seen: Tensor
    restored: Tensor
    psnr: Tensor  # [B], the network's
    trivial: Tensor  # [B], that of the trivial restorer, or of doing nothing where that is one
    counted: Tensor  # [B 1 S S], where error counts


class Judge:
    """Restores damaged copies of pictures by the network, and by the trivial restorer that suits these pictures best.

    Attributes:
        draws: copies of each picture; one if the damage is always the same.
        name: name of the trivial restorer.
    """

    def __init__(self, restorer: PictureRestorer, images: Images, config: StrangeConfig) -> None:
        self.restorer, self.seed = restorer, config.seed
        sample = images.only(even_rows(len(images), SAMPLE))  # at least one of which can be read
        known = next(iter(in_order(sample, SAMPLE))).images
        some = to_float(known[even_rows(len(known), TUNED)])
        images.unreadable |= sample.unreadable  # each gets one warning
        first, second = (self._damaged(some, draw) for draw in (0, 1))
        self.draws = 1 if all(map(torch.equal, first, second)) else config.draws
        named, levels = self._tried(some, some, first)
        lost = self.lost(levels.amax(0))
        if lost.any():  # pictures that any restorer restores choose none, and are not fitted to
            named, levels = self._tried(some[lost], some, first)
            levels = levels[:, lost]
        self.name, best = named[int(levels.mean(1).argmax())]
        self._restorers = tuple({best, *(restore for _, restore in named if restore is do_nothing)})

    def lost(self, trivial: Tensor) -> Tensor:
        """Whether there was anything to restore in copies with this PSNR of the trivial restorer, ``[B]``."""
        return anything_lost(trivial, self.restorer.pretext.spared)

    def _tried(self, fitted: Tensor, clean: Tensor, damaged: Damaged) -> tuple[list[tuple[str, Restore]], Tensor]:
        """Trivial restorers fitted to some pictures, by name, and their PSNR on others, ``[K B]``."""
        restorers = self.restorer.pretext.restorers(self.restorer.objective.encoder)
        named = [(one.name, restore) for one in restorers for restore in one.candidates(fitted)]
        levels = [self._level(self._trivial(restore, damaged), clean, damaged) for _, restore in named]
        return named, torch.stack(levels)

    def copies(self, clean: Tensor) -> Iterator[Tried]:
        """Pictures ``[B 3 S S]`` in [0, 1] -> each of their damaged copies."""
        for draw in range(self.draws):
            damaged = self._damaged(clean, draw)
            restored = torch.cat(list(self.restorer.strips(damaged)), dim=2)
            trivial = [self._level(self._trivial(restore, damaged), clean, damaged) for restore in self._restorers]
            yield Tried(
                seen=to_float(self.restorer.seen(damaged.images)),
                restored=restored,
                psnr=self._level(restored, clean, damaged),
                trivial=torch.stack(trivial).amax(0),
                counted=self._counted(damaged),
            )

    def _damaged(self, clean: Tensor, draw: int) -> Damaged:
        """Every picture gets the same noise, so none has better luck than another."""
        parts = [self.restorer.damage(one[None], self.seed, draw) for one in clean]
        return Damaged(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def _trivial(self, restore: Restore, damaged: Damaged) -> Tensor:
        gray = self.restorer.card.view == "gray"
        seen = damaged if not gray else damaged._replace(images=to_float(self.restorer.seen(damaged.images)))
        return self.restorer.pretext.kept(restore(seen).clamp(0, 1), damaged).clamp(0, 1)

    def _level(self, restored: Tensor, clean: Tensor, damaged: Damaged) -> Tensor:
        return psnr(restored, clean, self._counted(damaged))

    def _counted(self, damaged: Damaged) -> Tensor:
        return damaged.hidden if isinstance(self.restorer.pretext, Mask) else torch.ones_like(damaged.hidden)


# ---- all of them


class Levels(NamedTuple):
    """PSNR of pictures in dB, means over those of their copies in which anything was lost, float64 ``[N]``."""

    rows: NDArray[np.int64]
    psnr: NDArray[np.float64]
    trivial: NDArray[np.float64]
    lost: NDArray[np.bool_]  # whether there are such copies; otherwise, the means are over all

    def only(self, chosen: NDArray[np.bool_]) -> Levels:
        return Levels(self.rows[chosen], self.psnr[chosen], self.trivial[chosen], self.lost[chosen])


def _measure(judge: Judge, images: Images, config: StrangeConfig) -> Levels:
    parts: list[Levels] = []
    done, logged = 0, time.monotonic()
    for batch in in_order(images, config.batch_size, config.data.workers):
        try:
            copies = [(one.psnr, one.trivial, judge.lost(one.trivial)) for one in judge.copies(to_float(batch.images))]
        except NotFiniteError as error:
            raise UserError(f"{as_utf8(images.where(int(batch.index[error.place])))}: {error}") from None
        network, trivial, lost = map(torch.stack, zip(*copies, strict=True))  # [draws B] each
        rows, psnrs, trivials = batch.index.numpy(), _means(network, lost), _means(trivial, lost)
        parts.append(Levels(rows, psnrs, trivials, lost.any(0).numpy()))
        done += len(batch.index)
        if time.monotonic() - logged > 5:
            logged = time.monotonic()
            log.info("%s of %s looked at", f"{done:,}", counted(len(images), "picture"))
    return Levels(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _means(levels: Tensor, lost: Tensor) -> NDArray[np.float64]:
    """PSNR ``[draws B]`` -> its mean over the copies in which anything was ``lost``, or over all, ``[B]``."""
    weight = (lost | ~lost.any(0)).double()
    return np.asarray(((levels * weight).sum(0) / weight.sum(0)).numpy())


def expected_psnr(network: NDArray[np.float64], trivial: NDArray[np.float64]) -> NDArray[np.float64]:
    """The network's PSNR to expect of pictures as hard as each of these ``[N]``, in dB.

    A line through most pictures (Theil 1950, Sen 1968: the median of the slopes of all pairs), which up to 29% of
    strange ones cannot move far. For few pictures, or for pictures that are all equally hard, its slope is 1. No more
    is expected than the network reaches for its best picture: of one that needs no restoring, as a gray one is for a
    colorizer, the trivial restorer's PSNR has no bound.
    """
    some = even_rows(len(network), FITTED).numpy()
    x, y = trivial[some], network[some]
    slope = float(theilslopes(y, x).slope) if len(some) >= FEW and np.ptp(x) > 1e-6 else 1.0
    return np.asarray(np.minimum(np.median(y - slope * x) + slope * trivial, network.max()))


def ranked(paths: Sequence[str], network: NDArray[np.float64], trivial: NDArray[np.float64]) -> list[StrangePicture]:
    """The pictures, the strangest first."""
    expected = expected_psnr(network, trivial)
    surprise = expected - network
    by_psnr = np.argsort(np.argsort(network, kind="stable"), kind="stable") + 1
    return [
        StrangePicture(
            rank=rank,
            path=paths[place],
            surprise=round(float(surprise[place]), 3),
            psnr=round(float(network[place]), 3),
            trivial=round(float(trivial[place]), 3),
            expected=round(float(expected[place]), 3),
            rank_by_psnr=int(by_psnr[place]),
        )
        for rank, place in enumerate(np.argsort(-surprise, kind="stable").tolist(), 1)
    ]


def _results(
    judge: Judge, images: Images, levels: Levels, learned: Tensor | None, config: StrangeConfig, run: Run
) -> StrangeResult:
    """Write ``strange.csv``, ``results.json`` and the sheet.

    Args:
        learned: whether the network has learned from each of the images, bool ``[N]``; None where that is not known.

    Raises:
        UserError: no picture has anything to restore.
    """
    spared, kind = judge.restorer.pretext.spared, judge.restorer.pretext.kind
    whole, levels = levels.only(~levels.lost), levels.only(levels.lost)
    if not len(levels.rows):
        raise UserError(
            f"{images.source.spec}: there is nothing that {kind} could restore: all {len(whole.rows):,} pictures are "
            f"{spared}; use other pictures, or a run of another pretext"
        )
    known = {} if learned is None else dict(enumerate(learned.tolist()))
    intact = [
        IntactPicture(
            path=as_utf8(images.where(row)), psnr=round(psnr, 3), trivial=round(trivial, 3), learned=known.get(row)
        )
        for row, psnr, trivial, _ in zip(*(part.tolist() for part in whole), strict=True)
    ]
    paths = [as_utf8(images.where(row)) for row in levels.rows.tolist()]
    row_of = dict(zip(paths, levels.rows.tolist(), strict=True))
    pictures = [
        one.model_copy(update={"learned": known.get(row_of[one.path])})
        for one in ranked(paths, levels.psnr, levels.trivial)
    ]
    top = pictures[: config.top]
    result = StrangeResult(
        out=run.folder,
        run=config.run,
        decoder_sha256=judge.restorer.card.sha256,
        pretext=kind,
        image_size=images.size,
        draws=judge.draws,
        restorer=judge.name,
        ranked=len(pictures),
        learned=None if learned is None else sum(bool(one.learned) for one in pictures),
        deviation=round(deviation([one.surprise for one in pictures]), 3),
        nothing_to_restore=len(intact),
        unreadable=len(images.unreadable),
        top=tuple(top),
        pictures=tuple(pictures),
        intact=tuple(intact),
    )
    write_text(run.folder / STRANGE, _table(pictures, intact))
    write_json(run.folder / RESULTS, result.model_dump(mode="json"))
    run.tracker.summary({"ranked": result.ranked, "surprise": top[0].surprise})
    first, behind = top[0], float(np.median(levels.trivial - levels.psnr))
    if behind > 0:
        log.warning(
            "the network is no better than %s on these pictures (%s dB below, in the median): what it fails on says "
            "little about them; train it for longer, or on pictures like these",
            *(judge.name, decibels(behind)),
        )
    if intact:
        log.info("%s %s: nothing to restore, not ranked", counted(len(intact), "picture"), spared)
    log.info(
        "%s ranked: %s; the strangest is %s, %s dB below equally hard ones (usual deviation: %s dB)",
        *(counted(len(pictures), "picture"), run.folder / STRANGE, first.path, decibels(first.surprise)),
        decibels(result.deviation),
    )
    _say_learned(result)
    _draw(judge, images, {row_of[one.path]: one for one in top}, run)
    return result


def _say_learned(result: StrangeResult) -> None:
    """What the network has learned from, it may have memorized: a ranking of both kinds compares what cannot be."""
    if result.learned == result.ranked:
        log.info(
            "all of these pictures were learned from: the network may have memorized some, which are then not found "
            "strange"
        )
    elif result.learned:
        log.warning(
            "%s of %s %s learned from: the network may have memorized them, and restores them better, so compare them "
            "only with each other (the column learned of %s)",
            *(f"{result.learned:,}", counted(result.ranked, "picture"), "was" if result.learned == 1 else "were"),
            STRANGE,
        )


def deviation(surprises: Sequence[float]) -> float:
    """The standard deviation of most of them: from the median distance to the median, which few strange ones move."""
    values = np.array(surprises)
    return float(np.median(np.abs(values - np.median(values)))) / NORMAL_MEDIAN


def decibels(level: float) -> str:
    """With one decimal; what rounds to zero has no sign."""
    return true_minus(f"{round(level, 1) + 0.0:.1f}")


def _table(pictures: Sequence[StrangePicture], intact: Sequence[IntactPicture]) -> str:
    """CSV, the strangest picture first; last, and without a rank, those that have nothing to restore."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(StrangePicture.model_fields)
    rows.writerows(list(one.model_dump().values()) for one in pictures)
    rows.writerows([getattr(one, name, None) for name in StrangePicture.model_fields] for one in intact)
    return text.getvalue()


def _draw(judge: Judge, images: Images, top: Mapping[int, StrangePicture], run: Run) -> None:
    """The sheet: each picture, a damaged copy, what became of it, and where it is wrong, over all copies.

    Args:
        top: by row of ``images``; those that can no longer be read are left out.
    """
    pixels, rows = next(images.batches([torch.tensor(list(top))]))
    clean = to_float(pixels)
    first, errors = first_and_errors(judge.copies(clean), clean)
    most = float(
        errors.flatten()[:: max(1, errors.numel() // 1_000_000)].quantile(BRIGHT)
    )  # quantile() takes no more values
    shown = [
        Shown(
            {
                "original": pixels[place],
                "damaged,\nin gray" if judge.restorer.card.view == "gray" else "damaged": to_uint8(first.seen[place]),
                "restored": to_uint8(first.restored[place]),
                "error": heat(errors[place], most),
            },
            captions(one, images.source),
        )
        for place, one in enumerate(top[row] for row in rows.tolist())
    ]
    title = f"The strangest of {name_of(images.source.spec)}, judged by {judge.restorer.pretext.kind}"
    save_png(sheet(shown, title, {"error": heat_key(most)}), run.folder / SHEET)
    run.image("sheet", run.folder / SHEET, 0)


def captions(picture: StrangePicture, source: Source) -> tuple[str, ...]:
    """Its path below the folder of the source, its rank, and how much worse it is restored than expected."""
    side = "below" if picture.surprise >= 0 else "above"
    return (
        picture.path.removeprefix(f"{as_utf8(source.spec.partition(':')[2])}/"),
        f"{picture.rank}: {decibels(abs(picture.surprise))} dB {side} expected",
        f"{decibels(picture.psnr)} instead of {decibels(picture.expected)} dB",
    )


def first_and_errors(copies: Iterator[Tried], clean: Tensor) -> tuple[Tried, Tensor]:
    """The first copy, and the root mean squared error of each pixel where it counts, over all copies: ``[B S S]``."""
    first = next(copies)
    wrong, counted = torch.zeros_like(clean[:, :1]), torch.zeros_like(clean[:, :1])
    for one in chain([first], copies):
        wrong += (one.restored - clean).square().mean(1, keepdim=True) * one.counted
        counted += one.counted
    return first, (wrong / counted.clamp_min(1))[:, 0].sqrt()
