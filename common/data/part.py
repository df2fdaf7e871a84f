"""The training rows of a source that has no test set: how they were drawn, so that the same ones can be drawn again."""

from __future__ import annotations

from pydantic import Field

from common.config import Config


class Part(Config):
    """All rows but a share that was held out as the test set, seeded and stratified.

    Attributes:
        task: the labels by which they were stratified.
        test_fraction: of the rows, held out.
        seed: of the draw.
        rows: sha256 of the rows that were left, and of the number of all.
        image, label: the columns that the source was opened with, if the user named them.
    """

    task: str
    test_fraction: float = Field(gt=0, lt=1)
    seed: int = Field(ge=0, lt=1 << 32)
    rows: str
    image: str | None = None
    label: str | None = None

    @property
    def text(self) -> str:
        """In words, as ``80% for training, seed 0``."""
        return f"{1 - self.test_fraction:.0%} for training, seed {self.seed}"
