"""The card of an encoder folder: what ``config.json`` says about the network and its weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from common.config import Config
from common.encoders import Encoder, EncoderConfig, View, build_encoder
from common.encoders.config import Args, Stem
from common.encoders.provenance import Provenance
from common.errors import UserError
from common.files import refuse_stream

CONFIG, WEIGHTS = "config.json", "model.safetensors"
RESIZE = "the shorter side to image_size (bicubic, antialiased), then the central square"
M = TypeVar("M", bound=BaseModel)
FORMAT = 1  # of the `retouch` block in config.json
READING = {
    "name",
    "image_size",
    "view",
    "stem",
    "model_args",
    "mean",
    "std",
    "class_names",
}  # determine how weights are read


class EncoderCard(Config):
    """What ``config.json`` says about an encoder, under ``retouch``.

    Attributes:
        image_size: side in pixels of the square images it learned from, in pretraining or in fine-tuning.
        view, channel_order, value_range, resize: how images are shown to it; ``mean`` and ``std`` follow.
        sha256: hex digest of the weights and of everything that determines how they are read (not the provenance).
        plain_timm: whether timm alone can open the folder.
        note: what timm alone cannot do with the folder, and what to do instead; empty if it can do all.
        class_names: classes of a classifier; empty for an encoder.
        temperature: of a classifier: what its logits are divided by for calibrated confidence; 1 if that is not known.
        tensors, parameters: counts in the weights file.
        provenance: of its training.
    """

    format: int = FORMAT
    name: str
    image_size: int
    view: View
    channel_order: Literal["RGB"] = "RGB"
    value_range: tuple[float, float] = (0.0, 1.0)
    resize: str = RESIZE
    stem: Stem
    model_args: Args
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    layer_shapes: tuple[tuple[int, int, int], ...]
    class_names: tuple[str, ...] = ()
    temperature: float = Field(default=1.0, gt=0)
    tensors: int
    parameters: int
    sha256: str
    plain_timm: bool
    note: str = ""
    provenance: Provenance = Field(default_factory=Provenance)  # a factory: only what is known counts as set

    @property
    def config(self) -> EncoderConfig:
        """The config that builds the network."""
        return EncoderConfig(name=self.name, model_args=self.model_args, stem=self.stem)


class TimmDescription(BaseModel):
    """timm's description of a model: ``pretrained_cfg``, or what older versions write in its place."""

    model_config = ConfigDict(frozen=True)  # timm writes more than is read here

    input_size: tuple[int, int, int] | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None


class PlainTimm(TimmDescription):
    """What ``config.json`` says of a network that timm alone has written."""

    architecture: str
    num_classes: int = 0
    label_names: tuple[str | int, ...] | None = None
    model_args: Args = Field(default_factory=dict)
    pretrained_cfg: TimmDescription = TimmDescription()

    @property
    def own_args(self) -> Args:
        """The arguments without those that Retouch sets itself."""
        return {key: value for key, value in self.model_args.items() if key not in ("in_chans", "num_classes")}

    @property
    def image_size(self) -> int:
        """Side in pixels of the square images that the network takes."""
        described = self.pretrained_cfg.input_size or self.input_size or (3, 224, 224)
        size = self.model_args.get("img_size", described)
        return int(size if isinstance(size, int) else size[-1])

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, or their numbers where the names are not those of all classes."""
        names = tuple(map(str, self.label_names or ()))
        return names if len(names) == self.num_classes else tuple(map(str, range(self.num_classes)))


def digest(card: EncoderCard, weights: Path) -> str:
    """sha256 (hex) of the weights file and of everything in ``card`` that determines how it is read."""
    facts = card.model_dump(mode="json", include=READING)
    refuse_stream(weights)
    total = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    with weights.open("rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()


def finite_or_as(tensor: Tensor, fresh: Tensor) -> bool:
    """Whether every number is finite, or what it is in a fresh network, such as an infinite limit."""
    return bool((tensor.isfinite() | (tensor == fresh)).all())


def rebuild(
    config: EncoderConfig,
    image_size: int,
    view: View,
    num_classes: int = 0,
    seed: int = 0,
    *,
    mask_channel: bool = False,
) -> Encoder:
    """The network with weights drawn from ``seed``; the state of the global generator does not change."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        bare = config.model_copy(update={"pretrained": False})  # weights come from a file, not from a download
        encoder = build_encoder(bare, image_size=image_size, view=view, mask_channel=mask_channel)
        if num_classes:
            encoder.add_classifier(num_classes)
    return encoder


def for_size(config: EncoderConfig, size: int) -> EncoderConfig:
    """The config of the same network for images of ``size`` pixels."""
    args = config.model_args
    return config.model_copy(update={"model_args": {**args, "img_size": size}}) if "img_size" in args else config


def resized(encoder: Encoder, size: int) -> Encoder:
    """The same network with the same weights, built for images of ``size`` pixels; in eval mode.

    Raises:
        UserError: the network cannot be built at this size, or its weights depend on the size.
    """
    if size == encoder.image_size:
        return encoder
    other = rebuild(for_size(encoder.config, size), size, encoder.view)
    try:
        other.load_state_dict(encoder.state_dict())
    except RuntimeError:
        raise other.refusal(f"its weights were learned at {encoder.image_size} px and fit no other size") from None
    other.mean.copy_(encoder.mean)
    other.std.copy_(encoder.std)
    return other.eval()


def read_card(folder: Path) -> EncoderCard | PlainTimm:
    """What ``config.json`` in ``folder`` says, whether Retouch or timm wrote it.

    Raises:
        UserError: it is damaged, is of another version, or does not describe an encoder.
    """
    config = read_json(folder)
    if isinstance(ours := config.get("retouch"), dict) and ours.get("format") != FORMAT:
        raise UserError(f"{folder} was written by another version of Retouch; update Retouch, or export it again")
    if "retouch" in config:
        return _valid(EncoderCard, ours, folder, "the retouch block is damaged")
    if "architecture" in config:
        return _valid(PlainTimm, config, folder, "timm's description is damaged")
    if {"model_type", "transformers_version"} & set(config):
        raise UserError(f"{folder} is a Hugging Face transformers model; use a Retouch or timm encoder folder")
    raise UserError(f"{folder}/{CONFIG} does not describe an encoder; use the folder that `retouch pretrain` wrote")


def _valid(kind: type[M], content: object, folder: Path, problem: str) -> M:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        keys = ", ".join(".".join(map(str, item["loc"])) for item in error.errors()[:3])
        where = f" ({keys})" if keys else ""
        raise UserError(f"{folder}/{CONFIG}: {problem}{where}; export it again") from None


def read_json(folder: Path) -> dict[str, object]:
    """``config.json`` of ``folder``; empty if it is missing or not a mapping."""
    refuse_stream(folder / CONFIG)
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise UserError(f"{folder}/{CONFIG} is damaged (not JSON); copy or export it again") from None
    return config if isinstance(config, dict) else {}
