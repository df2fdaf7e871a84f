"""Images as data URIs: pictures that runs drew, and test images that a probe classified incorrectly."""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from PIL import Image, ImageOps

from common.data import Source
from common.data.build import REMOTE
from common.data.decode import square
from common.data.levels import Levels
from common.errors import UserError, one_line
from common.files import as_utf8
from common.pixels import to_pil
from finetune.data import LabeledData, open_sources
from finetune.predictions import Predictions
from finetune.records import DataFacts
from finetune.results import Score
from retouch.reporting.runs import Origin

log = logging.getLogger("retouch")

SIDE, TILE = 96, 192  # maximum pixels per side of a test image, and of an image of a panel
PAIRS, EXAMPLES = 5, 8  # confused pairs of a task, and images of one pair


@dataclass(frozen=True)
class Picture:
    """A PNG inside the page."""

    uri: str
    width: int  # pixels
    height: int
    text: str  # alternative text

    @property
    def small(self) -> bool:
        """Whether it may be enlarged with crisp pixels."""
        return self.width < SIDE


def picture(image: Image.Image, text: str, most: int | None = None) -> Picture:
    """An image as it is, or scaled down to at most ``most`` pixels per side."""
    if most is not None and max(image.size) > most:
        image = ImageOps.contain(image, (most, most))
    written = io.BytesIO()
    image.save(written, format="PNG", optimize=True)
    return Picture(f"data:image/png;base64,{base64.b64encode(written.getvalue()).decode()}", *image.size, text)


def read_picture(path: Path) -> Image.Image | None:
    """A PNG that a run drew; ``None`` if it cannot be read."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError) as error:
        log.warning("%s cannot be read and is left out of the report: %s", path, one_line(error))
        return None


# ---- confused classes


@dataclass(frozen=True)
class Confused:
    """Images of one class that were mistaken for another."""

    true: str
    answer: str
    count: int
    of: int  # images of the true class


def most_confused(score: Score, classes: Sequence[str]) -> list[Confused]:
    """The pairs that a classifier confuses most often, as shares of the true class."""
    found = [
        Confused(true, answer, count, sum(counts))
        for true, counts in zip(classes, score.confusion, strict=True)
        for answer, count in zip(classes, counts, strict=True)
        if true != answer and count
    ]
    return sorted(found, key=lambda pair: (-pair.count / pair.of, -pair.count, pair.true, pair.answer))[:PAIRS]


def confused_rows(predictions: Predictions, answers: str, pair: Confused) -> list[int]:
    """Positions of some images of the pair in the predictions: the most confident, or the first if that is unknown."""
    true, answer = (predictions.classes.index(as_utf8(name)) for name in (pair.true, pair.answer))
    wrong = (predictions.labels == true) & (predictions.answers[answers] == answer)
    places = wrong.nonzero().flatten()
    if (sure := predictions.sure(answers)) is not None:
        places = places[sure[places].argsort(descending=True, stable=True)]
    return [int(place) for place in places[:EXAMPLES]]


# ---- test images


@dataclass(frozen=True)
class ImageSet:
    """A test set, opened in the same way as by the run."""

    source: Source
    size: int
    levels: Levels | None

    def show(self, row: int, path: str, text: str, most: int = SIDE) -> Picture | None:
        """One test image; ``None`` if it cannot be read, or has another path than in the run."""
        try:
            if as_utf8(self.source.where(row)) != path:
                return None
            pixels = torch.from_numpy(square(self.source.image(row), self.size, self.levels))
        except Exception:  # a source may raise anything
            return None
        return picture(to_pil(pixels), text, most=most)


@dataclass
class ImageSets:
    """Test sets by the settings that name them, each opened once."""

    opened: dict[tuple[str, int], ImageSet | str] = field(default_factory=dict)

    def of(self, origin: Origin, facts: DataFacts) -> ImageSet | str:
        """The test images of a result, or the reason why they cannot be shown."""
        for data in origin.labeled:
            key = data.model_dump_json(), origin.settings.seed
            if key not in self.opened:
                self.opened[key] = _open(data, origin.settings.seed)
            found = self.opened[key]
            if isinstance(found, str):
                return found
            if found.source.spec == facts.test:
                return replace(found, source=found.source.at(facts.image_size), size=facts.image_size)
        return "the run does not say where they are"


def _open(data: LabeledData, seed: int) -> ImageSet | str:
    named = f"{data.train}:{data.test or ''}"
    if REMOTE & set(named.split(":")):
        return "their source may have to be downloaded"
    try:
        sources = open_sources(data, seed)
        return ImageSet(sources.test, 0, sources.train.levels)
    except (UserError, OSError) as error:
        return one_line(error)
