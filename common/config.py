"""Configs: frozen pydantic models; every problem in a file, a mapping or an override is reported at once."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.fields import FieldInfo

from common.errors import UserError
from common.files import ELSEWHERE, in_full, is_address
from common.problems import (
    LONGEST_SHOWN,
    SECTION,
    as_section,
    brief,
    empty_paths,
    meant_key,
    nearest,
    plainly,
    ungrouped,
)
from common.settings import (
    Tree,
    apply_overrides,
    counts,
    is_list,
    is_union,
    kind_of,
    models_in,
    plain,
    read_yaml,
    takes_list,
    write_yaml,
)
from common.words import counted


def _written_here(path: Path) -> Path:
    if is_address(path):
        raise ValueError(ELSEWHERE)
    return path


HomePath = Annotated[Path, AfterValidator(in_full)]  # a setting in which `~` is the home folder
OutPath = Annotated[HomePath, AfterValidator(_written_here)]  # one where files are written
MANY = 1_000_000_000  # the upper bound of counts of images, steps and the like, which nothing else bounds
LISTS = ("tuple_type", "list_type", "too_short", "too_long")  # pydantic's error types for what a user calls a list


class ProblemsError(ValueError):
    """Raised by a validator that finds several problems; ``validate`` reports each on a line of its own."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(problems))


class Config(BaseModel):
    """A frozen block of settings. Unknown keys are errors, so a misspelled key is never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    short: ClassVar[str] = ""  # the key that a text in place of the whole block sets: data=PATH means data.source=PATH

    @model_validator(mode="before")
    @classmethod
    def _in_short(cls, values: Any) -> Any:
        return {cls.short: values} if cls.short and isinstance(values, (str, Path)) else values

    @model_validator(mode="before")
    @classmethod
    def _as_meant(cls, values: Any) -> Any:
        """A lone value becomes a list of one; a block without a kind changes its default and keeps the rest of it."""
        if not isinstance(values, Mapping):
            return values
        fields = cls.model_fields
        return {key: _as_meant(value, fields[key]) if key in fields else value for key, value in values.items()}

    @classmethod
    def variant(cls, values: Mapping[str, Any]) -> type[Self]:
        """The class that ``values`` are meant for, where a block has several; see ``validate``."""
        return cls

    @classmethod
    def about_unknown(cls, key: str) -> str:
        """A hint for a key that this block does not have, where there is a better one than the nearest known key."""
        return ""


C = TypeVar("C", bound=Config)


def load_config(schema: type[C], source: str | Path | Mapping[str, Any] | Config, overrides: Sequence[str] = ()) -> C:
    """Read settings, apply ``key.sub=value`` overrides in order, and validate against ``schema``.

    Args:
        source: a YAML file, a mapping (its values are taken as they are) or another config.

    Raises:
        UserError: the file cannot be read or is not YAML, an override has no ``key=``, or values are wrong (then with
            every problem at once).
    """
    origin = str(source) if isinstance(source, (str, Path)) else "the config"
    return validate(schema, read_settings(schema, source, overrides), origin)


def read_settings(
    schema: type[C], source: str | Path | Mapping[str, Any] | Config, overrides: Sequence[str] = ()
) -> Tree:
    """The settings of ``load_config``, typed by the fields of ``schema`` but not validated."""
    path = Path(source) if isinstance(source, (str, Path)) else None
    tree = plain(source) if path is None else read_yaml(schema, path)
    # the variant decides the types of the values, so it is chosen by the keys first
    keys = {text.partition("=")[0].partition(".")[0] for text in overrides if text.rpartition("=")[2] != "null"}
    variant = schema.variant({**tree, **{key: {} for key in keys}})
    if variant is not schema and path is not None:
        tree = read_yaml(variant, path)
    return apply_overrides(variant, tree, overrides)


def validate(schema: type[C], values: Mapping[str, Any], origin: str = "the config") -> C:
    """Validate plain ``values``; one message reports every problem with its dotted key."""
    schema = schema.variant(values)
    problems = list(empty_paths(schema, values))
    try:
        found = schema.model_validate(dict(values))
    except ValidationError as error:
        problems += _all_problems(schema, values, error)
    if problems := list(dict.fromkeys(problems)):
        raise UserError(*problems, title=f"Found {counted(len(problems), 'error')} in {origin}:")
    return found


def _as_meant(value: Any, field: FieldInfo) -> Any:
    annotation, default = field.annotation, field.default
    if value is not None and not isinstance(value, (list, tuple)) and is_list(annotation):
        value = [value]
    if counts(annotation):
        value = [_untrue(item) for item in value] if isinstance(value, (list, tuple)) else _untrue(value)
    if isinstance(default, Config) and isinstance(value, Mapping) and "kind" not in value:
        return {**dict(default), **value}
    return value


def _untrue(value: Any) -> Any:
    """A boolean as text: Python takes True for 1, but a setting that counts does not."""
    return str(value).lower() if isinstance(value, bool) else value


def dump_config(config: Config) -> str:
    """The complete config as YAML, defaults included; ``load_config`` reads it back to an equal object."""
    return write_yaml(config.model_dump(mode="json"))


def _all_problems(schema: type[Config], values: Mapping[str, Any], error: ValidationError) -> Iterator[str]:
    """Every problem as a plain line, also those that pydantic finds only once unknown keys are out of its way."""
    items = _one_per_union(schema, [plainly(item) for item in error.errors(include_url=False)])
    inner = [item["loc"][:-1] for item in items]  # pydantic counts a list without its wrong items
    for item in items:
        if item["type"] == "too_short" and any(place[: len(item["loc"])] == item["loc"] for place in inner):
            continue
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


def _one_per_union(schema: type[Config], items: Sequence[Any]) -> list[Any]:
    """pydantic reports every member of a union, such as ``stem`` and a number, but the user made one mistake.

    Where a member fits except for something inside it, that is the mistake.
    """
    found: list[Any] = []
    unions: dict[tuple[Any, ...], list[Any]] = {}
    for item in items:
        place = _union_in(schema, item["loc"])
        if place is None:
            found.append(item)
        else:
            unions.setdefault(item["loc"][:place], []).append(item)
    for field, members in unions.items():
        inside = [item for item in members if len(item["loc"]) > len(field) + 1]
        found += [item | {"loc": (*field, *item["loc"][len(field) + 1 :])} for item in inside]
        if not inside:
            first, *others = dict.fromkeys(str(item["msg"]) for item in members)
            text = " or ".join([first, *(one.removeprefix("Input should be ") for one in others)])
            found.append(members[0] | {"loc": field, "msg": text})
    return found


def _union_in(schema: type[Config], location: Sequence[Any]) -> int | None:
    """The position in ``location`` of a member of a union of values, not of blocks: a part that no user typed."""
    names = [str(part) for part in location]
    return next((place for place in range(1, len(names)) if is_union(_walk(schema, names[:place])[1])), None)


def _remove(tree: Any, path: Sequence[str]) -> None:
    """Take the key at the end of ``path`` out of nested mappings and lists; a list of one may be its item alone."""
    for part in path[:-1]:
        if isinstance(tree, Sequence):
            tree = tree[int(part)]
        elif part in tree:
            tree = tree[part]
    del tree[path[-1]]


def _problems(schema: type[Config], item: Any) -> list[str]:
    """One pydantic error as plain lines: dotted key, what is wrong, and the nearest known name."""
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
        models = models_in(block)
        for about in filter(None, (model.about_unknown(location[-1]) for model in models)):
            return f"{key}: {about}"
        known = [name for model in models for name in model.model_fields]
        return f"{key}: unknown key{_elsewhere(schema, location) or meant_key(schema, path, known, given)}"
    if kind == "missing":
        fields = (model.model_fields.get(location[-1]) for model in models_in(_walk(schema, location[:-1])[1]))
        text = next((field.description for field in fields if field is not None and field.description), "")
        return f"{key}: required, but not given" + (f": {text[0].lower()}{text[1:].rstrip('.')}" if text else "")
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        names = [kind_of(model) for model in models_in(annotation)]
        where = f"{key}.kind" if key else "kind"
        if kind == "union_tag_not_found":
            return f"{where}: required, one of {', '.join(names)}"
        return (
            f"{where}: unknown kind {context['tag']!r}{nearest(str(context['tag']), names)}; one of {', '.join(names)}"
        )
    if kind in SECTION and models_in(annotation) and not takes_list(annotation):
        return as_section(key, annotation, given)
    if kind == "string_too_short" and given == "":
        return f"{key}: is empty"
    message = str(item["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    message = message[0].lower() + message[1:] if message else message
    if kind in LISTS:
        message = message.replace("tuple", "list").replace(" after validation", "")
    shown = "" if kind in ("value_error", "assertion_error") or isinstance(given, dict) else f", got {brief(given)}"
    shown += ungrouped(kind, given)
    listed = isinstance(given, str) and "," in given and len(given) <= LONGEST_SHOWN
    if listed and takes_list(annotation) and not models_in(annotation):
        shown += f"; a list is written [{given}]"
    return f"{key}: {message}{shown}" if key else f"{message}{shown}"


def _elsewhere(schema: type[Config], location: Sequence[str]) -> str:
    """Which other kinds of a block have the key at the end of ``location``, where the block has several kinds."""
    *_, kind, key = ("", "", *location)
    models = models_in(_walk(schema, location[:-2])[1])
    others = [kind_of(model) for model in models if key in model.model_fields]
    if len(models) < 2 or not others:
        return ""
    return f" of kind {kind!r}; {' and '.join(others)} ha{'s' if len(others) == 1 else 've'} it"


def _walk(schema: type[Config], location: Sequence[str]) -> tuple[list[str], Any]:
    """Follow an error's location through the schema: the key as the user types it, and the annotation there.

    pydantic adds the tag of a union to the location (``pretext.denoise.sigma``), which no user typed.
    """
    path: list[str] = []
    here: Any = schema
    for part in location:
        models = models_in(here)
        fields = models[0].model_fields if len(models) == 1 else {}
        members = {kind_of(model): model for model in models}
        if part in fields:
            path.append(part)
            here = fields[part].annotation
        elif part in members and (len(models) > 1 or "kind" in fields):
            here = members[part]
        else:
            path.append(part)  # a list index keeps the annotation of its list; an unknown key ends the walk
    return path, here
