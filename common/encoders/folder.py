"""The encoder folder: what pretraining exports, and all that the transfer stages read of it.

``config.json`` describes the network and its provenance, ``model.safetensors`` holds its tensors. The folder of an
unmodified timm model opens in timm itself: ``timm.create_model("local-dir:FOLDER", pretrained=True)``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from common.encoders import Classifier, Encoder
from common.encoders.card import (
    CONFIG,
    WEIGHTS,
    EncoderCard,
    digest,
    encoder_sha256,
    read_encoder_card,
    read_json,
    rebuild,
)
from common.encoders.timm_encoder import TimmEncoder
from common.errors import UserError, one_line
from common.files import new_folder, write_json

__all__ = [
    "EncoderCard",
    "encoder_sha256",
    "export_classifier",
    "export_encoder",
    "load_classifier",
    "load_encoder",
    "random_twin",
    "read_encoder_card",
]

log = logging.getLogger("retouch")

SOURCE_KEYS = ("url", "file", "source", "state_dict", "hf_hub_id", "hf_hub_filename", "custom_load", "label_offset")
TEST_KEYS = ("pool_size", "test_input_size", "test_pool_size", "test_crop_pct", "min_input_size")


# ---- writing


def export_encoder(encoder: Encoder, folder: str | Path, provenance: Mapping[str, Any]) -> str:
    """Write ``encoder`` to ``folder`` atomically, and return its sha256.

    Without its mask channel, which is zero for whole images, and without its classifier.

    Raises:
        UserError: ``folder`` contains something else, or a tensor is not finite.
    """
    return _export(encoder, Path(folder), provenance, class_names=())


def export_classifier(classifier: Classifier, folder: str | Path, provenance: Mapping[str, Any]) -> str:
    """Write encoder and classifier to ``folder`` atomically, and return their sha256.

    Raises:
        UserError: ``folder`` contains something else, or a tensor is not finite.
    """
    return _export(classifier.encoder, Path(folder), provenance, classifier.class_names)


def _export(encoder: Encoder, folder: Path, provenance: Mapping[str, Any], class_names: tuple[str, ...]) -> str:
    _refuse_foreign(folder)
    copy = _clean_copy(encoder, len(class_names), folder)
    tensors = {name: tensor.contiguous() for name, tensor in copy.body.state_dict().items()}
    plain, note = isinstance(copy, TimmEncoder) and copy.plain, ""
    if isinstance(copy, TimmEncoder) and not plain:
        note = "the stem was replaced for small images, so plain timm cannot open this folder; Retouch can"
        log.info("%s: %s", folder, note)

    with new_folder(folder) as writing:
        save_file(tensors, writing / WEIGHTS, metadata={"format": "pt"})
        card = EncoderCard(
            name=copy.name,
            image_size=copy.image_size,
            view=copy.view,
            stem=copy.config.stem,
            model_args=copy.config.model_args,
            mean=_three(copy.mean),
            std=_three(copy.std),
            layer_shapes=tuple(copy.layer_shapes),
            class_names=class_names,
            tensors=len(tensors),
            parameters=sum(parameter.numel() for parameter in copy.body.parameters()),
            sha256="",
            plain_timm=plain,
            note=note,
            provenance=json.loads(json.dumps(dict(provenance), default=str), parse_constant=str),
        )
        card = card.model_copy(update={"sha256": digest(card, writing / WEIGHTS)})
        config = _timm_config(copy, class_names) if isinstance(copy, TimmEncoder) and plain else {}
        config["retouch"] = card.model_dump(mode="json")
        write_json(writing / CONFIG, config)
    return card.sha256


def _three(constants: Tensor) -> tuple[float, float, float]:
    """The shortest decimals that round to these float32 values: 0.485, not 0.48500001430511475."""
    red, green, blue = (float(str(value)) for value in constants.flatten().numpy())
    return red, green, blue


def _refuse_foreign(folder: Path) -> None:
    if folder.is_dir() and (found := sorted(path.name for path in folder.iterdir())):
        ours = set(found) <= {CONFIG, WEIGHTS} and "retouch" in read_json(folder)
        if not ours:
            raise UserError(f"{folder} contains other files ({', '.join(found[:3])}); export to a new folder")
    elif folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; export to a new folder")


def _clean_copy(encoder: Encoder, num_classes: int, folder: Path) -> Encoder:
    """What loading will build: the same network for whole RGB images, with the same tensors, on the CPU."""
    copy = rebuild(encoder.config, encoder.image_size, encoder.view, num_classes)
    own, tensors = encoder.state_dict(), {}
    for name, wanted in copy.state_dict().items():
        tensor = own[name].detach().cpu()
        if encoder.mask_channel and tensor.shape != wanted.shape:
            tensor = tensor[:, :3]  # the stem's weights, without the mask
        if not tensor.isfinite().all():
            raise UserError(f"{folder} was not written: {name} is not finite, so training diverged; lower base_lr")
        tensors[name] = tensor.clone()
    copy.load_state_dict(tensors)
    return copy.eval()


def _timm_config(encoder: TimmEncoder, class_names: Sequence[str]) -> dict[str, Any]:
    """timm's own description of the model; timm ignores the ``retouch`` block."""
    model: Any = encoder.model
    pretrained_cfg = {
        key: value
        for key, value in dict(model.pretrained_cfg).items()
        if value is not None and key not in (*SOURCE_KEYS, *TEST_KEYS, "architecture")
    }
    size = encoder.image_size
    pretrained_cfg |= {"num_classes": len(class_names), "input_size": [3, size, size], "crop_pct": 1.0}
    config = {
        "architecture": model.pretrained_cfg["architecture"],
        "num_classes": len(class_names),
        "num_features": model.num_features,
        "model_args": encoder.config.model_args,
        "pretrained_cfg": pretrained_cfg,
    }
    return config | ({"label_names": list(class_names)} if class_names else {})


# ---- reading


def load_encoder(folder: str | Path) -> Encoder:
    """The encoder in ``folder``, frozen and in eval mode, every tensor checked. Of a classifier, its encoder.

    Raises:
        UserError: the folder is missing, not an encoder, damaged or modified; says what is wrong and what to do.
    """
    folder = Path(folder)
    card = read_encoder_card(folder)
    encoder = rebuild(card.config, card.image_size, card.view, len(card.class_names))
    _load_tensors(encoder, card, folder)
    if card.class_names:
        encoder.remove_classifier()
    return encoder.freeze()


def load_classifier(folder: str | Path) -> Classifier:
    """The classifier in ``folder``, frozen and in eval mode, every tensor checked.

    Raises:
        UserError: as ``load_encoder``, or the folder contains an encoder without a classifier.
    """
    folder = Path(folder)
    card = read_encoder_card(folder)
    if not card.class_names:
        raise UserError(f"{folder} contains an encoder without a classifier; use the folder that fine-tuning wrote")
    encoder = rebuild(card.config, card.image_size, card.view, len(card.class_names))
    _load_tensors(encoder, card, folder)
    classifier = Classifier(encoder, card.class_names)
    encoder.freeze()
    return classifier.eval()


def random_twin(folder: str | Path, seed: int) -> Encoder:
    """The same architecture and view with random weights drawn from ``seed``, in eval mode.

    Not frozen, because BatchNorm statistics for the random weights must still be estimated; call ``freeze()`` then.
    """
    card = read_encoder_card(folder)
    return rebuild(card.config, card.image_size, card.view, seed=seed).eval()


def _load_tensors(encoder: Encoder, card: EncoderCard, folder: Path) -> None:
    """Copy the tensors of ``folder`` into ``encoder``; each must be present, match, and be unmodified."""
    expected = encoder.body.state_dict()
    problems, tensors = [], {}
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            names = set(file.keys())
            problems += [f"{name} is missing" for name in expected if name not in names]
            problems += [f"{name} does not belong to this network" for name in sorted(names - set(expected))]
            for name in names & set(expected):
                tensor, wanted = file.get_tensor(name), expected[name]
                problem = _misfit(tensor, wanted)
                problems += [f"{name} {problem}"] if problem else []
                tensors[name] = tensor
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{folder}/{WEIGHTS} cannot be read ({one_line(error)}): it is truncated or not safetensors; "
            "copy or export it again"
        ) from None
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise UserError(f"{folder}: {'; '.join(problems[:3])}{more}; export the encoder again, or use the right folder")
    if digest(card, folder / WEIGHTS) != card.sha256:
        raise UserError(f"{folder}: the files have been modified (sha256 differs); copy or export them again")
    encoder.body.load_state_dict(tensors)
    encoder.mean.copy_(torch.tensor(card.mean).view(1, 3, 1, 1))
    encoder.std.copy_(torch.tensor(card.std).view(1, 3, 1, 1))
    log.info(
        "loaded %s from %s: %d tensors, %s parameters, %s at %d px, sha256 %s",
        *(card.name, folder, len(tensors), f"{card.parameters:,}", card.view, card.image_size, card.sha256[:12]),
    )


def _misfit(tensor: Tensor, wanted: Tensor) -> str:
    if tensor.shape != wanted.shape:
        return f"has shape {list(tensor.shape)}, not {list(wanted.shape)}"
    if tensor.dtype != wanted.dtype:
        return f"is {str(tensor.dtype).removeprefix('torch.')}, not {str(wanted.dtype).removeprefix('torch.')}"
    return "" if tensor.isfinite().all() else "is not finite"
