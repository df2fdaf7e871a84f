"""Classifiers to apply: the linear classifiers that a probe keeps, and fine-tuned networks.

``classifiers/TASK/`` of a probe's run holds ``classifier.json`` (the card) and ``model.safetensors`` (weight and bias);
the encoder stays where it is, and is recognized by its sha256. ``open_classifier`` opens either kind.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from common.data import Images
from common.data.levels import Levels
from common.encoders.base import View
from common.encoders.card import CONFIG, WEIGHTS, EncoderCard
from common.encoders.head import Answers
from common.encoders.hub import local_folder, on_hub
from common.encoders.load import ENCODER, load_classifier, load_encoder, read_encoder_card
from common.errors import UserError, one_line
from common.files import GROUP, command, in_full, new_folder, run_stage, write_json
from common.runs.results import Record
from finetune.applied import Applied, Masked, Probed
from finetune.heads import Head
from finetune.pooling import Part

CLASSIFIERS = "classifiers"  # the folder of a probe's classifiers in that of its run
CLASSIFIER = "classifier"  # the folder of a fine-tuned network in that of its run
CARD = "classifier.json"

Kind = Literal["logistic", "ridge", "discriminant"]  # how it was fitted


class ClassifierCard(Record):
    """What ``classifier.json`` says of a probe's linear classifier."""

    schema_version: Literal[1, 2, 3] = 3
    task: str
    answers: Answers = "class"  # as in the first version
    class_names: tuple[str, ...]  # or those of the labels
    class_numbers: tuple[int, ...] = ()  # in masks
    kind: Kind
    parts: tuple[Part, ...]  # (layer, pooling), in the order of the features
    features: int
    temperature: float = Field(gt=0)  # of calibrated confidence
    calibrated_on: int  # held-out training images
    image_size: int
    view: View
    levels: Levels | None  # black and white of training images of more than 8 bits
    encoder: str  # its folder then, absolute, or hf:USER/NAME; empty where it came along
    encoder_beside: str  # relative to the folder of the run: both may move together; empty on the Hub
    encoder_sha256: str
    sha256: str  # of everything that decides its answers


ASIDE = {"temperature", "calibrated_on", "encoder", "encoder_beside", "sha256", "task"}  # do not decide answers
ASIDE_IN = {3: ASIDE, 2: ASIDE - {"task"}, 1: ASIDE - {"task"} | {"answers", "class_numbers"}}  # by version


class Saved(NamedTuple):
    """What a kept classifier answers."""

    task: str
    answers: Answers
    kind: Kind
    names: tuple[str, ...]  # of the classes or labels
    numbers: tuple[int, ...] = ()  # of the classes in masks


class Kept(NamedTuple):
    """A classifier to keep."""

    card: ClassifierCard
    weight: Tensor  # float32 [F C]
    bias: Tensor  # float32 [C]


# ---- what a probe writes


def write_classifiers(run: Path, found: Sequence[Kept]) -> list[str]:
    """Write ``classifiers/`` in the folder of a run, atomically; returns the folder of each, relative to the run."""
    # the task of masks is the path of their folder
    names = folder_names([Path(card.task).name if card.answers == "mask" else card.task for card, *_ in found])
    with new_folder(run / CLASSIFIERS) as writing:
        for name, (card, weight, bias) in zip(names, found, strict=True):
            folder = writing / name
            folder.mkdir()
            save_file({"weight": weight.contiguous(), "bias": bias}, folder / WEIGHTS)
            write_json(folder / CARD, card.model_copy(update={"sha256": _digest(card, folder)}).model_dump(mode="json"))
    return [f"{CLASSIFIERS}/{name}" for name in names]


def folder_names(tasks: Sequence[str]) -> list[str]:
    """A folder for each task: its name as far as all file systems allow, numbered where two would be the same."""
    names: list[str] = []
    for task in tasks:
        name = re.sub(r"[^\w.-]+", "_", task)[:60].strip(".") or "task"
        taken, number, chosen = {one.casefold() for one in names}, 2, name
        while chosen.casefold() in taken:
            chosen, number = f"{name}-{number}", number + 1
        names.append(chosen)
    return names


def keep(head: Head, saved: Saved, images: Images, encoder: Path, encoder_card: EncoderCard, run: Path) -> Kept:
    """A head with its card.

    Args:
        images: the training images.
        encoder: its folder, or its run.
        run: the folder of the run that keeps the head.
    """
    remote = on_hub(encoder)
    here = encoder if remote else in_full(encoder).absolute()
    card = ClassifierCard(
        task=saved.task,
        answers=saved.answers,
        class_names=saved.names,
        class_numbers=saved.numbers,
        kind=saved.kind,
        parts=head.space.parts,
        features=head.space.width,
        temperature=head.temperature,
        calibrated_on=0 if head.calibration is None else head.calibration.fitted_on,
        image_size=images.size,
        view=encoder_card.view,
        levels=images.levels,
        encoder=here.as_posix() if remote else str(here),
        encoder_beside="" if remote else _beside(here, run.absolute()),
        encoder_sha256=encoder_card.sha256,
        sha256="",
    )
    return Kept(card, head.weight, head.bias)


def _beside(folder: Path, run: Path) -> str:
    """A folder relative to that of the run; empty where there is no such path, as between drives."""
    try:
        return os.path.relpath(folder, run)
    except ValueError:
        return ""


def _digest(card: ClassifierCard, folder: Path) -> str:
    facts = json.dumps(card.model_dump(mode="json", exclude=ASIDE_IN[card.schema_version]), sort_keys=True)
    return hashlib.sha256(facts.encode() + (folder / WEIGHTS).read_bytes()).hexdigest()


def share_classifier(folder: Path, to: Path) -> None:
    """Copy a classifier that a probe has kept to ``to/classifiers/``, for others: its encoder is to be ``to/encoder``.

    It keeps its sha256. The task of masks is the path of their folder, of which the last part stays.
    """
    card = _read_card(folder)
    copied = to / CLASSIFIERS / folder.name
    copied.mkdir(parents=True)
    shutil.copyfile(folder / WEIGHTS, copied / WEIGHTS)
    task = Path(card.task).name if card.answers == "mask" else card.task
    card = card.model_copy(update={"task": task, "encoder": "", "encoder_beside": ENCODER})
    card = card.model_copy(update={"sha256": _digest(card, copied)})
    write_json(copied / CARD, card.model_dump(mode="json"))


# ---- opening one


class Places(NamedTuple):
    """The folders of a classifier that a probe has kept, and of its encoder."""

    classifier: Path
    encoder: Path


def places(path: str | Path, task: str | None = None, encoder: str | Path | None = None) -> Places | None:
    """What ``open_classifier`` opens; None if it is a fine-tuned network.

    Raises:
        UserError: as ``open_classifier``.
    """
    folder = local_folder(path)
    if _tuned_folder(folder) is not None:
        return None
    folder, card = _choose(folder, _saved(folder), task)
    return Places(folder, _encoder_of(folder, card, encoder))


def open_classifier(path: str | Path, task: str | None = None, encoder: str | Path | None = None) -> Applied:
    """The classifier of a finished run of ``probe`` or ``finetune``, or the one in a folder of its own.

    Args:
        path: the run, one of the folders below its ``classifiers/``, the ``classifier/`` of a fine-tuned network, or
            ``hf:USER/NAME`` of the Hub.
        task: which of a probe's tasks; not needed where there is one.
        encoder: where the encoder of a probe is now, if it was moved.

    Raises:
        UserError: there is no classifier, or none for this task; it is damaged; or its encoder is missing or differs.
    """
    folder = local_folder(path)
    if (tuned := _tuned_folder(folder)) is not None:
        return _open_tuned(tuned, path, task, encoder)
    folder, card = _choose(folder, _saved(folder), task)
    weight, bias = _read(folder, card)
    place = _encoder_of(folder, card, encoder)
    provenance = read_encoder_card(place).provenance
    loaded = load_encoder(place)
    masked = card.answers == "mask"
    return Applied(
        Masked(loaded, card.parts[0].layer, weight, bias) if masked else Probed(loaded, card.parts, weight, bias),
        card.answers,
        card.class_names,
        card.class_numbers,
        card.task,
        card.temperature,
        card.image_size,
        card.levels,
        card.sha256,
        provenance,
    )


def _tuned_folder(folder: Path) -> Path | None:
    """The folder of a fine-tuned network: itself, or the one in this run."""
    for one in (folder, folder / CLASSIFIER):
        if (one / CONFIG).is_file():
            return one
    return None


def _open_tuned(folder: Path, given: str | Path, task: str | None, encoder: str | Path | None) -> Applied:
    card = read_encoder_card(folder)
    if not card.class_names and on_hub(given):
        raise UserError(
            f"{given} is an encoder without a classifier: its owner can add one with retouch export PROBE format=hub "
            "push=USER/NAME; or run retouch probe with it on labeled images, and give its run"
        )
    if not card.class_names:
        raise UserError(
            f"{folder} is an encoder without a classifier: run retouch probe or retouch finetune on labeled images, "
            "and give its run"
        )
    if encoder is not None:
        raise UserError("encoder: a fine-tuned network has its encoder in its own folder; remove encoder")
    own = card.provenance.task or "label"
    if task not in (None, own):
        raise UserError(f"task: {folder} classifies {own}, not {task}; remove task")
    network = load_classifier(folder)
    return Applied(
        network,
        "class",
        card.class_names,
        (),
        own,
        card.temperature,
        card.image_size,
        card.provenance.levels,
        card.sha256,
        card.provenance,
    )


def _saved(folder: Path) -> list[Path]:
    """The folders of a probe's classifiers: this one, those below it, or those of the run.

    Raises:
        UserError: there are none; says what the folder is, and what to do.
    """
    if (folder / CARD).is_file():
        return [folder]
    found = [card.parent for inner in (".", CLASSIFIERS) for card in sorted((folder / inner).glob(f"*/{CARD}"))]
    if not found:
        raise UserError(_no_classifier(folder))
    return found


def _no_classifier(folder: Path) -> str:
    """Why there is none, and what to do."""
    stage, learn = run_stage(folder), "run retouch probe or retouch finetune on labeled images, and give its run"
    if not folder.exists():
        return f"{folder}: no such folder; give a finished run of retouch probe or retouch finetune"
    if not folder.is_dir():
        return f"{folder} is a file; give a finished run of retouch probe or retouch finetune"
    if stage == f"probe{GROUP}":
        one = min(folder.glob("seed-*"), default=folder / "seed-0")
        return f"{folder} holds runs with several seeds: give one of them, such as {one}"
    if stage == "probe" and (folder / "results.json").is_file():
        return (
            f"{folder} has no classifier: older versions of Retouch saved none, or none for several labels and masks; "
            "run the probe again"
        )
    if stage in ("probe", "finetune"):
        return f"{folder} is a run that has not finished: continue it with out={folder} resume=true"
    if stage == "study":
        return (
            f"{folder} is a study: run a probe with the encoder of its winner, by the command at the end of its "
            "report, and give that run"
        )
    if stage is not None:
        return f"{folder} is a run of {command(stage)}, which does not save a classifier: {learn}"
    return f"{folder} holds no classifier: {learn}"


def _choose(folder: Path, found: Sequence[Path], task: str | None) -> tuple[Path, ClassifierCard]:
    """The classifier of this task, or the only one."""
    cards = {one: _read_card(one) for one in found}
    meant = [one for one in found if task is None or (one.name == task and cards[one].task == task)]
    meant = meant or [one for one in found if cards[one].task == task] or [one for one in found if one.name == task]
    if len(meant) == 1:
        return meant[0], cards[meant[0]]
    names = ", ".join(one.name for one in found)
    if task is None:
        raise UserError(f"{folder} has classifiers of several tasks: set task to one of {names}")
    raise UserError(f"task: {folder} has no classifier of {task!r}; it has {names}")


def _read_card(folder: Path) -> ClassifierCard:
    again = "copy it again, or run the probe again"
    try:
        given = json.loads((folder / CARD).read_text(encoding="utf-8"))
        if isinstance(given, dict) and given.get("schema_version") not in ASIDE_IN:
            raise UserError(f"{folder} was written by another version of Retouch; update Retouch, or {again}")
        return ClassifierCard.model_validate(given)
    except ValidationError as error:
        keys = ", ".join(".".join(map(str, item["loc"])) for item in error.errors()[:3])
        raise UserError(f"{folder / CARD} is damaged ({keys}); {again}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / CARD} cannot be read ({one_line(error)}); {again}") from None


def _read(folder: Path, card: ClassifierCard) -> tuple[Tensor, Tensor]:
    """Weight ``[F C]`` and bias ``[C]``, as they were written."""
    again = "copy it again, or run the probe again"
    try:
        tensors = load_file(folder / WEIGHTS)
        changed = _digest(card, folder) != card.sha256
    except (OSError, SafetensorError) as error:
        raise UserError(f"{folder / WEIGHTS} cannot be read ({one_line(error)}); {again}") from None
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    classes = len(card.class_names)
    if changed or shapes != {"weight": (card.features, classes), "bias": (classes,)}:
        raise UserError(f"{folder}: the files have been modified (sha256 differs); {again}")
    return tensors["weight"], tensors["bias"]


def _encoder_of(folder: Path, card: ClassifierCard, given: str | Path | None) -> Path:
    """The folder of the same encoder that the classifier was fitted on.

    Raises:
        UserError: it is missing, or another encoder is there.
    """
    run = folder.absolute().parent.parent
    kept = [Path(card.encoder)] if card.encoder else []
    kept += [run / card.encoder_beside] if card.encoder_beside else []
    problem = ""
    for place in kept if given is None else [Path(given)]:
        try:
            found = read_encoder_card(place).sha256
        except UserError as error:
            problem = problem or str(error)
            continue
        if found == card.encoder_sha256:
            return place
        problem = (
            f"{place} is not the encoder that this classifier was fitted on: its sha256 is {found[:12]}, not "
            f"{card.encoder_sha256[:12]}"
        )
    raise UserError(f"{folder} needs its encoder: {problem}; set encoder=FOLDER to where it is now")
