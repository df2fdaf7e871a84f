"""The card of an encoder folder: what ``config.json`` says, and why a folder is not one."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError

from common.config import Config
from common.encoders import Encoder, EncoderConfig, View, build_encoder
from common.encoders.config import Stem
from common.errors import UserError

CONFIG, WEIGHTS = "config.json", "model.safetensors"
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
        sha256: hex digest of the weights and of everything that determines how they are read (not the provenance).
        plain_timm: whether timm alone can open the folder; if not, ``note`` says why.
        class_names: classes of a classifier; empty for an encoder.
        tensors, parameters: counts in the weights file.
        provenance: recorded by the writer: run, config, step, data, versions.
    """

    format: int = FORMAT
    name: str
    image_size: int
    view: View
    stem: Stem
    model_args: dict[str, Any]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    layer_shapes: tuple[tuple[int, int, int], ...]
    class_names: tuple[str, ...] = ()
    tensors: int
    parameters: int
    sha256: str
    plain_timm: bool
    note: str = ""
    provenance: dict[str, Any] = Field(default_factory=dict)

    @property
    def config(self) -> EncoderConfig:
        """The config that builds the network."""
        return EncoderConfig(name=self.name, model_args=self.model_args, stem=self.stem)


def read_encoder_card(folder: str | Path) -> EncoderCard:
    """The card in ``config.json``, without reading tensors.

    A plain timm folder counts as an encoder of RGB images at its own input size.

    Raises:
        UserError: there is no such folder, or it is not an encoder; says what it looks like and what to use instead.
    """
    folder = Path(folder)
    _refuse_unlikely(folder)
    config = read_json(folder)
    if "retouch" in config:
        if config["retouch"].get("format") != FORMAT:
            raise UserError(f"{folder} was written by another version of Retouch; update Retouch, or export it again")
        try:
            return EncoderCard.model_validate(config["retouch"])
        except ValidationError as error:
            keys = ", ".join(".".join(map(str, item["loc"])) for item in error.errors()[:3])
            raise UserError(f"{folder}/{CONFIG}: the retouch block is damaged ({keys}); export it again") from None
    if "architecture" in config:
        return _card_of_plain_timm(folder, config)
    if {"model_type", "transformers_version"} & set(config):
        raise UserError(f"{folder} is a Hugging Face transformers model; use a Retouch or timm encoder folder")
    raise UserError(f"{folder}/{CONFIG} does not describe an encoder; use the folder that `retouch pretrain` wrote")


def encoder_sha256(folder: str | Path) -> str:
    """sha256 (hex) of the weights and how they are read, computed from the files in ``folder``."""
    card = read_encoder_card(folder)
    return digest(card, Path(folder) / WEIGHTS)


def _refuse_unlikely(folder: Path) -> None:
    if not folder.exists():
        raise UserError(f"{folder}: no such folder; use the encoder/ folder of a finished run")
    if not folder.is_dir():
        raise UserError(f"{folder} is a file; use the folder that contains {CONFIG} and {WEIGHTS}")
    if (folder / CONFIG).is_file():
        if (folder / WEIGHTS).is_file():
            closed = [name for name in (CONFIG, WEIGHTS) if not os.access(folder / name, os.R_OK)]
            if closed:
                raise UserError(f"{folder}: no permission to read {' and '.join(closed)}; change their permissions")
            return
        raise UserError(f"{folder} has no {WEIGHTS}: the copy is incomplete, or its weights have another format")
    run = next(
        (path for path in (folder, *folder.absolute().parents[:2]) if (path / "encoder" / CONFIG).is_file()), None
    )
    if run is not None:
        what = "a run folder" if run == folder else "inside a run, but not its encoder"
        raise UserError(f"{folder} is {what}; use {run / 'encoder'}")
    if folder.name.startswith("step-") or any(folder.glob("step-*")):
        raise UserError(
            f"{folder} is a training checkpoint; finish the run (resume=true), then use its encoder/ folder"
        )
    raise UserError(f"{folder} is not an encoder: it has no {CONFIG}; use the encoder/ folder of a finished run")


def read_json(folder: Path) -> dict[str, Any]:
    """``config.json`` of ``folder``; empty if it is missing or not a mapping."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise UserError(f"{folder}/{CONFIG} is damaged (not JSON); copy or export it again") from None
    return config if isinstance(config, dict) else {}


def _card_of_plain_timm(folder: Path, config: Mapping[str, Any]) -> EncoderCard:
    described = {**config, **config.get("pretrained_cfg", {})}
    args = {k: v for k, v in config.get("model_args", {}).items() if k not in ("in_chans", "num_classes")}
    classes = config.get("num_classes", 0)
    names = config.get("label_names") or [str(i) for i in range(classes)]
    encoder_config = EncoderConfig(name=f"timm/{config['architecture']}", model_args=args, stem="default")
    size = args.get("img_size", described.get("input_size", (3, 224, 224)))
    image_size = int(size if isinstance(size, int) else size[-1])
    encoder = rebuild(encoder_config, image_size, "rgb")
    card = EncoderCard(
        name=encoder_config.name,
        image_size=image_size,
        view="rgb",
        stem="default",
        model_args=args,
        mean=described.get("mean", tuple(encoder.mean.flatten().tolist())),
        std=described.get("std", tuple(encoder.std.flatten().tolist())),
        layer_shapes=tuple(encoder.layer_shapes),
        class_names=tuple(map(str, names)) if len(names) == classes else tuple(map(str, range(classes))),
        tensors=len(encoder.body.state_dict()),
        parameters=sum(parameter.numel() for parameter in encoder.parameters()),
        sha256="",
        plain_timm=True,
        note="written by timm, not by Retouch",
    )
    return card.model_copy(update={"sha256": digest(card, folder / WEIGHTS)})


def digest(card: EncoderCard, weights: Path) -> str:
    """sha256 (hex) of the weights file and of everything in ``card`` that determines how it is read."""
    facts = card.model_dump(mode="json", include=READING)
    total = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    with weights.open("rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()


def rebuild(config: EncoderConfig, image_size: int, view: View, num_classes: int = 0, seed: int = 0) -> Encoder:
    """The network with weights drawn from ``seed``; the state of the global generator does not change."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        bare = config.model_copy(update={"pretrained": False})  # weights come from a file, not from a download
        encoder = build_encoder(bare, image_size=image_size, view=view)
        if num_classes:
            encoder.add_classifier(num_classes)
    return encoder
