"""Every setting that is a number is bounded, so that no typing error becomes a run of nothing; every path knows `~`."""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import pytest
from pydantic import TypeAdapter, ValidationError

import common
import finetune
import pretrain
import retouch
from common.config import Config, validate
from common.encoders.card import EncoderCard
from common.encoders.provenance import Provenance
from common.errors import UserError
from pretrain.gradient.kept import DecoderCard
from pretrain.results import CodeStorage, PretrainResults, PretrainSeeds
from pretrain.ruler.health import Health
from pretrain.ruler.measured import Measured
from pretrain.ruler.verdicts import Verdict
from retouch.listing.found import RunFacts

WRITTEN = (
    DecoderCard,
    EncoderCard,
    Provenance,
    RunFacts,
    CodeStorage,
    PretrainResults,
    PretrainSeeds,
    Health,
    Measured,
    Verdict,
)  # by a stage, never by a user

# Shares: the least positive number is as good as 0, which is what rounding makes of it.
SHARES = {"ratio", "validation", "test_fraction", "layer_decay", "shares"}


class Number(NamedTuple):
    """A setting that takes numbers, alone or in a list."""

    block: type[Config]
    key: str
    positive: bool  # 0 is refused

    @property
    def name(self) -> str:
        return f"{self.block.__name__}.{self.key}"


def _blocks(above: type[Config] = Config) -> Iterator[type[Config]]:
    for block in above.__subclasses__():
        yield block
        yield from _blocks(block)


def _nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """The numbers in a JSON schema."""
    if isinstance(schema, dict):
        if schema.get("type") in ("integer", "number") and "const" not in schema:
            yield schema
        for key, inner in schema.items():
            if key != "default":
                yield from _nodes(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from _nodes(inner)


def _numbers() -> list[Number]:
    for package in (common, pretrain, finetune, retouch):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    found = []
    for block in dict.fromkeys(_blocks()):
        if block.__module__.partition(".")[0] in ("common", "pretrain", "finetune", "retouch") and block not in WRITTEN:
            for key, schema in block.model_json_schema(mode="validation").get("properties", {}).items():
                if nodes := list(_nodes(schema)):
                    least = nodes[0].get("minimum", nodes[0].get("exclusiveMinimum", 0))
                    whole = all(node["type"] == "integer" for node in nodes)
                    positive = not whole and (least > 0 or "exclusiveMinimum" in nodes[0])
                    found.append(Number(block, key, positive and key not in SHARES))
    return found


NUMBERS = _numbers()


def _refuses(number: Number, value: Any) -> bool:
    try:
        validate(number.block, {number.key: value})
    except UserError as error:
        return any(line.strip().startswith((f"{number.key}:", f"{number.key}.")) for line in error.lines)
    return False


def _taken(values: Sequence[Any]) -> list[str]:
    """The settings that take one of these values, alone or in a list."""
    return [
        f"{number.name}={value}"
        for number in NUMBERS
        for one in values
        for value in (one, [one], [one, one], [0, one], [one, 0])
        if not _refuses(number, value)
    ]


def test_settings_of_all_stages_are_looked_at() -> None:
    names = {number.name for number in NUMBERS}
    assert {"OptimConfig.clip", "Gaussian.sigma", "Nearest.k", "Tca.mu", "MLPArgs.hidden", "LabelData.limit"} <= names


def test_every_number_is_bounded_on_both_sides() -> None:
    assert _taken([10**30, -(10**30)]) == []


def test_every_number_is_finite() -> None:
    assert _taken([math.nan, math.inf, -math.inf]) == []


def test_what_must_be_positive_is_large_enough_to_divide_by() -> None:
    taken = {number.name for number in NUMBERS if number.positive and not _refuses(number, 1e-300)}
    assert taken == set()


def _paths() -> Iterator[tuple[str, Any]]:
    """The settings that are paths, and what checks their values."""
    for block in dict.fromkeys(_blocks()):
        if block.__module__.partition(".")[0] in ("common", "pretrain", "finetune", "retouch") and block not in WRITTEN:
            for key, schema in block.model_json_schema(mode="validation").get("properties", {}).items():
                if "'format': 'path'" in str(schema):
                    field = block.model_fields[key]
                    checked: Any = Annotated[field.annotation, None, *field.metadata]
                    yield f"{block.__name__}.{key}", TypeAdapter(checked)


def test_the_home_folder_may_be_written_short_in_every_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    found = {}
    for name, adapter in _paths():
        try:
            found[name] = adapter.validate_python("~/a")
        except ValidationError:
            [found[name]] = adapter.validate_python(["~/a"])
    assert {"PretrainConfig.out", "ProbeConfig.encoder", "PredictConfig.run", "ExportConfig.report"} <= found.keys()
    assert {name: path for name, path in found.items() if path != Path("/home/me/a")} == {}
