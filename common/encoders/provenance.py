"""Where an encoder comes from: what its writer records of the training, for people, warnings and W&B."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, JsonValue, SerializerFunctionWrapHandler, model_serializer

from common.config import Config
from common.data.levels import Levels


class Provenance(Config):
    """What is known of the training of an encoder; what is not set is not known.

    What another version of Retouch recorded besides is kept.

    Attributes:
        stage: that exported it; None is pretraining.
        pretext: settings of the method, with its ``kind``.
        base_lr: learning rate per 256 images.
        source: the images it learned from, as the user named them.
        levels: black and white of images of more than 8 bits; None of others.
        steps, batch_size, seed, seconds: of the training.
        task: that it was fine-tuned for.
        started_from: the encoder that training began with, or ``scratch``.
        group, artifact: in W&B.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, JsonValue]

    stage: str | None = None
    pretext: JsonValue = None
    base_lr: float | None = None
    source: str | None = None
    levels: Levels | None = None
    steps: int | None = None
    batch_size: int | None = None
    seed: int | None = None
    seconds: float | None = None
    task: str | None = None
    started_from: str | None = None
    group: str | None = None
    artifact: str | None = None

    @property
    def kind(self) -> str | None:
        """Of the method, such as ``denoise`` or ``pca``."""
        found = self.pretext.get("kind") if isinstance(self.pretext, dict) else self.pretext
        return None if found is None else str(found)

    @property
    def knows_levels(self) -> bool:
        """Whether the writer recorded the levels: ``None`` may be one of them."""
        return "levels" in self.model_fields_set

    @model_serializer(mode="wrap")
    def _known(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in dump(self).items() if key in self.model_fields_set}


UNKNOWN = Provenance()  # of a network that nobody trained, or whose writer recorded nothing
