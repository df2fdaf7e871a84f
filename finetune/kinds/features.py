"""Kinds of labels that describe an image as a whole: probes see one vector of features per image."""

from __future__ import annotations

import logging
import time
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from common.encoders.base import Encoder
from finetune.config import ProbeConfig
from finetune.data import Sources
from finetune.features import Extraction, Features
from finetune.kinds.base import A, LabelKind, Measured
from finetune.lines import subject_name
from finetune.probes import Candidates
from finetune.subjects import Spaces, Subject, features_of, pixels_of, spaces_of

log = logging.getLogger("retouch")


class MeasuredImages(Measured):
    """One subject on one task of whole images."""

    @property
    @abstractmethod
    def score(self) -> str:
        """The score of its linear probe, for the log."""


M = TypeVar("M", bound=MeasuredImages)


@dataclass(frozen=True)
class ImageLabels(LabelKind[Sources, M, A]):
    """A data set with labels of whole images."""

    @classmethod
    def choices(cls, config: ProbeConfig, image_size: int | None, encoder: Encoder) -> Spaces:
        return spaces_of(config, image_size, encoder)

    def pixels(self) -> Subject:
        return pixels_of(self.config, self.pair.train)

    def measure(self, subject: Subject, how: Extraction) -> dict[str, M]:
        """Extract features once; then, for every task, choose on training images, fit on all of them, and test once."""
        config, pair, started = self.config, self.pair, time.monotonic()
        train = features_of(config, subject, pair.train, "train", self.data.limit, how)
        test = features_of(config, subject, pair.test, "test", self.data.test_limit, how)
        extracted = time.monotonic()
        candidates = Candidates(train, subject.spaces, how.device, config.probe.finalists)
        found = dict(self.measured(subject, candidates, test))
        scores = ", ".join(f"{task} {one.score}" for task, one in found.items())
        log.info("%s: %s", subject_name(subject.name, "encoder"), scores)
        log.debug(
            "%s: features of %s images in %.1f s, probed in %.1f s",
            *(subject.name, f"{len(train) + len(test):,}", extracted - started, time.monotonic() - extracted),
        )
        return found

    @abstractmethod
    def measured(self, subject: Subject, candidates: Candidates, test: Features) -> Mapping[str, M]:
        """By task: choose among features of the training images, fit on all of them, and test once."""
