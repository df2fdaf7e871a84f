"""The decoder that a run keeps: the whole objective as it was at the end, so that it can restore pictures later.

``decoder/`` holds ``decoder.json``, the card, and ``decoder.safetensors``: encoder, decoder and what the pretext
learned from data. The encoder is there a second time: the exported one has no mask channel, and may be in timm's terms.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, Final, Literal

import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor

from common.config import Config
from common.encoders.base import View
from common.encoders.card import CONFIG, rebuild
from common.encoders.config import EncoderConfig
from common.encoders.hub import local_folder, on_hub
from common.encoders.load import ENCODER, read_encoder_card
from common.encoders.tensors import misfits, read_tensors
from common.errors import UserError, moved_away, one_line
from common.files import is_group, new_folder, refuse_stream, run_stage, write_json
from common.settings import kind_of, models_in
from pretrain.gradient.decoders import DecoderConfig
from pretrain.gradient.objective import Objective, PenaltyConfig
from pretrain.gradient.pretexts import AnyPretext
from pretrain.method import DECODER

CARD, WEIGHTS = "decoder.json", "decoder.safetensors"
SCHEMA: Final = 2
ASIDE = {"sha256", "tensors", "parameters", "source"}  # do not decide what it restores
AGAIN = "export it again, with the same retouch pretrain command and out=RUN resume=true, or with retouch repeat RUN"


class DecoderCard(Config):
    """The content of ``decoder.json``.

    Attributes:
        encoder, image_size, view, mask_channel, mean, std: how the encoder is built, and how images are shown to it.
        decoder, pretext, penalty: the settings of the objective.
        source: the images that it learned from, as the user named them.
        encoder_sha256: the sha256 of the encoder that the run exported.
        tensors, parameters: counts in the weights file.
        sha256: covers the weights file and everything here but the source, the counts and itself; in the first version,
            the source too.
    """

    schema_version: Literal[1, 2] = SCHEMA
    encoder: EncoderConfig
    image_size: int
    view: View
    mask_channel: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    decoder: DecoderConfig
    pretext: AnyPretext
    penalty: PenaltyConfig
    source: str
    encoder_sha256: str
    tensors: int
    parameters: int
    sha256: str = ""

    @property
    def learned_at_own_resolution(self) -> bool:
        """Whether it has seen parts of pictures at their own resolution, rather than whole pictures made small."""
        return self.source.partition(":")[0] in ("patches", "photos")


def keep_decoder(
    objective: Objective, decoder: DecoderConfig, folder: Path, *, source: str, encoder_sha256: str
) -> DecoderCard:
    """Write the objective to ``folder`` atomically, with the weights that it has now.

    Args:
        decoder: the settings that its decoder was built from.
    """
    encoder = objective.encoder
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in objective.state_dict().items()}
    with new_folder(folder) as writing:
        save_file(tensors, writing / WEIGHTS, metadata={"format": "pt"})
        card = DecoderCard(
            encoder=encoder.config.model_copy(update={"pretrained": False}),
            image_size=encoder.image_size,
            view=encoder.view,
            mask_channel=encoder.mask_channel,
            mean=_three(encoder.mean),
            std=_three(encoder.std),
            decoder=decoder,
            pretext=objective.pretext,
            penalty=objective.penalty,
            source=source,
            encoder_sha256=encoder_sha256,
            tensors=len(tensors),
            parameters=sum(parameter.numel() for parameter in objective.decoder.parameters()),
        )
        card = card.model_copy(update={"sha256": _digest(card, writing / WEIGHTS)})
        write_json(writing / CARD, card.model_dump(mode="json"))
    return card


def open_objective(folder: Path, tile: int | None = None) -> tuple[Objective, DecoderCard]:
    """The objective in ``folder``, on the CPU, in eval mode and without gradients, every tensor checked.

    Args:
        tile: side of the images that it is to restore, in pixels; by default, that of the images it learned from.

    Raises:
        UserError: the folder is damaged or modified, or the network takes no images of this side.
    """
    card = read_decoder_card(folder)
    try:
        tensors = read_tensors(folder / WEIGHTS)
    except UserError as error:
        raise UserError(f"{str(error).partition('; ')[0]}; {_again(folder)}") from None
    objective = _built(card, card.image_size)
    if problem := misfits(tensors, objective.state_dict()):
        raise UserError(f"{folder}: {problem}; {_again(folder)}")
    if _digest(card, folder / WEIGHTS) != card.sha256:
        raise UserError(f"{folder}: the files have been modified (sha256 differs); {_again(folder)}")
    if tile is not None and tile != card.image_size:
        objective, tensors = _at(tile, card, tensors)
    objective.load_state_dict(tensors)
    return objective.eval().requires_grad_(False), card


def _built(card: DecoderCard, size: int) -> Objective:
    """The network for images of this side, with random weights."""
    args = card.encoder.model_args
    if size != card.image_size and "img_size" in args:
        args = {**args, "img_size": size}
    config = card.encoder.model_copy(update={"model_args": args})
    encoder = rebuild(config, size, card.view, mask_channel=card.mask_channel)
    encoder.mean.copy_(torch.tensor(card.mean).view(1, 3, 1, 1))
    encoder.std.copy_(torch.tensor(card.std).view(1, 3, 1, 1))
    with torch.random.fork_rng(devices=[]):
        return Objective(encoder, card.decoder, card.pretext, card.penalty)


def _at(tile: int, card: DecoderCard, tensors: dict[str, Tensor]) -> tuple[Objective, dict[str, Tensor]]:
    """The network for images of another side, and the tensors to load into it.

    Raises:
        UserError: its weights fit images of one side only.
    """
    size = card.image_size
    try:
        if problems := card.pretext.check((objective := _built(card, tile)).encoder):
            raise UserError(*problems)
    except UserError as error:
        raise UserError(f"tile={tile}: {one_line(error)}; remove tile for tiles of {size} px") from None
    fresh = objective.state_dict()
    # statistics of training images are needed for scores, not for restoring
    taken = {
        name: fresh[name] if name.startswith("state_") and tensor.shape != fresh[name].shape else tensor
        for name, tensor in tensors.items()
    }
    if misfits(taken, fresh):
        raise UserError(
            f"tile={tile}: the weights were learned at {size} px and fit no other size; remove tile for tiles of "
            f"{size} px"
        )
    return objective, taken


# ---- the folder, and the card in it


def decoder_folder(run: str | Path) -> Path:
    """The folder of the decoder that a run has kept.

    Args:
        run: the folder of the run, or that of its encoder or decoder, or ``hf:USER/NAME``.

    Raises:
        UserError: there is none; says why, and what to do.
    """
    path = local_folder(run)
    beside = (
        [path.parent / DECODER] if path.name == ENCODER else []
    )  # only next to an encoder: any other folder may lie in another run
    found = next((one for one in (path, path / DECODER, *beside) if (one / CARD).is_file()), None)
    if found is not None:
        return found
    if on_hub(run):
        raise UserError(
            f"{run} has no decoder, which restores pictures: give a run of retouch pretrain, or upload one with its "
            "decoder (retouch export RUN output=restorer format=hub push=USER/NAME)"
        )
    if not path.is_dir():
        what = "is a file" if path.exists() else "no such folder"
        raise UserError(f"{path}: {what}; give the folder of a finished run of retouch pretrain")
    if is_group(path):
        one = min(path.glob("seed-*"), default=path / "seed-0")
        raise UserError(f"{path} holds runs with several seeds: give one of them, such as {one}")
    above = path.absolute().parent if (path / CONFIG).is_file() else path
    stage = run_stage(above)
    if stage == "pretrain" and not (above / ENCODER / CONFIG).is_file():
        raise UserError(f"{path} is a run that has not finished: continue it with out={above} resume=true")
    if stage == "pretrain":
        if read_encoder_card(above).provenance.kind not in [kind_of(one) for one in models_in(AnyPretext)]:
            raise UserError(
                f"{path} is a run of the linear family, which keeps no decoder: use a run of denoise, colorize, mask "
                "or mixed"
            )
        if (above / DECODER).exists():
            raise UserError(
                f"{above / DECODER} is not a decoder: it is damaged, or holds other files; move it away, and {AGAIN}"
            )
        raise UserError(f"{path} has no {DECODER}/: an older version of Retouch made this run; {AGAIN}")
    raise UserError(
        f"{path} is not a run of retouch pretrain, and no other run keeps a decoder; give the folder of one"
    )


def read_decoder_card(folder: Path) -> DecoderCard:
    """The card in a folder that ``decoder_folder`` has found.

    Raises:
        UserError: it is damaged, another version wrote it, or the run's encoder comes from another training.
    """
    card = _card_in(folder)
    if (folder.parent / ENCODER / CONFIG).is_file():
        beside = read_encoder_card(folder.parent / ENCODER).sha256
        if beside != card.encoder_sha256:
            raise UserError(f"{folder} and the encoder of its run come from different trainings; {_again(folder)}")
    return card


def _card_in(folder: Path) -> DecoderCard:
    path = folder / CARD
    refuse_stream(path)
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({one_line(error)}); {_again(folder)}") from None
    version = found.get("schema_version") if isinstance(found, dict) else None
    if version not in (1, SCHEMA):
        known = f"this Retouch reads 1 and {SCHEMA}"
        raise UserError(f"{path} has schema_version {version!r}, and {known}; {_again(folder)}")
    try:
        return DecoderCard.model_validate(found)
    except ValidationError as error:
        keys = ", ".join(".".join(map(str, item["loc"])) for item in error.errors()[:3])
        raise UserError(f"{path} is damaged ({keys}); {_again(folder)}") from None


def check_kept(folder: Path, lost: Path | None = None) -> None:
    """Check that a decoder can be written again in its place, as a run does that is resumed after it.

    It may be of another training than the encoder: a run that was stopped between the two writes both again.

    Args:
        folder: where the decoder is; it is no problem if it is not there.
        lost: the folder that must be gone for that, by default this one.

    Raises:
        UserError: a file of it is damaged, modified or missing, or it holds others; says what to do.
    """
    if not folder.exists():
        return
    try:
        card = _card_in(folder)
        if others := sorted({path.name for path in folder.iterdir()} - {CARD, WEIGHTS}):
            raise UserError(f"{folder} contains other files ({', '.join(others[:3])})")
        if not (folder / WEIGHTS).is_file():
            raise UserError(f"{folder / WEIGHTS} is missing")
        if _digest(card, folder / WEIGHTS) != card.sha256:
            raise UserError(f"{folder / WEIGHTS} or {CARD} is damaged or was modified (sha256 differs)")
    except UserError as error:
        raise moved_away(error, lost or folder) from None


def _again(folder: Path) -> str:
    """How a decoder that cannot be used comes back: the run does not replace it where it is."""
    run = folder.parent
    lost = run if is_group(run.parent) else folder  # of a group, runs that have finished are not started again
    return (
        f"copy it again, or move {lost} away, and the retouch pretrain command of its run with resume=true writes it "
        "again"
    )


def share_decoder(folder: Path, to: Path, source: str) -> None:
    """Copy a decoder to a new folder, for others: it keeps its sha256.

    Args:
        source: the name of its training images for them.
    """
    to.mkdir()
    shutil.copyfile(folder / WEIGHTS, to / WEIGHTS)
    card = read_decoder_card(folder).model_copy(update={"source": source})
    card = card.model_copy(update={"sha256": _digest(card, to / WEIGHTS)})
    write_json(to / CARD, card.model_dump(mode="json"))


def _digest(card: DecoderCard, weights: Path) -> str:
    left_out = ASIDE - {"source"} if card.schema_version == 1 else ASIDE
    facts = card.model_dump(mode="json", exclude=left_out)
    total = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    refuse_stream(weights)
    with weights.open("rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()


def _three(constants: Tensor) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in constants.flatten())
    return red, green, blue
