"""Settings arrive as typed: YAML files, mappings and ``key.sub=value`` overrides become one tree of plain values.

A scalar is read by the type its field expects: ``2024``, ``no`` and ``a: b #c`` stay text where text is expected, and
``1e-3`` is a number where a number is. Nothing is interpolated: ``${x}`` is text everywhere.
"""

from __future__ import annotations

import re
import types
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import yaml
from pydantic import BaseModel

from common.errors import UserError, one_line
from common.files import refuse_stream, run_stage

Schema = type[BaseModel]
Tree = dict[str, Any]

TAG = "tag:yaml.org,2002:"
MOST_VALUES = 100_000  # in one file
INT = re.compile(r"[-+]?[0-9]+(?:_[0-9]+)*$")  # decimal: YAML 1.1 would read 010 as 8, and Python reads it as 10
FLOAT = re.compile(
    r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?"
    r"|\.(?:inf|Inf|INF))$|\.(?:nan|NaN|NAN)$"
)

# settings whose values are often paths, which may hold spaces
PATHS = (
    "data",
    "data.source",
    "data.train",
    "data.test",
    "encoder",
    "labels",
    "labels.test",
    "out",
    "query",
    "run",
    "to",
)

NOT_YAML = (yaml.YAMLError, RecursionError, ValueError)  # the last from a tag that does not fit, as in `!!float fast`

# a scalar of the left type keeps it where a field expects one of the types on the right
FITS: dict[type, tuple[type, ...]] = {
    type(None): (type(None),),
    bool: (bool,),
    int: (int, float, bool),
    float: (float, int),
}


class _Loader(yaml.SafeLoader):
    """YAML 1.1, but ``1e-3`` is a number and all integers are decimal, while dates and ``12:30`` are text."""

    built = 0  # values of the text, with each that an anchor repeats

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in pairs if tag.removeprefix(TAG) not in ("timestamp", "int", "float")]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class _Dumper(yaml.SafeDumper):
    """Quotes text that ``_Loader`` would read as a number."""


for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver(f"{TAG}int", INT, list("-+0123456789"))
    _class.add_implicit_resolver(f"{TAG}float", FLOAT, list("-+.0123456789"))


def _integer(loader: _Loader, node: yaml.ScalarNode) -> int | str:
    try:
        return int(node.value)
    except ValueError:  # more digits than Python reads: kept as text, which no field for numbers accepts
        return str(node.value)


_Loader.add_constructor(f"{TAG}int", _integer)


def read_yaml(schema: Schema, path: Path) -> Tree:
    """The settings in a YAML file, typed by the fields of ``schema`` but not validated.

    Raises:
        UserError: the file is missing or cannot be read, is not YAML, or is not a mapping.
    """
    refuse_stream(path)
    try:
        if not path.is_file():
            raise UserError(f"config file not found: {path}")
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({one_line(error)}); save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or one_line(error)}") from None
    try:
        tree = _parse(text, schema)
    except NOT_YAML as error:
        raise UserError(f"{path} is not valid YAML: {_why_not_yaml(error)}") from None
    if tree is None:  # an empty file
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"{path} must hold `key: value` lines at its top level")
    return tree


def write_yaml(tree: Mapping[str, Any]) -> str:
    """YAML text that ``read_yaml`` reads back to the same values."""
    return str(yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True))


def plain(values: Any) -> Any:
    """A copy of Python values in which mappings and pydantic models are dicts and tuples are lists."""
    if isinstance(values, BaseModel):
        return values.model_dump(mode="json")
    if isinstance(values, Mapping):
        return {str(key): plain(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [plain(value) for value in values]
    return values


def apply_overrides(schema: Schema, tree: Tree, overrides: Sequence[str]) -> Tree:
    """Apply ``key.sub=value`` overrides to ``tree`` in place, in order; returns it.

    A value is text, a number, ``null``, a YAML ``[list]`` or a YAML ``{mapping}``, as its field in ``schema`` expects.
    An override that changes a block's ``kind`` empties the block, so no key of the old kind survives.

    Raises:
        UserError: every override that has no ``key=``, or whose key lies inside a value that is not a block.
    """
    check_overrides(overrides)
    problems = []
    # `kind` goes first, outer before inner, whatever the order typed: it empties its block, and must not remove the
    # override of a sibling or of an inner kind.
    for text in sorted(overrides, key=_turn):
        key, _, value = text.partition("=")
        try:
            _apply(schema, tree, key.split("."), value)
        except (ValueError, IndexError) as error:
            problems.append(f"{text!r}: {one_line(error)}")
    if problems:
        raise UserError(*problems)
    return tree


def check_overrides(overrides: Sequence[str]) -> None:
    """Check that all are written ``key.sub=value``, which needs no schema.

    Raises:
        UserError: every one that is not; of an existing path, with the setting that may be meant.
    """
    before = ("", *overrides)
    bad = [
        (text, last)
        for text, last in zip(overrides, before, strict=False)
        if not all(text.partition("=")[0].split(".")) or "=" not in text
    ]
    if bad:
        raise UserError(*(_not_a_setting(text, last) for text, last in bad))


def _not_a_setting(text: str, last: str) -> str:
    """What is wrong with a word that is not ``key=value``; the ``last`` one may have been cut off by a space."""
    path = Path(text)
    if text and path.exists():
        key = "encoder" if run_stage(path) else "data"
        return f"{text!r} is a {'folder' if path.is_dir() else 'file'}; did you mean {key}={text}?"
    whole = f"{last} {text}"
    cut = text and "=" not in text and last.partition("=")[0] in PATHS
    quoted = f"; a value with spaces is quoted, as in {whole!r}" if cut else ""
    return f"{text!r}: an override is written key=value{quoted}"


def models_in(annotation: Any) -> list[Any]:
    """Every pydantic model named anywhere inside an annotation such as ``Annotated[A | B, ...] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    found: list[Any] = []
    for inner in get_args(annotation):
        found += models_in(inner)
    return found


def kind_of(model: Any) -> str:
    """The ``kind`` that selects ``model`` in a union."""
    field = model.model_fields.get("kind")
    return str(field.default) if field is not None else str(model.__name__)


def _turn(override: str) -> tuple[bool, int]:
    """Sort key for the order in which overrides are applied; equal ones keep the order typed."""
    key = override.partition("=")[0]
    return (False, key.count(".")) if key.endswith(".kind") else (True, 0)


def _apply(schema: Schema, tree: Tree, names: Sequence[str], text: str) -> None:
    *outer, leaf = names
    annotation: Any = schema
    block: Any = tree
    for depth, name in enumerate(outer, start=1):
        annotation = _child(annotation, name, block)
        inner = _get(block, name)
        if inner is None:
            inner = {}
        elif isinstance(inner, (str, Path)) and (short := _short(annotation)):
            inner = {short.name: inner}
        elif not isinstance(inner, (dict, list)):
            raise ValueError(f"{'.'.join(outer[:depth])} is {inner!r}, not a block")
        _set(block, name, inner)
        block = inner
    value = _read_value(text, _child(annotation, leaf, block))
    several = len(models_in(annotation)) > 1  # one class serves all kinds of other blocks, and its fields stay valid
    if leaf == "kind" and outer and several and isinstance(block, dict) and block.get("kind") != value:
        block.clear()
    old, short = _get(block, leaf), _short(_child(annotation, leaf, block))
    if isinstance(old, dict) and isinstance(value, str) and short and (short.name in old or short.default):
        old[short.name] = value  # the rest of the block stays
    else:
        _set(block, leaf, value)


class _Short(NamedTuple):
    """The key that a text in place of a whole block sets, such as ``encoder=runs/a`` for ``encoder.path=runs/a``."""

    name: str
    annotation: Any
    default: Any


def _short(annotation: Any) -> _Short | None:
    for model in models_in(annotation):
        if name := getattr(model, "short", ""):
            field = model.model_fields[name]
            return _Short(name, field.annotation, field.default)
    return None


def _get(block: Tree | list[Any], name: str) -> Any:
    if isinstance(block, dict):
        return block.get(name)
    if not name.isdecimal() or int(name) >= len(block):
        raise IndexError(f"{name} is not an index of a list of {len(block)}")
    return block[int(name)]


def _set(block: Tree | list[Any], name: str, value: Any) -> None:
    if isinstance(block, dict):
        block[name] = value
    else:
        block[int(name)] = value


def _read_value(text: str, annotation: Any) -> Any:
    """The value of an override, by the type its field expects."""
    expected = _expected(annotation)
    if text.strip()[:1] in ("[", "{") and _takes(expected, list, dict):
        try:
            return _parse(text, annotation, whole=True)
        except NOT_YAML as error:
            if not _takes_text(expected):
                raise ValueError(f"not a valid YAML list or mapping: {_why_not_yaml(error)}") from None
            return text
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        try:
            return _parse(text, str, whole=True)
        except yaml.YAMLError:
            return text
    return _typed(_scalar(text), text, expected)


def _parse(text: str, annotation: Any, *, whole: bool = False) -> Any:
    """YAML text as plain values, with each scalar read by the type expected there.

    Args:
        whole: refuse a comment after the value: what is typed as one setting has none.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if whole and node is not None and node.end_mark.index < len(text.rstrip()):
            raise yaml.MarkedYAMLError(problem="something follows its end", problem_mark=node.end_mark)
        return None if node is None else _build(loader, node, annotation)
    finally:
        loader.dispose()


def _why_not_yaml(error: Exception) -> str:
    """What is wrong and where, without the parser's name for the text."""
    if isinstance(error, RecursionError):
        return "it is nested too deeply; does an anchor (&name) hold itself (*name)?"
    if isinstance(error, yaml.reader.ReaderError):
        return f"character {error.position + 1}: {error.reason}"
    if not isinstance(error, yaml.MarkedYAMLError):
        return one_line(error)
    mark = error.problem_mark or error.context_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    return where + " ".join(filter(None, (error.context, error.problem)))


def _build(loader: _Loader, node: yaml.Node, annotation: Any) -> Any:
    loader.built += 1
    if loader.built > MOST_VALUES:  # a few lines with anchors may stand for billions
        raise yaml.YAMLError(f"it has more than {MOST_VALUES:,} values; each *name repeats what &name holds")
    if isinstance(node, yaml.SequenceNode):
        return [_build(loader, item, _items(annotation)) for item in node.value]
    if isinstance(node, yaml.MappingNode):
        names: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be a word", problem_mark=key.start_mark)
            name = str(key.value)
            if name in names and key.tag != f"{TAG}merge":
                raise yaml.MarkedYAMLError(problem=f"key {name!r} appears twice", problem_mark=key.start_mark)
            names.add(name)
        loader.flatten_mapping(node)
        pairs = {str(key.value): value for key, value in node.value}
        kind = {"kind": pairs["kind"].value} if "kind" in pairs else {}
        return {name: _build(loader, value, _child(annotation, name, kind)) for name, value in pairs.items()}
    value = loader.construct_object(node)
    if isinstance(node, yaml.ScalarNode) and node.style is None:
        return _typed(value, node.value, _expected(annotation))
    return value


def _scalar(text: str) -> Any:
    """The value of an unquoted YAML scalar: null, a boolean, a number, or else ``text``."""
    loader, word = _Loader(""), text.strip()
    tag = loader.resolve(yaml.ScalarNode, word, (True, False))  # type: ignore[no-untyped-call]
    if tag.removeprefix(TAG) not in ("null", "bool", "int", "float"):
        return text
    return loader.construct_object(yaml.ScalarNode(tag, word))


def _typed(value: Any, text: str, expected: Collection[Any]) -> Any:
    """``value``, unless the field accepts text and no value of this type: then ``text``."""
    return text if _takes_text(expected) and not _takes(expected, *FITS.get(type(value), ())) else value


def _child(annotation: Any, name: str, block: Any) -> Any:
    """The annotation of ``name`` in a block: that of the block's kind if known, else those of all possible kinds."""
    if isinstance(block, list):
        return _items(annotation)
    models = models_in(annotation)
    kind = block.get("kind")
    models = [model for model in models if kind_of(model) == kind] or models
    found = [model.model_fields[name].annotation for model in models if name in model.model_fields]
    return Union[tuple(found)] if found else Any  # noqa: UP007


def _items(annotation: Any) -> Any:
    """The annotation of a sequence's items, for any sequence type inside ``annotation``."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return Union[tuple(inner for inner in arguments if inner is not ...)]  # noqa: UP007
    members = arguments[:1] if origin is Annotated else arguments if origin in (Union, types.UnionType) else ()
    found = [item for item in map(_items, members) if item is not Any]
    return Union[tuple(found)] if found else Any  # noqa: UP007


def is_list(annotation: Any) -> bool:
    """Whether an annotation takes lists of any length, and nothing else but null."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return is_list(arguments[0])
    if origin in (Union, types.UnionType):
        return all(is_list(inner) for inner in arguments if inner is not type(None))
    return origin is list or (origin is tuple and arguments[-1] is ...)


def is_union(annotation: Any) -> bool:
    """Whether an annotation takes values of several types, none of which are blocks; null does not count."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return is_union(arguments[0])
    members = [inner for inner in arguments if inner is not type(None)]
    return origin in (Union, types.UnionType) and len(members) > 1 and not models_in(annotation)


def accepts(annotation: Any, kind: type) -> bool:
    """Whether an annotation takes values of a type."""
    return kind in _expected(annotation)


def takes_list(annotation: Any) -> bool:
    """Whether an annotation takes lists, perhaps of one length only, besides other values."""
    return _takes(_expected(annotation), list)


def counts(annotation: Any) -> bool:
    """Whether an annotation takes numbers, and no truth values."""
    expected = _expected(annotation)
    return _takes(expected, int, float) and not _takes(expected, bool)


def _expected(annotation: Any) -> set[Any]:
    """The types of value that an annotation accepts; ``list`` and the types of its items for any sequence."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _expected(arguments[0])
    if origin is Literal:
        return {type(value) for value in arguments}
    if origin in (Union, types.UnionType):
        return set().union(*map(_expected, arguments))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {dict}
    if isinstance(origin, type) and issubclass(origin, Collection):
        return {list}.union(*(_expected(inner) for inner in arguments if inner is not ...))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        short = _short(annotation)
        return {dict} if short is None else {dict} | _expected(short.annotation)
    return {annotation}


def _takes(expected: Collection[Any], *wanted: type) -> bool:
    return Any in expected or any(kind in expected for kind in wanted)


def _takes_text(expected: Collection[Any]) -> bool:
    return any(isinstance(kind, type) and issubclass(kind, (str, Path)) for kind in expected)
