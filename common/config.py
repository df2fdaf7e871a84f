"""Configs: frozen pydantic models, read from YAML with dotted overrides, every error told at once."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, ValidationError

from common.errors import UserError


class ProblemsError(ValueError):
    """What a validator found, when that may be several things at once; ``validate`` tells each on a line of its own."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(problems))


class Config(BaseModel):
    """A frozen block of settings. Unknown keys are errors, so a misspelled key is never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def variant(cls, values: Mapping[str, Any]) -> type[Self]:
        """The class that ``values`` are meant for, where a block has several; see ``validate``."""
        return cls

    @classmethod
    def about_unknown(cls, key: str) -> str:
        """What to say of a key that this block does not have, where there is something better than its nearest name."""
        return ""


C = TypeVar("C", bound=Config)


def load_config(schema: type[C], path: str | Path, overrides: Sequence[str] = ()) -> C:
    """Read ``path`` (YAML), apply ``key.sub=value`` overrides in order, and validate against ``schema``.

    An override that changes a block's ``kind`` replaces the whole block, so no key of the old kind survives.

    Raises:
        UserError: the file is missing, cannot be read or is not YAML, an override has no ``=``, or any value is wrong;
            all at once.
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise UserError(f"config file not found: {path}")
        loaded = OmegaConf.load(path)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({_one_line(error)}); save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or _one_line(error)}") from None
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path} is not valid YAML: {_one_line(error)}") from None
    if not isinstance(loaded, DictConfig):
        raise UserError(f"{path} must hold `key: value` lines at its top level")
    return validate(schema, _resolved(apply_overrides(loaded, overrides)), str(path))


def apply_overrides(tree: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Apply ``key.sub=value`` overrides to ``tree`` in order (values are YAML; ``1e-3`` is a number)."""
    bad = [text for text in overrides if "=" not in text or text.startswith("=")]
    if bad:
        raise UserError(*(f"{text!r}: an override is written key=value" for text in bad))
    # `kind` goes first, outer ones before inner ones, whatever the order typed: it empties its block, and must not take
    # an override of a sibling, or of a kind within, with it.
    for text in sorted(overrides, key=_turn):
        key, _, value = text.partition("=")
        try:
            parsed = OmegaConf.create(f"value: {value}" if value else "value: null").value
        except (yaml.YAMLError, OmegaConfBaseException):
            parsed = value
        block, _, leaf = key.rpartition(".")
        try:
            around, old = OmegaConf.select(tree, block) if block else None, OmegaConf.select(tree, key)
            if leaf == "kind" and isinstance(around, DictConfig) and around.get("kind") != parsed:
                OmegaConf.update(tree, block, {}, merge=False, force_add=True)
            # a block that is found by its path may be named by it alone: encoder=runs/a is encoder.path=runs/a
            if isinstance(around, str):
                OmegaConf.update(tree, block, {"path": around}, merge=False, force_add=True)
            if isinstance(old, DictConfig) and "path" in old and isinstance(parsed, str):
                key = f"{key}.path"
            OmegaConf.update(tree, key, parsed, merge=False, force_add=True)
        except (OmegaConfBaseException, AttributeError, TypeError, ValueError) as error:
            raise UserError(f"{text!r}: {_one_line(error)}") from None
    return tree


def validate(schema: type[C], values: Mapping[str, Any], origin: str = "the config") -> C:
    """Validate plain ``values``; every problem is reported in one message with its dotted key."""
    schema = schema.variant(values)
    try:
        return schema.model_validate(dict(values))
    except ValidationError as error:
        problems = list(dict.fromkeys(_all_problems(schema, values, error)))
        count = f"{len(problems)} error{'s' if len(problems) > 1 else ''}"
        raise UserError(*problems, title=f"Found {count} in {origin}:") from None


def dump_config(config: Config) -> str:
    """The complete config as YAML, defaults included; ``load_config`` reads it back to an equal object."""
    return str(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def _turn(override: str) -> tuple[bool, int]:
    """Where an override stands in the order they are applied in; those that are equal keep the order typed."""
    key = override.partition("=")[0]
    return (False, key.count(".")) if key.endswith(".kind") else (True, 0)


def _resolved(tree: DictConfig) -> dict[str, Any]:
    try:
        values = OmegaConf.to_container(tree, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(_one_line(error)) from None
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _all_problems(schema: type[Config], values: Mapping[str, Any], error: ValidationError) -> Iterator[str]:
    """Every problem as a plain line, also those that pydantic finds only once unknown keys are out of its way."""
    items = error.errors(include_url=False)
    for item in items:
        yield from _problems(schema, item)
    unknown = [item["loc"] for item in items if item["type"] == "extra_forbidden"]
    if unknown:
        rest = copy.deepcopy(dict(values))
        for location in unknown:
            _remove(rest, _walk(schema, [str(part) for part in location])[0])
        try:
            schema.model_validate(rest)
        except ValidationError as further:
            yield from _all_problems(schema, rest, further)


def _remove(tree: Any, path: Sequence[str]) -> None:
    """Take the key at the end of ``path`` out of nested mappings and lists."""
    for part in path[:-1]:
        tree = tree[int(part)] if isinstance(tree, Sequence) else tree[part]
    del tree[path[-1]]


def _problems(schema: type[Config], item: Any) -> list[str]:
    """One pydantic error as plain lines: dotted key, what is wrong, and the nearest name there is."""
    several = item.get("ctx", {}).get("error")
    if isinstance(several, ProblemsError):
        return [_problem(schema, item | {"msg": problem}) for problem in several.problems]
    return [_problem(schema, item)]


def _problem(schema: type[Config], item: Any) -> str:
    location = [str(part) for part in item["loc"]]
    path, annotation = _walk(schema, location)
    key = ".".join(path)
    kind, context, given = item["type"], item.get("ctx", {}), item.get("input")
    if kind == "extra_forbidden":
        _, block = _walk(schema, location[:-1])
        models = _models_in(block)
        for about in filter(None, (model.about_unknown(location[-1]) for model in models)):
            return f"{key}: {about}"
        beside = [name for model in models for name in model.model_fields]
        return f"{key}: unknown key{_nearest(location[-1], beside)}"
    if kind == "missing":
        return f"{key}: required, but not given"
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        names = [_tag(model) for model in _models_in(annotation)]
        where = f"{key}.kind" if key else "kind"
        if kind == "union_tag_not_found":
            return f"{where}: required, one of {', '.join(names)}"
        return (
            f"{where}: unknown kind {context['tag']!r}{_nearest(str(context['tag']), names)}; one of {', '.join(names)}"
        )
    message = str(item["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    message = message[0].lower() + message[1:] if message else message
    shown = "" if kind in ("value_error", "assertion_error") or isinstance(given, dict) else f", got {given!r}"
    return f"{key}: {message}{shown}" if key else f"{message}{shown}"


def _nearest(word: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(names), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def _walk(schema: type[Config], location: Sequence[str]) -> tuple[list[str], Any]:
    """Follow an error's location through the schema: the key as the user types it, and the annotation there.

    pydantic puts the tag of a union into the location (``pretext.denoise.sigma``), which no user has typed.
    """
    path: list[str] = []
    here: Any = schema
    for part in location:
        models = _models_in(here)
        fields = models[0].model_fields if len(models) == 1 else {}
        members = {_tag(model): model for model in models}
        if part in fields:
            path.append(part)
            here = fields[part].annotation
        elif part in members and (len(models) > 1 or "kind" in fields):
            here = members[part]
        else:
            path.append(part)  # a list index keeps the annotation of its list; an unknown key ends the walk anyway
    return path, here


def _models_in(annotation: Any) -> list[Any]:
    """Every Config class named anywhere inside an annotation such as ``Annotated[A | B, ...] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return [annotation]
    found: list[Any] = []
    for inner in getattr(annotation, "__args__", ()):
        found += _models_in(inner)
    return found


def _tag(model: Any) -> str:
    field = model.model_fields.get("kind")
    return str(field.default) if field is not None else model.__name__


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
