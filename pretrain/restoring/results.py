"""Typed results of ``retouch restore`` and ``retouch strange``: ``results.json`` is their dump without the pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from common.runs.results import SCHEMA_VERSION, Record


class Scores(Record):
    """How close pictures are to their clean versions, as they are written, with 8 bits.

    Attributes:
        psnr: in dB; of hidden pixels alone if the network knows which they are, and keeps the rest.
        ssim: of all pixels; None for pictures below 11 px.
    """

    psnr: float
    ssim: float | None


class RestoredPicture(Record):
    """A picture that was restored.

    Attributes:
        path: path of the given picture.
        file: path of the restored one, below ``pictures/``.
        before, after: the damaged and the restored picture, where the clean one is known.
    """

    path: str
    file: str
    width: int
    height: int
    before: Scores | None = None
    after: Scores | None = None


class RestoreResult(Record):
    """What ``retouch restore`` did.

    Attributes:
        out: the folder of the run.
        decoder_sha256: the sha256 of the decoder.
        tile, overlap: in pixels.
        restored: how many pictures.
        failed: those that could not be read, and why.
        measured: how many pictures have a known clean version.
        learned: how many of these the network has learned from, which it may have memorized; None where that is not
            known.
        nothing_to_restore: how many of these were not damaged, such as gray pictures if color is to be restored.
        before, after: means over the others; PSNR over those where anything was hidden, SSIM over those of 11 px or
            more.
        pictures: each of them; not in ``results.json``, but in ``pictures.csv``.
    """

    schema_version: Literal[2] = SCHEMA_VERSION
    stage: Literal["restore"] = "restore"
    out: Path
    run: Path
    decoder_sha256: str
    pretext: str
    damage: Literal["none", "recipe"]
    scale: float
    tile: int
    overlap: int
    restored: int
    failed: dict[str, str]
    measured: int
    learned: int | None = None
    nothing_to_restore: int = 0
    before: Scores | None
    after: Scores | None
    pictures: tuple[RestoredPicture, ...] = Field(default=(), exclude=True)

    @property
    def folder(self) -> Path:
        """Where the restored pictures are."""
        return self.out / "pictures"


class StrangePicture(Record):
    """How well a picture is restored, and how well equally hard ones are. All PSNRs are means over its copies.

    Attributes:
        rank: 1 is the strangest: the largest ``surprise``.
        surprise: ``expected - psnr``, in dB.
        psnr: PSNR of the network, in dB.
        trivial: PSNR of doing nothing or of the best trivial restorer, whichever is better for this picture.
        expected: the network's PSNR to expect for pictures with this ``trivial``.
        rank_by_psnr: 1 is the lowest ``psnr``.
        learned: whether the network has learned from it; None where that is not known.
    """

    rank: int
    path: str
    surprise: float
    psnr: float
    trivial: float
    expected: float
    rank_by_psnr: int
    learned: bool | None = None


class IntactPicture(Record):
    """A picture that has nothing to restore, such as a gray one for a network that colors: it is not ranked.

    Attributes:
        psnr, trivial, learned: as in ``StrangePicture``.
    """

    path: str
    psnr: float
    trivial: float
    learned: bool | None = None


class StrangeResult(Record):
    """The ranking of ``retouch strange``.

    Attributes:
        out: the folder of the run.
        decoder_sha256: the sha256 of the decoder.
        image_size: side of the squares that were restored.
        draws: damaged copies of each; 1 where the damage is always the same.
        restorer: the best trivial restorer.
        ranked: how many pictures.
        learned: how many of these the network has learned from, which it may have memorized; None where that is not
            known.
        deviation: usual deviation of ``surprise``, in dB: the standard deviation without the few strange ones.
        nothing_to_restore: those that are not ranked.
        pictures, intact: those that are ranked, the strangest first, and those that are not; not in ``results.json``,
            but in ``strange.csv``.
        top: the first of them.
        unreadable: those that could not be read.
    """

    schema_version: Literal[2] = SCHEMA_VERSION
    stage: Literal["strange"] = "strange"
    out: Path
    run: Path
    decoder_sha256: str
    pretext: str
    image_size: int
    draws: int
    restorer: str
    ranked: int
    learned: int | None = None
    deviation: float = 0.0
    nothing_to_restore: int = 0
    unreadable: int
    top: tuple[StrangePicture, ...]
    pictures: tuple[StrangePicture, ...] = Field(default=(), exclude=True)
    intact: tuple[IntactPicture, ...] = Field(default=(), exclude=True)
