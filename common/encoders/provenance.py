"""Where an encoder comes from: what its writer records of the training, for people, warnings and W&B."""

from __future__ import annotations

import logging
from typing import Any

from pydantic import ConfigDict, JsonValue, SerializerFunctionWrapHandler, model_serializer

from common.config import Config
from common.data.levels import Levels
from common.data.part import Part

log = logging.getLogger("retouch")

FOUND_BY = {"kmeans": "kmeans", "random": "random_patches"}  # atoms of a dictionary; any other way has its own name


class Provenance(Config):
    """What is known about the training of an encoder; a field that is not set is not known.

    Fields that another version of Retouch recorded are kept.

    Attributes:
        stage: that exported it; None is pretraining.
        pretext: settings of the method, with its ``kind``.
        base_lr: learning rate per 256 images.
        source: the images it learned from, as the user named them.
        part: of the source that it learned from, where a test set was held out of it; None is all.
        levels: black and white of images of more than 8 bits; None for others.
        steps, batch_size, seed, seconds: of the training.
        task: that it was fine-tuned for.
        started_from: the encoder that training began with, or ``scratch``.
        started_sha256: of that encoder.
        before: the trainings that it came from, the first one first; none of them has trainings before it.
        group, artifact: in W&B.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, JsonValue]

    stage: str | None = None
    pretext: JsonValue = None
    base_lr: float | None = None
    source: str | None = None
    part: Part | None = None
    levels: Levels | None = None
    steps: int | None = None
    batch_size: int | None = None
    seed: int | None = None
    seconds: float | None = None
    task: str | None = None
    started_from: str | None = None
    started_sha256: str | None = None
    before: tuple[Provenance, ...] = ()
    group: str | None = None
    artifact: str | None = None

    @property
    def kind(self) -> str | None:
        """The kind of the method, such as ``denoise`` or ``pca``."""
        found = self.pretext.get("kind") if isinstance(self.pretext, dict) else self.pretext
        return None if found is None else str(found)

    @property
    def method(self) -> str | None:
        """What its method is called; a dictionary of patches by how its atoms were found, as in a study."""
        learned = self.pretext.get("learn") if isinstance(self.pretext, dict) else None
        if self.kind != "patch_dictionary" or not isinstance(learned, str):
            return self.kind
        return FOUND_BY.get(learned, f"{learned} of patches")

    @property
    def knows_levels(self) -> bool:
        """Whether the writer recorded the levels: ``None`` may be one of them."""
        return "levels" in self.model_fields_set

    @property
    def chain(self) -> tuple[Provenance, ...]:
        """All trainings of the network, this one last."""
        return (*self.before, self)

    @property
    def text(self) -> str:
        """This training in words, such as ``denoise (2,000 steps on my/pictures)``."""
        what = f"fine-tuning for {self.task}" if self.stage == "finetune" else self.kind or "unrecorded training"
        length = "" if self.steps is None else f"{self.steps:,} steps"
        part = "" if self.part is None else f" ({self.part.text})"
        where = "" if self.source is None else f"on {self.source}{part}"
        how = " ".join(filter(None, (length, where)))
        return f"{what} ({how})" if how else what

    @property
    def story(self) -> str:
        """All trainings in words: ``denoise (2,000 steps on A), then colorize (1,500 steps on B)``."""
        return ", then ".join(one.text for one in self.chain)

    @property
    def knew_labels(self) -> bool:
        """Whether labels may have been seen before this training: by fine-tuning, or by one that is not recorded."""
        return any(one.kind is None for one in self.before)

    def starting(self, path: str, sha256: str, earlier: Provenance) -> Provenance:
        """This training where it began with the encoder in ``path``, which has the provenance ``earlier``."""
        alone = {key: value for key, value in earlier.model_dump().items() if key != "before"}
        before = (*earlier.before, Provenance.model_validate(alone))
        return self.model_copy(update={"started_from": path, "started_sha256": sha256, "before": before})

    def starting_pretrained(self, name: str) -> Provenance:
        """This training where it began with the weights that timm has for a network: what they learned is not known."""
        return self.model_copy(update={"started_from": name, "before": (Provenance(),)})

    @model_serializer(mode="wrap")
    def _known(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in dump(self).items() if key in self.model_fields_set}


UNKNOWN = Provenance()  # of a network that nobody trained, or whose writer recorded nothing


def warn_of_levels(trained_on: Provenance | None, levels: Levels | None, spec: str) -> None:
    """Warn if a network with this provenance learned from images whose values were scaled in another way.

    Args:
        levels: of the images that it is shown.
        spec: the user's name for them.
    """
    if trained_on is None or not trained_on.knows_levels:
        return
    then = trained_on.levels
    if then != levels:
        then_text, now = (f"values {one}" if one else "images of 8 bits" for one in (then, levels))
        setting = f"set data.levels=[{then.black:g}, {then.white:g}], " if then and levels else ""
        log.warning(
            "the encoder was trained on %s, but %s has %s: the same value is a different gray; %sconvert the images to "
            "one range, or pretrain on such images",
            *(then_text, spec, now, setting),
        )
