"""``retouch restore``: pictures through the decoder that a run has kept, at their own resolution."""

from __future__ import annotations

import csv
import io
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from common.data.levels import levels_of_training, say_levels
from common.data.pages import warn_of_pages
from common.data.rows import even_rows
from common.encoders.load import ENCODER, read_encoder_card
from common.encoders.provenance import UNKNOWN, Provenance, warn_of_levels
from common.errors import UserError, check_all, one_line
from common.files import as_utf8, write_json, write_text
from common.machine.distributed import world
from common.pixels import save_png, to_pil, to_uint8
from common.runs.folder import Run, check_run_folder, numbered, open_run, with_group
from common.runs.logs import early_log
from common.runs.results import RESULTS
from common.words import counted
from pretrain.gradient.kept import decoder_folder
from pretrain.gradient.pretexts import Mask
from pretrain.restoring.config import JOURNAL, PICTURES, SCORES, SHEET, RestoreConfig
from pretrain.restoring.learned import learned_from
from pretrain.restoring.pictures import Picture, Pictures, number_of, open_pictures, shown_where, with_opacity
from pretrain.restoring.restorer import NotFiniteError, PictureRestorer, open_restorer, punched
from pretrain.restoring.results import RestoredPicture, RestoreResult, Scores
from pretrain.restoring.scale import say_of_scale
from pretrain.restoring.scores import score
from pretrain.restoring.sheets import Shown, middle, name_of, part_of, read_back, sheet
from pretrain.ruler.restorers import INVISIBLE, Damaged

log = logging.getLogger("retouch")

SHOWN = 12  # pictures on the sheet
SAID = 10  # unreadable pictures that each get a warning


def restore(config: RestoreConfig) -> RestoreResult:
    """Write ``OUT/pictures/``, each picture as PNG at its own path there, and what was measured.

    Raises:
        UserError: the run, the pictures or the run folder cannot be used; nothing has been written.
    """
    with world() as here, numbered(config, here) as config, early_log() as early:
        if here.size > 1:
            raise UserError("restore runs in one process: start it without torchrun")
        _, restorer, pictures = check_all(
            lambda: check_run_folder(config), lambda: _opened(config), lambda: open_pictures(config.data, config.scale)
        )
        trained_on = provenance(config.run)
        _look_at(pictures, config, trained_on)
        config = with_group(config, trained_on.group)
        with open_run(config, here, early) as run:
            restorer = restorer.to(here.device)
            say_of_scale(restorer, pictures, config)
            journal = Journal(run, restorer, pictures)
            failed = _restore_all(restorer, pictures, config, journal)
            learned = learned_from(config.run, trained_on, pictures.source, torch.tensor(pictures.rows))
            known = None if learned is None else dict(zip(pictures.names, learned.tolist(), strict=True))
            result = _results(restorer, config, run, journal, failed, pictures.names, known)
            _draw(restorer, pictures, config, run, journal)
            return result


def _look_at(pictures: Pictures, config: RestoreConfig, trained_on: Provenance) -> None:
    """Choose the levels of the pictures, and say what their files hold that is not restored.

    Raises:
        UserError: none can be read; an earlier run must not make way for that.
    """
    source = pictures.source
    pictures.levels = levels_of_training(source, config.data.levels, trained_on.levels) or source.levels
    pictures.source = source.scaled(pictures.levels)
    say_levels(pictures.levels, source.spec)
    warn_of_levels(trained_on, pictures.levels, source.spec)
    warn_of_pages(source)
    failed: dict[str, str] = {}
    for row in pictures.rows:
        try:
            pictures.read(row)
            return
        except Exception as error:  # decoders raise anything on broken files
            failed[as_utf8(source.where(row))] = one_line(error, 200)
    raise _none_restored(pictures, failed)


def _none_restored(pictures: Pictures, failed: Mapping[str, str]) -> UserError:
    where, why = next(iter(failed.items()))
    return UserError(f"{pictures.source.spec}: no picture can be restored, for example {where} ({why})")


def provenance(run: Path) -> Provenance:
    """What is known about the training of a run's encoder, if it is still there."""
    encoder = decoder_folder(run).parent / ENCODER
    return read_encoder_card(encoder).provenance if encoder.is_dir() else UNKNOWN


def _opened(config: RestoreConfig) -> PictureRestorer:
    """The restorer, which can do what is asked for.

    Raises:
        UserError: with every problem.
    """
    restorer = open_restorer(
        config.run,
        tile=config.tile,
        overlap=config.overlap,
        batch_size=config.batch_size,
        precision=config.precision,
    )
    pretext = restorer.pretext
    if config.data.masks is not None and not pretext.fills_holes:
        raise UserError(
            f"data.masks: {config.run} learned {pretext.kind}, and does not know which pixels are hidden; use a "
            "run of mask, or of mixed with holes"
        )
    if isinstance(pretext, Mask) and config.data.masks is None and config.damage == "none":
        raise UserError(
            f"{config.run} fills holes, but nothing says where they are: give data.masks=FOLDER (a mask at the path of "
            "each picture, not 0 where it is to be filled), or damage=recipe to try it on holes that are drawn"
        )
    return restorer


# ---- the pictures


def damaged_picture(restorer: PictureRestorer, picture: Picture, config: RestoreConfig, name: str) -> Damaged:
    """What is to be restored: ``[1 3 H W]``, uint8 as it is given, or float if it was damaged here; and its holes."""
    image = picture.image[None]
    if config.damage == "recipe":
        return restorer.damage(image.float() / 255, config.seed, number_of(name))
    hidden = torch.zeros_like(image[:, :1]) if picture.hidden is None else picture.hidden[None]
    return punched(Damaged(image, hidden), restorer.fill)


def clean_picture(picture: Picture, config: RestoreConfig) -> Tensor | None:
    """What it should become, uint8 ``[3 H W]``; None if that is not known."""
    return picture.image if config.damage == "recipe" else picture.clean


def _restore_all(
    restorer: PictureRestorer, pictures: Pictures, config: RestoreConfig, journal: Journal
) -> dict[str, str]:
    """Restore those that are not done yet; returns those that could not be read, and why."""
    failed: dict[str, str] = {}
    logged = time.monotonic()
    for number, (row, name) in enumerate(zip(pictures.rows, pictures.names, strict=True), 1):
        if name in journal:
            continue
        where = as_utf8(pictures.source.where(row))
        try:
            picture = pictures.read(row)
        except Exception as error:  # decoders raise anything on broken files
            failed[where] = one_line(error, 200)
            if len(failed) <= SAID:
                log.warning("left out: %s (%s)", where, failed[where])
            continue
        damaged = damaged_picture(restorer, picture, config, name)
        try:
            restored = _whole(restorer, damaged)
        except NotFiniteError as error:
            raise UserError(f"{where}: {error}") from None
        counts = damaged.hidden[0] > 0 if isinstance(restorer.pretext, Mask) else None
        clean = clean_picture(picture, config)
        given = restorer.seen(damaged.images)[0]
        found = RestoredPicture(
            path=where,
            file=as_utf8(name),
            width=restored.shape[2],
            height=restored.shape[1],
            before=None if clean is None else score(given, clean, counts),
            after=None if clean is None else score(restored, clean, counts),
        )
        shown = to_pil(restored) if picture.opacity is None else with_opacity(restored, shown_where(picture))
        if picture.profile is not None:
            shown.info["icc_profile"] = picture.profile
        save_png(shown, journal.folder / name)
        journal.add(name, found)
        if time.monotonic() - logged > 5:
            logged = time.monotonic()
            log.info("%s of %s restored", f"{number - len(failed):,}", counted(len(pictures.rows), "picture"))
    if len(failed) == len(pictures.rows):
        raise _none_restored(pictures, failed)
    if len(failed) > SAID:
        log.warning("%d pictures cannot be read and are left out; results.json lists them", len(failed))
    return failed


def _whole(restorer: PictureRestorer, damaged: Damaged) -> Tensor:
    """uint8 ``[3 H W]``: strips are rounded one by one, so that no whole picture is held as floats."""
    whole = torch.empty(damaged.images.shape[1:], dtype=torch.uint8)
    top = 0
    for strip in restorer.strips(damaged):
        whole[:, top : top + strip.shape[2]] = to_uint8(strip[0])
        top += strip.shape[2]
    return whole


class Journal:
    """Which pictures are done: ``pictures.jsonl``, a line for each as soon as its file is there.

    Raises:
        UserError: the run is resumed, but the pictures, their masks or clean versions, or the decoder have changed.
    """

    def __init__(self, run: Run, restorer: PictureRestorer, pictures: Pictures) -> None:
        self.path, self.folder = run.folder / JOURNAL, run.folder / PICTURES
        self.done: dict[str, RestoredPicture] = {}
        head = {
            "pictures": pictures.source.fingerprint,
            "masks": None if pictures.masks is None else pictures.masks.fingerprint,
            "clean versions": None if pictures.clean is None else pictures.clean.fingerprint,
            "decoder": restorer.card.sha256,
        }
        text = self.path.read_text(encoding="utf-8") if run.resumed and self.path.is_file() else ""
        # not splitlines(): a path may hold one of the other characters that end lines
        lines = [line for line in text.split("\n") if line]
        begun = _begun(lines[0]) if lines else head
        if changed := [what for what, now in head.items() if begun.get(what) != now]:
            raise UserError(
                f"out: {run.folder} was begun before these changed: {', '.join(changed)}; use overwrite=true to start "
                "over, or another out"
            )
        kept = list(_whole_lines(lines[1:]))
        named = {as_utf8(name): name for name in pictures.names}
        for one in kept:
            if (name := named.get(one.file)) is not None and (self.folder / name).is_file():
                self.done[name] = one
        if self.done:
            log.info("restored before: %s", counted(len(self.done), "picture"))
        write_text(self.path, "".join(f"{line}\n" for line in (json.dumps(head), *map(_line, self.done.values()))))

    def __contains__(self, name: str) -> bool:
        return name in self.done

    def add(self, name: str, picture: RestoredPicture) -> None:
        """Record a picture whose file has been written."""
        self.done[name] = picture
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{_line(picture)}\n")


def _begun(line: str) -> dict[str, Any]:
    """What a journal was begun with, as its first line says; empty if the line is damaged."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _line(picture: RestoredPicture) -> str:
    return picture.model_dump_json()


def _whole_lines(lines: Sequence[str]) -> Iterator[RestoredPicture]:
    for line in lines:
        try:
            yield RestoredPicture.model_validate_json(line)
        except ValidationError:  # the last line of a run that was killed
            continue


# ---- what was found


def _draw(restorer: PictureRestorer, pictures: Pictures, config: RestoreConfig, run: Run, journal: Journal) -> None:
    """Write the sheet of some pictures that still exist: the middle of each, as large as it is."""
    shown: list[Shown] = []
    there = [name for name in pictures.names if (run.folder / PICTURES / name).is_file()]
    chosen = {there[place] for place in even_rows(len(there), SHOWN).tolist()} if there else set()
    for row, name in zip(pictures.rows, pictures.names, strict=True):
        if name in chosen:
            try:
                picture, restored = pictures.read(row), read_back(run.folder / PICTURES / name)
            except Exception:  # of any kind; it could be read when it was restored
                continue
            shown.append(_shown(restorer, picture, restored, config, name, journal.done[name]))
    if shown:
        title = f"Restored by {restorer.card.pretext.kind}: {name_of(pictures.source.spec)}"
        save_png(sheet(shown, title), run.folder / SHEET)
        run.image("sheet", run.folder / SHEET, 0)


def _shown(
    restorer: PictureRestorer,
    picture: Picture,
    restored: Tensor,
    config: RestoreConfig,
    name: str,
    found: RestoredPicture,
) -> Shown:
    damaged = damaged_picture(restorer, picture, config, name)
    place = middle(damaged.hidden[0, 0])
    clean = clean_picture(picture, config)
    rows = {} if clean is None else {"original": part_of(clean, place)}
    gray = ",\nin gray" if restorer.card.view == "gray" else ""  # what the network sees of pictures that may have color
    rows[f"{'damaged' if rows else 'given'}{gray}"] = restorer.seen(part_of(damaged.images[0], place)[None])[0]
    rows["restored"] = part_of(restored, place)
    before, after = found.before, found.after
    scores = [] if before is None or after is None else [f"PSNR {after.psnr:.1f} dB (before {before.psnr:.1f})"]
    return Shown(rows, (as_utf8(name), *scores))


def _results(
    restorer: PictureRestorer,
    config: RestoreConfig,
    run: Run,
    journal: Journal,
    failed: dict[str, str],
    names: Sequence[str],
    learned: Mapping[str, bool] | None,
) -> RestoreResult:
    """Write ``pictures.csv`` and ``results.json``.

    Args:
        learned: whether the network has learned from the picture of each name; None where that is not known.
    """
    pictures = tuple(journal.done[name] for name in names if name in journal)
    measured = [one for one in pictures if one.after is not None]
    lost = [one for one in measured if _lost(one, restorer, config)]
    meant = lost or measured
    result = RestoreResult(
        out=run.folder,
        run=config.run,
        decoder_sha256=restorer.card.sha256,
        pretext=restorer.pretext.kind,
        damage=config.damage,
        scale=config.scale,
        tile=restorer.grid.tile,
        overlap=restorer.grid.overlap,
        restored=len(pictures),
        failed=failed,
        measured=len(measured),
        learned=None
        if learned is None
        else sum(learned[name] for name in names if name in journal and journal.done[name].after is not None),
        nothing_to_restore=len(measured) - len(meant),
        before=_mean([one.before for one in meant]),
        after=_mean([one.after for one in meant]),
        pictures=pictures,
    )
    write_text(run.folder / SCORES, _table(pictures))
    write_json(run.folder / RESULTS, result.model_dump(mode="json"))
    run.tracker.summary(result.model_dump(mode="json", include={"restored", "measured", "before", "after"}))
    log.info("%s", _sentence(result))
    if result.learned:
        log.info(
            "%s of these %s %s learned from: the network may have memorized them, and may restore others worse",
            *(f"{result.learned:,}", counted(result.measured, "picture"), "was" if result.learned == 1 else "were"),
        )
    return result


def _lost(picture: RestoredPicture, restorer: PictureRestorer, config: RestoreConfig) -> bool:
    """Whether there was anything to restore: the given picture differs from the clean one, as far as can be seen.

    As for ``anything_lost``, weak noise is a damage too if it is what the run has learned.
    """
    can_spare = config.damage == "none" or bool(restorer.pretext.spared)
    return not can_spare or picture.before is None or picture.before.psnr < INVISIBLE


def _mean(scores: Sequence[Scores | None]) -> Scores | None:
    found = [one for one in scores if one is not None]
    if not found:
        return None
    alike = [one.ssim for one in found if one.ssim is not None]
    return Scores(
        psnr=round(sum(one.psnr for one in found) / len(found), 4),
        ssim=round(sum(alike) / len(alike), 6) if alike else None,
    )


def _table(pictures: Sequence[RestoredPicture]) -> str:
    """CSV: the path of each picture, its file, and how close it is to the clean one; empty where that is not known."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["path", "file", "width", "height", "psnr_before", "psnr", "ssim_before", "ssim"])
    for one in pictures:
        before, after = one.before, one.after
        rows.writerow(
            [
                *(one.path, f"{PICTURES}/{one.file}", one.width, one.height),
                *(None if scores is None else scores.psnr for scores in (before, after)),
                *(None if scores is None else scores.ssim for scores in (before, after)),
            ]
        )
    return text.getvalue()


def _sizes(pictures: Sequence[RestoredPicture]) -> str:
    """``13x13 to 40x30 px``: the smallest and the largest."""
    sizes = sorted({(one.width, one.height) for one in pictures}, key=lambda size: (size[0] * size[1], size))
    return " to ".join(dict.fromkeys(f"{width}x{height}" for width, height in (sizes[0], sizes[-1]))) + " px"


def _sentence(result: RestoreResult) -> str:
    scale = "" if result.scale == 1 else f" at {result.scale:g} of their size ({_sizes(result.pictures)})"
    failed = f", {len(result.failed):,} cannot be read" if result.failed else ""
    said = f"{counted(result.restored, 'picture')} restored{scale}{failed}: {result.folder}"
    if result.after is None or result.before is None:
        return said
    alike = "" if result.after.ssim is None else f", SSIM {result.after.ssim:.3f} (before {result.before.ssim:.3f})"
    intact = counted(result.nothing_to_restore, "picture")
    left_out = f"; left out of these means: {intact} with nothing to restore" if result.nothing_to_restore else ""
    return f"{said}; PSNR {result.after.psnr:.1f} dB (before {result.before.psnr:.1f}){alike}{left_out}"
