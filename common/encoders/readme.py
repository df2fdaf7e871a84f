"""The model card of an encoder folder, ``README.md``: for people and model hubs. Nothing reads it back."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import yaml

from common.encoders.card import EncoderCard
from common.encoders.head import Answers
from common.words import first_upper

README = "README.md"
SHOWN = 20  # classes that are named
MARK = "---\ntags: [retouch"  # by this a model card is known as ours


class Told(NamedTuple):
    """What a card says of a classifier, by what it answers."""

    known: str  # before the names of its classes or labels
    shapes: str  # of images and of their probabilities


TOLD: dict[Answers, Told] = {
    "class": Told("It tells {} classes apart", "[B 3 H W], RGB in [0, 1] -> [B classes]"),
    "labels": Told("It knows {} labels, any number of them in an image", "[B 3 H W], RGB in [0, 1] -> [B labels]"),
    "mask": Told(
        "It tells the pixels of {} classes apart", "[B 3 S S], RGB in [0, 1] -> [B classes S S], not calibrated"
    ),
}


class Section(NamedTuple):
    """A part of a card."""

    title: str
    points: tuple[str, ...]  # sentences, as plain text


class About(NamedTuple):
    """What the writer of an encoder knows of it."""

    method: str  # such as denoise
    sections: tuple[Section, ...]
    title: str = ""  # in place of the usual one


def readme(card: EncoderCard, about: About, answers: Answers = "class") -> str:
    """The card that is exported with an encoder or a classifier, as Markdown.

    Args:
        answers: of a classifier.
    """
    known = TOLD[answers].known.format(len(card.class_names))
    channels, height, width = card.layer_shapes[-1]
    network = (
        f"{card.name}: {card.parameters:,} parameters in {len(card.layer_shapes)} layers; the last map is "
        f"{channels} × {height} × {width}.",
        f"It learned from images of {card.image_size} px: {card.resize}.",
        f"It sees {'gray only, and turns images gray itself' if card.view == 'gray' else 'RGB'}, in [0, 1].",
        *([f"{known}: {_some(card.class_names)}."] if card.class_names else []),
        *([f"sha256: {card.sha256}."] if card.sha256 else []),
    )
    tuned = card.provenance.stage == "finetune"
    methods = [*(one.kind or "" for one in card.provenance.before), *([] if tuned else [about.method])]
    pieces = [
        front_matter(methods, tuned=tuned),
        f"# {plain(about.title or _title(card, about))}",
        "Written by Retouch, which trains networks to restore damaged images.",
        *map(_section, (Section("What it is", network), *about.sections)),
        f"## How to load it\n\n{loading(card, answers)}",
    ]
    return "\n\n".join(pieces) + "\n"


def _title(card: EncoderCard, about: About) -> str:
    known = card.provenance
    if known.stage == "finetune":
        what = "a classifier" if card.class_names else "the encoder of a classifier"
        return f"{known.task or 'label'}: {what}, fine-tuned on labeled images"
    learned = "went on learning" if known.before else "learned"
    return f"{about.method}: an encoder that {learned} from images without labels"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def front_matter(methods: Sequence[str], *, tuned: bool = False) -> str:
    """What model hubs read first.

    Args:
        methods: of training without labels.
        tuned: the network has learned from labels last.
    """
    known = list(filter(str.isidentifier, methods))
    alone = [] if tuned and not known else ["self-supervised-learning"]
    tags = dict.fromkeys(["retouch", *(["fine-tuning"] if tuned else []), *alone, *known])
    return f"---\ntags: [{', '.join(tags)}]\n---"


def with_front(text: str, fields: Mapping[str, object]) -> str:
    """A card with these fields in its front matter after our own, in place of any that were added before."""
    end = text.index("\n---\n")
    own = "\n".join(text[:end].split("\n")[:2])
    return f"{own}\n{yaml.safe_dump(dict(fields), sort_keys=False).rstrip()}{text[end:]}"


def loading(card: EncoderCard, answers: Answers = "class") -> str:
    """How to use the folder that holds an encoder or a classifier, as Markdown: code that runs, given ``images``.

    Args:
        answers: of a classifier.
    """
    encoder = (
        '    encoder = retouch.load_encoder("FOLDER")  # this folder, or that of the run around it',
        "    vectors = encoder.encode(images)  # [B 3 H W], RGB in [0, 1] -> [B D]; all maps: encoder.layers(images)",
    )
    classifier = (
        '    classifier = retouch.load_classifier("FOLDER")  # this folder, or that of the run around it',
        f"    probabilities = classifier.probabilities(classifier(images))  # {TOLD[answers].shapes}",
    )
    bare = "" if card.class_names else ", num_classes=0"
    timm = (
        "    import timm  # without Retouch",
        f'    network = timm.create_model("local-dir:FOLDER", pretrained=True{bare})',
    )
    ours = ("    import retouch", *(classifier if card.class_names else encoder))
    code = "\n".join([*ours, *(("", *timm) if card.plain_timm else ())])
    return f"{code}\n\n{plain(first_upper(card.note))}." if card.note else code


def plain(text: str) -> str:
    """A text as Markdown that shows it and does nothing else: no tag, no link, no new cell."""
    text = html.escape(" ".join(text.split()), quote=False)
    for mark in "\\`|*#":
        text = text.replace(mark, f"\\{mark}")
    return text.replace("](", "]\\(").replace("![", "!\\[")


def _section(section: Section) -> str:
    return "\n".join((f"## {plain(section.title)}", "", *(f"- {plain(point)}" for point in section.points)))
