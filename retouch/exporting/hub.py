"""A folder for the Hugging Face Hub: its model card, its labels, and the upload."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from common.encoders.card import CONFIG, EncoderCard, read_json
from common.encoders.hub import SCHEME
from common.encoders.load import read_encoder_card
from common.encoders.readme import MARK, README, About, Section, plain, readme, with_front
from common.errors import UserError, one_line
from common.files import is_marked, write_json, write_text
from common.runs.results import RESULTS, Record
from common.waiting import within
from retouch.exporting.paths import folders_of, in_markdown, without_paths
from retouch.exporting.settings import ExportConfig, Output
from retouch.exporting.subject import HIDDEN, Subject
from retouch.reporting.card import card as card_of_runs
from retouch.reporting.reading import read_facts

ANSWER_SECONDS = 30  # the longest wait for the Hub's answer before anything is written
MESSAGE = "Export by Retouch"
EXPORTED = "\n## What was exported\n"  # the first part of what an export adds to a card
FROM_HUB = "\n## From the Hub\n"  # the last part of a card that was pushed
KINDS: dict[Output, str] = {"features": "encoder", "classifier": "classifier", "restorer": "encoder with its decoder"}
WRITE = "repo.write"  # the permission that a fine-grained token of the Hub needs
OWN = ".gitattributes"  # the Hub writes it into every new repository
Pipeline = Literal["image-classification", "image-segmentation", "image-feature-extraction", "image-to-image"]
PIPELINES: dict[Output, Pipeline] = {
    "features": "image-feature-extraction",
    "classifier": "image-classification",
    "restorer": "image-to-image",
}
DATA_SET = re.compile(rf"{SCHEME}([\w-][\w.-]*(?:/[\w-][\w.-]*)?)(?::\w+)?", re.ASCII)


# ---- the model card


def card_text(config: ExportConfig, subject: Subject, folders: Sequence[str]) -> str:
    """The model card: from the results of runs if there are any, else the one next to the encoder, or a short one.

    Args:
        folders: of this machine, from ``folders_of``.

    Raises:
        UserError: with every run that cannot be reported.
    """
    card = _described(subject)
    finished = subject.run is not None and (subject.run / RESULTS).is_file()
    runs = [*([subject.run] if subject.run is not None and finished else []), *config.report]
    names, beside = subject.class_names, subject.encoder_at or subject.folder
    answers = subject.answers or "class"
    if runs:
        facts = read_facts(runs)
        text = card_of_runs(facts, card, answers)
        names, folders = (*names, *facts.class_names), (*folders, *folders_of(facts.sources))
    elif is_marked(beside / README, MARK) and read_encoder_card(beside).class_names == card.class_names:
        text = (beside / README).read_text(encoding="utf-8")
        text = text.partition(EXPORTED)[0].partition(FROM_HUB)[0]
    else:
        text = readme(card, _about(subject, card), answers)
    text = "\n\n".join([text.rstrip("\n"), *_more(subject)])
    pieces = [without_paths(text, in_markdown(folders), in_markdown(names))]
    if config.push is not None:
        pieces.append(f"{FROM_HUB.strip()}\n\n{_from_hub(config.push, subject, card)}")
    front = _front(config, card, subject).model_dump(exclude_none=True)
    return with_front("\n\n".join(pieces) + "\n", front)


def _described(subject: Subject) -> EncoderCard:
    """The card of the network; for a probe's classifier or a decoder, that of the encoder next to it."""
    if subject.card is not None:
        return subject.card
    assert subject.encoder_at is not None  # others are refused
    card = read_encoder_card(subject.encoder_at)
    sha256 = subject.sha256 if subject.class_names else card.sha256
    update = {"class_names": subject.class_names, "sha256": sha256, "plain_timm": False, "note": ""}
    return card.model_copy(update=update)


def _more(subject: Subject) -> Iterator[str]:
    """Sections about the export: its sha256, and for more than an encoder, all classes or how to restore pictures."""
    alone = (
        "" if subject.encoder_at is None else f" (of the encoder alone: {read_encoder_card(subject.encoder_at).sha256})"
    )
    part = subject.card is not None and not subject.card.sha256
    kind = "encoder of the classifier" if part else KINDS[subject.output]
    said = f"This is the {kind} with the sha256 {subject.sha256}{alone}; export.json has the same."
    yield f"{EXPORTED.strip()}\n\n{said}"
    if subject.card is None and subject.class_names:
        yield f"## Labels\n\n{', '.join(map(plain, subject.class_names))}"
    if subject.output == "restorer":
        yield f"## How to restore pictures\n\n{_restoring(holes=HIDDEN in subject.network.inputs)}"


def _restoring(*, holes: bool) -> str:
    """Code that restores pictures, given ``damaged`` ones, and ``hidden`` pixels where the network fills holes."""
    given, about = (
        ("damaged, hidden", "; hidden [B 1 H W]: 1 where a pixel is to be filled") if holes else ("damaged", "")
    )
    return (
        '    import retouch\n    restorer = retouch.open_restorer("FOLDER")  # a torch module\n'
        f"    restored = restorer({given})  # [B 3 H W], RGB in [0, 1], of any size{about}"
    )


class HubFront(Record):
    """The front matter of a card, which the Hub reads."""

    license: str | None
    library_name: Literal["timm", "retouch"]
    pipeline_tag: Pipeline
    datasets: list[str] | None  # if they are on the Hub


def _front(config: ExportConfig, card: EncoderCard, subject: Subject) -> HubFront:
    known = DATA_SET.fullmatch(card.provenance.source or "")
    return HubFront(
        license=config.license,
        library_name="timm" if card.plain_timm and not card.note else "retouch",
        pipeline_tag="image-segmentation" if subject.class_numbers else PIPELINES[subject.output],
        datasets=[known[1]] if known is not None and not Path(known[1]).exists() else None,
    )


def _about(subject: Subject, card: EncoderCard) -> About:
    """A short description from the provenance, for a network without results of a run."""
    known = card.provenance.model_dump(mode="json").items()
    method = card.provenance.kind or card.provenance.stage or card.name.rpartition("/")[2]
    lines = [f"{key}: {value}." for key, value in known if isinstance(value, str | int | float)]
    probe = subject.card is None and subject.class_names
    title = f"{method}: an encoder and the linear classifier of a probe" if probe else ""
    return About(method, (Section("Provenance", tuple(lines or ["Where it comes from is not known."])),), title)


def _from_hub(name: str, subject: Subject, card: EncoderCard) -> str:
    kind = "classifier" if card.class_names else "encoder"
    lines = [f'    {kind} = retouch.load_{kind}("{SCHEME}{name}")']
    if subject.output == "restorer":
        lines.append(f'    restorer = retouch.open_restorer("{SCHEME}{name}")')
    if card.plain_timm:
        classes = "" if card.class_names else ", num_classes=0"
        lines.append(f'    timm.create_model("hf-hub:{name}", pretrained=True{classes})  # in timm, without Retouch')
    return "\n".join(lines)


def describe(folder: Path, text: str, subject: Subject) -> None:
    """Write the card, and the names of the classes in the Hub's format."""
    write_text(folder / README, text)
    if subject.class_names and subject.card is not None:
        names = dict(enumerate(subject.class_names))
        labels = {"id2label": names, "label2id": {name: number for number, name in names.items()}}
        write_json(folder / CONFIG, {**read_json(folder), **labels})


# ---- the upload


class Repository(NamedTuple):
    """Where to upload to."""

    name: str  # USER/NAME
    user: str  # who is logged in


def check_push(config: ExportConfig) -> Repository | None:
    """Check that the folder can be uploaded, if requested: who is logged in, and what the repository contains.

    Raises:
        UserError: the user is not logged in or may not write there, the Hub does not answer, or it has files already.
    """
    if config.push is None:
        return None
    from huggingface_hub import HfApi, errors

    api, name = HfApi(), config.push
    try:
        who = within(ANSWER_SECONDS, api.whoami)
    except errors.LocalTokenNotFoundError:
        raise UserError("push: you are not logged in to the Hub; run `hf auth login` once, or set HF_TOKEN") from None
    except Exception as error:  # exceptions of network libraries share no base class
        raise UserError(f"push: cannot ask the Hub who is logged in: {_reason(error)}") from None
    owners = [who["name"], *(one["name"] for one in who.get("orgs", []))]
    if name.partition("/")[0] not in owners:
        raise UserError(
            f"push: you are logged in as {who['name']}, who may write to {', '.join(owners)} but not to {name}"
        )
    if not may_write(who, name):
        raise UserError(
            f"push: your access token may not write to {name}; create one with write access in the settings of your "
            "Hub account, then run `hf auth login` again, or set HF_TOKEN"
        )
    try:
        there = set(within(ANSWER_SECONDS, lambda: api.list_repo_files(name))) - {OWN}
    except errors.RepositoryNotFoundError:
        there = set()
    except Exception as error:
        raise UserError(f"push: cannot ask the Hub which files {name} contains: {_reason(error)}") from None
    if there and not config.overwrite:
        raise UserError(
            f"push: {name} already contains files ({', '.join(sorted(there)[:3])}); name a new repository, or set "
            "overwrite=true, which adds a commit that replaces files of the same names"
        )
    return Repository(name, who["name"])


def may_write(who: Mapping[str, Any], name: str) -> bool:
    """Whether a token may write to USER/NAME; True if the Hub does not say, since the upload will show it.

    Args:
        who: the Hub's answer about the token, whose role is read, write, or fineGrained with a list of permissions.
    """
    token = (who.get("auth") or {}).get("accessToken") or {}
    if token.get("role") == "read":
        return False
    scopes = (token.get("fineGrained") or {}).get("scoped")
    if token.get("role") != "fineGrained" or scopes is None:
        return True
    places = (name, name.partition("/")[0])
    return any(WRITE in one["permissions"] and one["entity"].get("name") in places for one in scopes)


def push(config: ExportConfig, to: Repository) -> str:
    """Upload the folder as one commit; returns its address.

    Raises:
        UserError: it could not be uploaded; the folder remains.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(to.name, private=config.private, exist_ok=True)
        done = api.upload_folder(repo_id=to.name, folder_path=config.to, commit_message=MESSAGE)
    except Exception as error:  # exceptions of network libraries share no base class
        raise UserError(
            f"{config.to} was written, but could not be uploaded to {to.name}: {_reason(error)}; run the same command "
            "again with overwrite=true"
        ) from None
    return str(done.commit_url)


def _reason(error: Exception) -> str:
    from huggingface_hub import errors

    if isinstance(error, errors.OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set; unset it"
    return one_line(error, 200)
