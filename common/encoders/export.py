"""Write an encoder folder: what pretraining exports, and all that the transfer stages read of it.

``config.json`` describes the network, how images are shown to it, and its provenance; ``model.safetensors`` holds its
tensors, and ``README.md`` tells people about it. The folder of a timm model opens in timm itself:
``timm.create_model("local-dir:FOLDER", pretrained=True)``. What timm alone cannot do with a folder is its ``note``.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from common.encoders import Classifier, Encoder
from common.encoders.base import LUMA
from common.encoders.card import CONFIG, WEIGHTS, EncoderCard, digest, finite_or_as, read_json, rebuild
from common.encoders.provenance import UNKNOWN, Provenance
from common.encoders.readme import MARK, README, About, readme
from common.encoders.small_stem import ENLARGED, TIMM_ARGS, in_timms_terms
from common.encoders.timm_encoder import TimmEncoder
from common.errors import UserError
from common.files import is_marked, new_folder, write_json, write_text

log = logging.getLogger("retouch")

SOURCE_KEYS = ("url", "file", "source", "state_dict", "hf_hub_id", "hf_hub_filename", "custom_load", "label_offset")
TEST_KEYS = ("pool_size", "test_input_size", "test_pool_size", "test_crop_pct", "min_input_size")


def export_encoder(
    encoder: Encoder, folder: str | Path, provenance: Provenance = UNKNOWN, about: About | None = None
) -> str:
    """Write ``encoder`` to ``folder`` atomically, and return its sha256.

    The mask channel, which is zero for whole images, and the classifier are left out.

    Args:
        about: what the model card in the folder says. The sha256 does not depend on it.

    Raises:
        UserError: ``folder`` contains something else, or a tensor is not finite.
    """
    return _export(encoder, Path(folder), provenance, class_names=(), about=about)


def export_classifier(
    classifier: Classifier, folder: str | Path, provenance: Provenance = UNKNOWN, temperature: float = 1.0
) -> str:
    """Write encoder and classifier to ``folder`` atomically, and return their sha256.

    Args:
        temperature: what its logits are divided by for calibrated confidence. The sha256 does not depend on it.

    Raises:
        UserError: ``folder`` contains something else, or a tensor is not finite.
    """
    return _export(classifier.encoder, Path(folder), provenance, classifier.class_names, temperature=temperature)


def _export(
    encoder: Encoder,
    folder: Path,
    provenance: Provenance,
    class_names: tuple[str, ...],
    about: About | None = None,
    temperature: float = 1.0,
) -> str:
    refuse_foreign(folder)
    try:
        copy = clean_copy(encoder, len(class_names))
    except UserError as error:
        raise UserError(f"{folder} was not written: {error}") from None
    if isinstance(copy, TimmEncoder) and (note := _note(copy)):
        log.info("%s: %s", folder, note)
    with new_folder(folder) as writing:
        card = write_files(copy, writing, provenance, class_names, temperature)
        if about is not None:
            write_text(writing / README, readme(card, about))
    return card.sha256


def write_files(
    copy: Encoder,
    folder: Path,
    provenance: Provenance,
    class_names: tuple[str, ...] = (),
    temperature: float = 1.0,
) -> EncoderCard:
    """Write the two files of an encoder folder into a new one, and return the card that is in them.

    Args:
        copy: of ``clean_copy``; with a classifier, if there are class names.
    """
    plain, note = isinstance(copy, TimmEncoder) and copy.plain, _note(copy)
    tensors = copy.body.state_dict()
    if plain and copy.config.stem == "small":
        tensors = in_timms_terms(tensors)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
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
        temperature=temperature,
        tensors=len(tensors),
        parameters=sum(parameter.numel() for parameter in copy.body.parameters()),
        sha256="",
        plain_timm=plain,
        note=note,
        provenance=provenance,
    )
    card = card.model_copy(update={"sha256": digest(card, folder / WEIGHTS)})
    # otherwise timm knows no such model, and its error quotes the name
    known = _timm_config(copy, class_names) if isinstance(copy, TimmEncoder) and plain else {"architecture": note}
    write_json(folder / CONFIG, {**known, "retouch": card.model_dump(mode="json")})
    return card


def _note(encoder: Encoder) -> str:
    """What timm alone cannot do with the folder of this encoder, and what to do instead; empty if it can do all."""
    if not isinstance(encoder, TimmEncoder):
        return f"{encoder.name} is not a timm model, so plain timm cannot open this folder; Retouch can"
    if not encoder.plain:
        return "the stem was replaced for small images, so plain timm cannot open this folder; Retouch can"
    notes = []
    if encoder.config.stem == "small":
        size = encoder.image_size
        notes.append(
            "the stem was replaced for small images; Retouch takes them as they are, but for plain timm, scale them "
            f"to {size} px and then repeat every pixel {ENLARGED}x{ENLARGED} times (to {ENLARGED * size} px, nearest)"
        )
    if encoder.view == "gray":
        luma = " + ".join(f"{weight} {channel}" for weight, channel in zip(LUMA, "RGB", strict=True))
        notes.append(
            "this encoder learned from gray images; Retouch converts images itself, but for plain timm, set all three "
            f"channels to {luma} before standardizing"
        )
    return "; ".join(notes)


def _three(constants: Tensor) -> tuple[float, float, float]:
    """The shortest decimals that round to these float32 values: 0.485, not 0.48500001430511475."""
    red, green, blue = (float(str(value)) for value in constants.flatten().numpy())
    return red, green, blue


def refuse_foreign(folder: Path) -> None:
    """Refuse to replace a folder that holds more than an encoder of ours.

    Raises:
        UserError: names what it holds.
    """
    if folder.is_dir() and (found := sorted(path.name for path in folder.iterdir())):
        ours = set(found) <= {CONFIG, WEIGHTS, README} and "retouch" in read_json(folder)
        ours = ours and (README not in found or is_marked(folder / README, MARK))
        if not ours:
            raise UserError(f"{folder} contains other files ({', '.join(found[:3])}); export to a new folder")
    elif folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; export to a new folder")


def clean_copy(encoder: Encoder, num_classes: int = 0) -> Encoder:
    """What loading will build: the same network for whole RGB images, with the same tensors, on the CPU, in eval mode.

    Raises:
        UserError: a tensor is not finite.
    """
    copy = rebuild(encoder.config, encoder.image_size, encoder.view, num_classes)
    own, tensors = encoder.state_dict(), {}
    for name, wanted in copy.state_dict().items():
        tensor = own[name].detach().cpu()
        if encoder.mask_channel and tensor.shape != wanted.shape:
            tensor = tensor[:, :3]  # the stem's weights, without the mask
        if not finite_or_as(tensor, wanted):
            raise UserError(f"{name} is not finite, so training diverged; lower base_lr")
        tensors[name] = tensor.clone()
    copy.load_state_dict(tensors)
    copy.mean.copy_(encoder.mean)  # a timm folder may have other constants than the architecture's own
    copy.std.copy_(encoder.std)
    return copy.eval()


def _timm_config(encoder: TimmEncoder, class_names: Sequence[str]) -> dict[str, Any]:
    """timm's own description of the model; timm ignores the ``retouch`` block."""
    model: Any = encoder.model
    pretrained_cfg = {
        key: value
        for key, value in dict(model.pretrained_cfg).items()
        if value is not None and key not in (*SOURCE_KEYS, *TEST_KEYS, "architecture")
    }
    small = encoder.config.stem == "small"
    size = encoder.image_size * (ENLARGED if small else 1)
    pretrained_cfg |= {
        "num_classes": len(class_names),
        "input_size": [3, size, size],
        "crop_pct": 1.0,
        "crop_mode": "center",
        "interpolation": "nearest" if small else "bicubic",
        "mean": _three(encoder.mean),
        "std": _three(encoder.std),
    }
    config = {
        "architecture": model.pretrained_cfg["architecture"],
        "num_classes": len(class_names),
        "num_features": model.num_features,
        "model_args": encoder.config.model_args | (TIMM_ARGS if small else {}),
        "pretrained_cfg": pretrained_cfg,
    }
    return config | ({"label_names": list(class_names)} if class_names else {})
