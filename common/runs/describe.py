"""The settings of a stage in words: each key with its value, what it takes, and the line that its type says of it."""

from __future__ import annotations

import re
import textwrap
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from common.config import Config
from common.settings import Tree, kind_of, plain

TEXT = 40  # the column where words start
WORDS = {bool: "true or false", int: "integer", float: "number", str: "text", Path: "path", types.NoneType: "null"}


class Setting(NamedTuple):
    """One setting."""

    key: str  # dotted
    value: Any  # `PydanticUndefined` if it has none
    given: bool  # by the recipe or the user, not by default
    takes: str  # the type of its values, or its choices
    text: str  # what it means


def settings_of(schema: type[Config], tree: Tree, defaults: Mapping[str, Any]) -> list[Setting]:
    """All settings of a stage under the values in ``tree``, which need not be complete.

    ``defaults`` replace those of the schema.
    """
    schema = schema.variant(tree)
    return [one for name, field in schema.model_fields.items() for one in _settings(name, field, tree, defaults)]


def describe(settings: Sequence[Setting], width: int) -> str:
    """Lines ``key=value  what it means (what it takes)``; ``*`` marks the values that are given.

    Those of ``data`` come first, then settings at the top level, then the other blocks, one after the other.
    """
    groups: dict[str, list[Setting]] = {"data": [], "": []}
    for one in settings:
        groups.setdefault(one.key.partition(".")[0] if "." in one.key else "", []).append(one)
    return "\n\n".join("\n".join(_lines(one, width) for one in group) for group in groups.values() if group)


def _lines(one: Setting, width: int) -> str:
    left = f"{'*' if one.given else ' '} {one.key}={shown(one.value)}"
    words = " ".join(filter(None, (one.text, f"({one.takes})")))
    if len(left) >= TEXT:
        return f"{left}\n{textwrap.fill(words, width, initial_indent=' ' * TEXT, subsequent_indent=' ' * TEXT)}"
    return textwrap.fill(words, width, initial_indent=left.ljust(TEXT), subsequent_indent=" " * TEXT)


def shown(value: Any) -> str:
    """A value as it is typed."""
    if value is PydanticUndefined:
        return "?"
    if isinstance(value, BaseModel | list | tuple | Mapping):
        return str(yaml.safe_dump(_brief(value), default_flow_style=True, sort_keys=False, width=1 << 30)).strip()
    if isinstance(value, float):
        return f"{value:g}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _brief(value: Any) -> Any:
    """Plain values; of a model, its kind and what is not its default."""
    if isinstance(value, BaseModel):
        kind = {"kind": kind_of(value)} if "kind" in type(value).model_fields else {}
        return kind | value.model_dump(mode="json", exclude_defaults=True)
    return [_brief(item) for item in value] if isinstance(value, list | tuple) else plain(value)


def _settings(key: str, field: Any, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> Iterator[Setting]:
    """The settings of one field: itself, or those of its block.

    Args:
        given: values by name, for the block in which the field is.
        defaults: the defaults of the block as a whole, if it has any; otherwise those of its fields count.
    """
    name = key.rpartition(".")[2]
    default = defaults.get(name, field.get_default(call_default_factory=True))
    value = given.get(name, default)
    models = models_of(field.annotation)
    partial = isinstance(default, Config) and isinstance(value, Mapping) and "kind" not in value
    model = _chosen(models, default if partial else value)
    if model is None:
        kinds = f" with a kind: {', '.join(map(kind_of, models))}" if len(models) > 1 else ""
        yield Setting(key, value, name in given, takes(field.annotation) + kinds, first_paragraph(field.description))
        return
    inside = {model.short: value} if isinstance(value, str) else value if isinstance(value, Mapping) else {}
    whole = dict(default) if partial else dict(value) if isinstance(value, BaseModel) else {}
    for inner, part in model.model_fields.items():
        if inner == "kind":
            kind = inside.get("kind", whole.get("kind", part.default))
            words = ", ".join(map(kind_of, models)) if len(models) > 1 else takes(part.annotation)
            yield Setting(
                f"{key}.kind", kind, "kind" in inside, words, first_paragraph(part.description or model.__doc__)
            )
        else:
            yield from _settings(f"{key}.{inner}", part, inside, whole)


def models_of(annotation: Any) -> list[type[Config]]:
    """The models of a block: one, or one for each kind; none for a value that is not a block."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return models_of(arguments[0])
    if origin in (Union, types.UnionType):
        return [model for inner in arguments for model in models_of(inner)]
    return [annotation] if isinstance(annotation, type) and issubclass(annotation, Config) else []


def _chosen(models: Sequence[type[Config]], value: Any) -> type[Config] | None:
    if isinstance(value, Config):
        return type(value)
    if value is None or not models:
        return None
    if len(models) == 1:
        return models[0]
    kind = value.get("kind") if isinstance(value, Mapping) else None
    return next((model for model in models if kind_of(model) == kind), None)


def takes(annotation: Any) -> str:
    """The values of an annotation in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return takes(arguments[0])
    if origin is Literal:
        return ", ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(takes, arguments)))
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return "list"
    if models_of(annotation) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return "mapping"
    return WORDS.get(annotation, "value")


def first_paragraph(text: str | None) -> str:
    """The first paragraph of a docstring on one line, without its marks."""
    first = " ".join((text or "").split("\n\n")[0].split())
    return re.sub("`+", "", first)
