"""Mistakes in settings, in plain words: what pydantic found, and what to type instead."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from common.settings import accepts, kind_of, models_in

LONGEST_SHOWN = 100  # characters of a wrong value in a message
CLOSE, CLOSER = 0.6, 0.8  # similarity from which a name may be meant: of the same block, of another
OFF = "disabled"  # what turns a section off, where it can be
NAMED = 4  # settings of a section that are named in a message
PLAIN = {
    "int_parsing": "Input should be a whole number",
    "int_type": "Input should be a whole number",
    "int_from_float": "Input should be a whole number",
    "float_parsing": "Input should be a number",
    "float_type": "Input should be a number",
    "bool_parsing": "Input should be true or false",
    "bool_type": "Input should be true or false",
}
SECTION = ("model_type", "model_attributes_type", "dict_type")  # a value in place of a section
GROUPED = re.compile(r"[-+]?[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]*)?$")  # 1,000
# what people type who know other tools, and the last part of the key here
SYNONYMS = {
    "batch": "batch_size",
    "bs": "batch_size",
    "dataset": "data",
    "epoch": "epochs",
    "iterations": "steps",
    "learning_rate": "base_lr",
    "lr": "base_lr",
    "num_workers": "workers",
    "output": "out",
    "resolution": "image_size",
    "size": "image_size",
    "wd": "weight_decay",
}
DEVICE = "a GPU is used if there is one (CUDA_VISIBLE_DEVICES= before the command hides it)"


def plainly(item: Any) -> Any:
    """An error of pydantic, with the words of this field in place of a programmer's."""
    return item | {"msg": PLAIN.get(item["type"], item["msg"])}


def brief(given: Any) -> str:
    """A value as it is shown in a message."""
    text = repr(given)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}... ({len(text):,} characters)"


def nearest(word: str, names: Iterable[str]) -> str:
    """``; did you mean 'steps'?``, if a name is close to the word."""
    close = difflib.get_close_matches(word, list(names), n=1, cutoff=CLOSE)
    return f"; did you mean {close[0]!r}?" if close else ""


def as_section(key: str, annotation: Any, given: Any) -> str:
    """What to type if a section, such as ``wandb``, was given a value."""
    models = models_in(annotation)
    fields = {name: field for model in models for name, field in model.model_fields.items()}
    kinds = [kind_of(model) for model in models if "kind" in model.model_fields]
    if given is False:  # also `off` and `no`
        given = OFF
    meant = next((name for name, field in fields.items() if given in _choices(field.annotation)), None)
    meant = "kind" if given in kinds else meant
    if meant is not None:
        return f"{key}: has settings of its own; write {key}.{meant}={given}"
    named = ", ".join(f"{key}.{name}" for name in list(fields)[:NAMED])
    return f"{key}: has settings of its own, such as {named}; got {brief(given)}"


def _choices(annotation: Any) -> Iterator[Any]:
    for inner in get_args(annotation):
        if get_origin(annotation) is Literal:
            yield inner
        else:
            yield from _choices(inner)


def ungrouped(kind: str, given: Any) -> str:
    """``; write 1000`` for ``1,000``."""
    number = kind in ("int_parsing", "float_parsing") and isinstance(given, str) and GROUPED.match(given.strip())
    return f"; write {given.strip().replace(',', '')}" if number else ""


def empty_paths(schema: Any, values: Mapping[str, Any], before: str = "") -> Iterator[str]:
    """A problem for each path that is empty, which would mean the working folder."""
    for name, value in values.items():
        field = schema.model_fields.get(name)
        if field is None:
            continue
        if value == "" and accepts(field.annotation, Path):
            yield f"{before}{name}: is empty"
        models = models_in(field.annotation)
        if isinstance(value, Mapping) and len(models) == 1:
            yield from empty_paths(models[0], value, f"{before}{name}.")


def meant_key(schema: Any, location: list[str], siblings: list[str], given: Any) -> str:
    """``; did you mean 'data.image_size'?``: a key of any level whose last part is the one typed, or close to it.

    Args:
        location: the dotted key that is unknown.
        siblings: the known keys of its block, which are shown without the block.
        given: its value; that of an unknown block has the last part of the key.
    """
    word, value = location[-1], given
    while isinstance(value, Mapping) and len(value) == 1:
        word, value = next(iter(value.items()))
    everywhere = sorted(dict.fromkeys(_keys(schema)), key=lambda key: key.count("."))
    for name in filter(None, (SYNONYMS.get(word), word)):
        if name in siblings:
            return f"; did you mean {name!r}?"
        if found := next((key for key in everywhere if key.rpartition(".")[2] == name), None):
            return f"; did you mean {found!r}?"
    if word == "device":
        return f"; {DEVICE}"
    shown = {name: name for name in siblings} | {
        key: last for key in everywhere if (last := key.rpartition(".")[2]) not in siblings
    }  # what is typed, and its last part
    close = {key: difflib.SequenceMatcher(None, location[-1], last).ratio() for key, last in shown.items()}
    best = max(close, key=close.__getitem__, default="")
    least = CLOSE if best in siblings else CLOSER
    return f"; did you mean {best!r}?" if best and close[best] >= least else ""


def _keys(schema: Any, before: str = "", within: tuple[Any, ...] = ()) -> Iterator[str]:
    """All dotted keys of a schema, of every kind of each block."""
    for name, field in schema.model_fields.items():
        yield f"{before}{name}"
        for model in models_in(field.annotation):
            if model not in within:
                yield from _keys(model, f"{before}{name}.", (*within, model))
