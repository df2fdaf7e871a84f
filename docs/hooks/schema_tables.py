"""Every setting of a schema, all kinds of its blocks included, as rows of tables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from common.config import Config
from common.runs.describe import first_paragraph, models_of, shown, takes
from common.settings import kind_of, models_in

AUTOMATIC = "automatic"  # a default that depends on the machine


class Row(NamedTuple):
    """One setting."""

    key: str  # dotted
    default: str  # as it is typed; empty if it has to be given
    takes: str  # types or choices, in Markdown
    text: str  # what it means


@dataclass
class Section:
    """The settings of one block, or of one of its kinds."""

    title: str
    anchor: str
    text: str
    rows: list[Row] = field(default_factory=list)


def sections(schema: type[Config], defaults: Mapping[str, str]) -> list[Section]:
    """All settings of a command: those at the top first, then each block once.

    Args:
        defaults: of keys at the top, in place of the schema's.
    """
    walk = _Walk(defaults)
    variants = schema.__subclasses__() if "variant" in vars(schema) else []  # such as autoencoders, and what is fitted
    walk.fields(walk.section("At the top", "settings", ""), schema.model_fields, "", None)
    for variant in variants:
        own = {name: one for name, one in variant.model_fields.items() if _differs(one, schema.model_fields.get(name))}
        text = first_paragraph(variant.__doc__)
        title = re.split("[:,.]", text)[0]
        walk.fields(walk.section(title, variant.__name__.lower(), text), own, "", None)
    return walk.found


def _differs(one: FieldInfo, other: FieldInfo | None) -> bool:
    return other is None or one.default != other.default


class _Walk:
    """Collects sections; a block that several keys take is described where it is met first."""

    def __init__(self, defaults: Mapping[str, str]) -> None:
        self.defaults = defaults
        self.found: list[Section] = []
        self.seen: dict[tuple[type[Config], ...], tuple[str, str]] = {}  # kinds of a block -> its first key and anchor

    def section(self, title: str, anchor: str, text: str) -> Section:
        self.found.append(Section(title, anchor, text))
        return self.found[-1]

    def fields(self, section: Section, fields: Mapping[str, FieldInfo], prefix: str, default: Config | None) -> None:
        """The rows of a block, then its inner blocks."""
        blocks = []
        for name, one in fields.items():
            if name == "kind" and len(takes(one.annotation).split(", ")) == 1:
                continue  # the title says it
            key = f"{prefix}{name}"
            value = getattr(default, name, None) if default is not None else _default(one)
            models = tuple(models_in(one.annotation))
            words = takes(one.annotation)
            if models and models in self.seen:
                first, anchor = self.seen[models]
                words += f", [as in `{first}`](#{anchor})"
            elif models:
                self.seen[models] = (
                    f"{prefix}{name}",
                    _anchor(f"{prefix}{name}", kind_of(models[0]) if len(models) > 1 else ""),
                )
                blocks.append((f"{prefix}{name}", one, models, value))
                if one.annotation is models[0]:
                    continue  # always one block: its keys say everything
                words += _links(key, models)
            given = self.defaults.get(name) if not prefix else None
            section.rows.append(Row(key, given or _written(one, value), words, first_paragraph(one.description)))
        for key, one, models, value in blocks:
            self._block(key, one, models, value)

    def _block(self, key: str, one: FieldInfo, models: tuple[type[Config], ...], value: Any) -> None:
        listed = not models_of(one.annotation)
        for model in models:
            kind = _kind(model, models)
            text = first_paragraph(one.description if not kind and one.description else model.__doc__)
            if model.short:
                text += f" `{key}=TEXT` is short for `{key}.{model.short}=TEXT`."
            section = self.section(f"{key}: {kind}" if kind else key, _anchor(key, kind), text)
            default = value if isinstance(value, model) else None
            self.fields(section, model.model_fields, "" if listed else f"{key}.", default)


def _default(one: FieldInfo) -> Any:
    if one.default_factory is not None:
        made = one.get_default(call_default_factory=True)
        return made if isinstance(made, Config) else AUTOMATIC
    return one.default


def _written(one: FieldInfo, value: Any) -> str:
    if one.default_factory is not None and not isinstance(value, Config):
        return AUTOMATIC
    return "" if value is PydanticUndefined else shown(value)


def _links(key: str, models: Sequence[type[Config]]) -> str:
    """Where the block of a key is described, or each of its kinds."""
    if len(models) == 1:
        return f", [see below](#{_anchor(key)})"
    return "; kinds: " + ", ".join(f"[{kind_of(model)}](#{_anchor(key, kind_of(model))})" for model in models)


def _kind(model: type[Config], models: Sequence[type[Config]]) -> str:
    """Of a block that has several; else empty."""
    return kind_of(model) if len(models) > 1 else ""


def _anchor(key: str, kind: str = "") -> str:
    return "-".join(filter(None, (key.replace(".", "-").replace("_", "-"), kind)))
