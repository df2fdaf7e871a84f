"""Read an encoder folder back: every tensor checked, and a plain reason where a folder is not an encoder's."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch
from torch import Tensor

from common.encoders import Classifier, Encoder, EncoderConfig
from common.encoders.build import OWN
from common.encoders.card import CONFIG, WEIGHTS, EncoderCard, PlainTimm, digest, read_card, rebuild
from common.encoders.hub import INNER, local_folder
from common.encoders.tensors import misfits, read_tensors
from common.errors import UserError
from common.files import command, is_group, run_stage

log = logging.getLogger("retouch")

ENCODER = INNER  # the folder of an encoder in the folder of its run


def load_encoder(folder: str | Path) -> Encoder:
    """The encoder in ``folder``, frozen and in eval mode, every tensor checked. Of a classifier, its encoder.

    Args:
        folder: an encoder's folder, that of the run that exported it, or ``hf:USER/NAME[@REVISION]``.

    Raises:
        UserError: the folder is missing, not an encoder, damaged or modified; says what is wrong and what to do.
    """
    folder = encoder_folder(folder)
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
    folder = encoder_folder(folder)
    card = read_encoder_card(folder)
    if not card.class_names:
        raise UserError(f"{folder} contains an encoder without a classifier; use the folder that fine-tuning wrote")
    encoder = rebuild(card.config, card.image_size, card.view, len(card.class_names))
    _load_tensors(encoder, card, folder)
    classifier = Classifier(encoder, card.class_names)
    encoder.freeze()
    return classifier.eval()


def random_twin(folder: str | Path, seed: int) -> Encoder:
    """The same architecture, view and standardization with random weights drawn from ``seed``, in eval mode.

    Not frozen, and without the statistics of the data: see ``common.encoders.statistics.share_statistics``.
    """
    card = read_encoder_card(folder)
    twin = rebuild(card.config, card.image_size, card.view, seed=seed).eval()
    _standardize_as(twin, card)
    return twin


def _load_tensors(encoder: Encoder, card: EncoderCard, folder: Path) -> None:
    """Copy the tensors of ``folder`` into ``encoder``; each must be present, match, and be unmodified."""
    expected = encoder.body.state_dict()
    tensors = read_tensors(folder / WEIGHTS)
    if card.plain_timm and card.stem == "small":
        from common.encoders.small_stem import in_our_terms  # imports timm

        tensors = in_our_terms(tensors)
    if problem := misfits(tensors, expected):
        raise UserError(f"{folder}: {problem}; export the encoder again, or use the right folder")
    if digest(card, folder / WEIGHTS) != card.sha256:
        raise UserError(f"{folder}: the files have been modified (sha256 differs); copy or export them again")
    encoder.body.load_state_dict(tensors)
    _standardize_as(encoder, card)
    log.debug(
        "loaded %s from %s: %d tensors, %s parameters, %s at %d px, sha256 %s",
        *(card.name, folder, len(tensors), f"{card.parameters:,}", card.view, card.image_size, card.sha256[:12]),
    )


def _standardize_as(encoder: Encoder, card: EncoderCard) -> None:
    """A plain timm folder may have other constants than the architecture's own."""
    encoder.mean.copy_(torch.tensor(card.mean).view(1, 3, 1, 1))
    encoder.std.copy_(torch.tensor(card.std).view(1, 3, 1, 1))


# ---- the folder, and the card in it


def encoder_folder(path: str | Path) -> Path:
    """The folder of an encoder, where a run folder, or ``hf:USER/NAME`` of the Hub, may be named in its place.

    A folder need not be there.

    Raises:
        UserError: the Hub has no such encoder, or cannot be reached.
    """
    folder = local_folder(path)
    return folder / ENCODER if not (folder / CONFIG).is_file() and (folder / ENCODER / CONFIG).is_file() else folder


def read_encoder_card(folder: str | Path) -> EncoderCard:
    """The card in ``config.json`` of an encoder, or of the run that exported it, without reading tensors.

    A plain timm folder counts as an encoder of RGB images at its own input size.

    Raises:
        UserError: there is no such folder, or it is not an encoder; says what it looks like and what to use instead.
    """
    folder = encoder_folder(folder)
    _refuse_unlikely(folder)
    card = read_card(folder)
    return card if isinstance(card, EncoderCard) else _card_of_plain_timm(folder, card)


def encoder_sha256(folder: str | Path) -> str:
    """sha256 (hex) of the weights and how they are read, computed from the files in ``folder``."""
    card = read_encoder_card(folder)
    return digest(card, encoder_folder(folder) / WEIGHTS)


def _refuse_unlikely(folder: Path) -> None:
    if not folder.exists():
        hint = ""
        if folder.parts[:1] == ("timm",) or str(folder) in OWN:
            hint = f"; a network that pretraining or fine-tuning builds by its name is encoder.name={folder.as_posix()}"
        raise UserError(f"{folder}: no such folder; use the folder of a finished run{hint}")
    if not folder.is_dir():
        raise UserError(f"{folder} is a file; use the folder that contains {CONFIG} and {WEIGHTS}")
    if (folder / CONFIG).is_file():
        if (folder / WEIGHTS).is_file():
            closed = [name for name in (CONFIG, WEIGHTS) if not os.access(folder / name, os.R_OK)]
            if closed:
                raise UserError(f"{folder}: no permission to read {' and '.join(closed)}; change their permissions")
            return
        raise UserError(f"{folder} has no {WEIGHTS}: the copy is incomplete, or its weights have another format")
    stage = run_stage(folder)
    if stage in ("pretrain", "finetune"):
        raise UserError(
            f"{folder} is a run that has not finished, so it has no encoder: continue it with out={folder} resume=true"
        )
    if is_group(folder) and stage is not None and stage.startswith("pretrain"):
        one = min(folder.glob("seed-*"), default=folder / "seed-0")
        raise UserError(
            f"{folder} holds runs with several seeds: give one of them, such as {one} (retouch probe alone takes all, "
            "and measures each)"
        )
    if stage == "study":
        raise UserError(
            f"{folder} is a study, whose contestants have an encoder each; use one of them, such as "
            f"{min(folder.glob(f'contestants/*/{ENCODER}'), default=folder / 'contestants/NAME/encoder').parent}"
        )
    if stage is not None:
        raise UserError(
            f"{folder} is a run of {command(stage)}, which exports no encoder; use the run that it was given"
        )
    run = next((path for path in folder.absolute().parents[:2] if (path / ENCODER / CONFIG).is_file()), None)
    if run is not None:
        raise UserError(f"{folder} is inside a run, but not its encoder; use {run}")
    if folder.name.startswith("step-") or any(folder.glob("step-*")):
        raise UserError(
            f"{folder} is a training checkpoint; finish the run (resume=true), then use the folder of the run"
        )
    raise UserError(f"{folder} is not an encoder: it has no {CONFIG}; use the folder of a finished run")


def _card_of_plain_timm(folder: Path, plain: PlainTimm) -> EncoderCard:
    described = plain.pretrained_cfg
    encoder_config = EncoderConfig(name=f"timm/{plain.architecture}", model_args=plain.own_args, stem="default")
    encoder = rebuild(encoder_config, plain.image_size, "rgb")
    card = EncoderCard(
        name=encoder_config.name,
        image_size=plain.image_size,
        view="rgb",
        stem="default",
        model_args=plain.own_args,
        mean=described.mean or plain.mean or _three(encoder.mean),
        std=described.std or plain.std or _three(encoder.std),
        layer_shapes=tuple(encoder.layer_shapes),
        class_names=plain.class_names,
        tensors=len(encoder.body.state_dict()),
        parameters=sum(parameter.numel() for parameter in encoder.parameters()),
        sha256="",
        plain_timm=True,
        note="written by timm, not by Retouch",
    )
    return card.model_copy(update={"sha256": digest(card, folder / WEIGHTS)})


def _three(constants: Tensor) -> tuple[float, float, float]:
    red, green, blue = constants.flatten().tolist()
    return red, green, blue
