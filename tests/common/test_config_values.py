"""Values of a config: read by the type of their field, and as typed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config import Config, dump_config, load_config
from common.errors import UserError
from common.settings import apply_overrides
from tests.common.schemas import Example, Holes, Noise, Types


@given(st.floats(min_value=1e-8, max_value=1e8, allow_nan=False))
def test_any_float_survives_an_override(value: float) -> None:
    assert apply_overrides(Example, {"steps": 1}, [f"base_lr={value!r}"])["base_lr"] == value


AS_TYPED = [
    "folder:a=b", "folder:data/birds #2", "a: b", "a, b", "2024", "1e-3", "007", "2024-01-01", "12:30", "no", "true",
    "None", "~", "null", "${nope}", "${oc.env:HOME}", "$(x)", "{x}", "[old] pictures", "[2024]", "- a", "*x", "&x",
    "!x", "%d", "@x", "`x`", "a'b", 'a"b', " a ", "a\\nb", "ärger/雪", "<<", "=", "|", "> a", "?", "#", "x\ty",
]  # fmt: skip


@pytest.mark.parametrize("text", AS_TYPED)
def test_text_arrives_as_typed_from_a_command_a_mapping_a_file_and_a_dump(text: str, tmp_path: Path) -> None:
    expected = Types(text=text, folder=Path(text))
    by_override = load_config(Types, {}, [f"text={text}", f"folder={text}"])
    by_mapping = load_config(Types, {"text": text, "folder": Path(text)})
    (tmp_path / "dumped.yaml").write_text(dump_config(expected), encoding="utf-8")
    (tmp_path / "quoted.yaml").write_text(f"text: {json.dumps(text)}\nfolder: {json.dumps(text)}\n", encoding="utf-8")
    for config in (
        by_override,
        by_mapping,
        load_config(Types, expected),
        load_config(Types, tmp_path / "dumped.yaml"),
        load_config(Types, tmp_path / "quoted.yaml"),
    ):
        assert config == expected


READ_BY_TYPE = [
    ("number=3", {"number": 3}),
    ("number=010", {"number": 10}),
    ("number=-08", {"number": -8}),
    ("number=1_000", {"number": 1000}),
    ("rate=010", {"rate": 10.0}),
    ("layer=010", {"layer": 10}),
    ("layer=0x10", {"layer": "0x10"}),
    ("layers=last3", {"layers": ("last3",)}),
    ("layers=-1", {"layers": (-1,)}),
    ("several={kind: holes, size: 2}", {"several": (Holes(size=2),)}),
    ("damage.sigma=0.5", {"damage": Noise(sigma=0.5)}),
    ("anything.depth=010", {"anything": {"depth": 10}}),
    ("number= 3 ", {"number": 3}),
    ("rate=1e-3", {"rate": 1e-3}),
    ("rate=1_000.5", {"rate": 1000.5}),
    ("rate=3", {"rate": 3.0}),
    ("flag=yes", {"flag": True}),
    ("flag=off", {"flag": False}),
    ("flag=1", {"flag": True}),
    ("maybe=null", {"maybe": None}),
    ("maybe=", {"maybe": None}),
    ("maybe=nullify", {"maybe": "nullify"}),
    ("maybe='null'", {"maybe": "null"}),
    ('maybe="a #b"', {"maybe": "a #b"}),
    ("maybe=7", {"maybe": "7"}),
    ("layer=7", {"layer": 7}),
    ("layer=last7", {"layer": "last7"}),
    ("layers=[-1, last3, 2]", {"layers": (-1, "last3", 2)}),
    ("names=[a, 2024, no, null, 'x, y']", {"names": ["a", "2024", "no", "null", "x, y"]}),
    ("names=2024", {"names": "2024"}),
    ("names=[a", {"names": "[a"}),
    ("choice=none", {"choice": "none"}),
    ("anything={depth: 2, name: a, rate: 1e-3, flags: [true, null], when: 2024-01-01, at: 12:30}", {
        "anything": {"depth": 2, "name": "a", "rate": 1e-3, "flags": [True, None], "when": "2024-01-01", "at": "12:30"},
    }),
    ("anything.depth=2", {"anything": {"depth": 2}}),
    ("anything.name=a #b", {"anything": {"name": "a #b"}}),
    ("anything.sizes=[1, 2]", {"anything": {"sizes": [1, 2]}}),
    ("text='a'", {"text": "a"}),
    ("text=\"a\" #\"", {"text": "\"a\" #\""}),
    ("text='a' # and 'b'", {"text": "'a' # and 'b'"}),
    ("text=[a] #1", {"text": "[a] #1"}),
    ("damage={kind: holes, ratio: 5e-1}", {"damage": Holes(ratio=0.5)}),
    ("several=[{kind: noise}, {kind: holes, size: 2}]", {"several": (Noise(), Holes(size=2))}),
]  # fmt: skip


@pytest.mark.parametrize(("override", "expected"), READ_BY_TYPE, ids=[override for override, _ in READ_BY_TYPE])
def test_an_override_is_read_by_the_type_of_its_field(override: str, expected: dict[str, object]) -> None:
    assert load_config(Types, {}, [override]) == Types.model_validate(expected)


def test_a_list_on_the_command_line_has_no_comment() -> None:
    with pytest.raises(
        UserError, match="not a valid YAML list or mapping: line 1, column 14: something follows its end"
    ):
        load_config(Types, {}, ["damage={kind: noise} # c"])
    assert load_config(Types, {}, ["names=[a, b] # c"]).names == "[a, b] # c"  # text will do there
    assert load_config(Types, {}, ["names=[a, b] "]).names == ["a", "b"]


def test_unquoted_text_in_a_file_is_read_by_the_type_of_its_field(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("text: 2024\nfolder: 1e-3\nmaybe: no\nlayer: 7\nrate: 1e-3\nnames: [2024-01-01, 12:30, '${x}']\n")
    assert load_config(Types, path) == Types(
        text="2024", folder=Path("1e-3"), maybe="no", layer=7, rate=1e-3, names=["2024-01-01", "12:30", "${x}"]
    )


def test_anchors_and_merge_keys_of_a_file_are_followed(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("steps: 1\ndamage: &d {kind: holes, ratio: 0.5}\nseveral: [*d, {<<: *d, ratio: 0.25}]\n")
    assert load_config(Example, path).several == (Holes(ratio=0.5), Holes(ratio=0.25))


@pytest.mark.parametrize("text", ["010", "08", "0_8", "-012", "+7", "0"])
def test_integers_are_decimal_in_a_command_a_file_and_python(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"number: {text}\n")
    for config in (load_config(Types, {}, [f"number={text}"]), load_config(Types, path), Types(number=text)):
        assert config.number == int(text)


@pytest.mark.parametrize("text", ["0x10", "0o10", "0b10"])
def test_integers_of_another_base_are_refused_in_a_command_a_file_and_python(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"number: {text}\n")
    for source, overrides in (({}, [f"number={text}"]), (path, []), ({"number": text}, [])):
        with pytest.raises(UserError, match="number: input should be a whole number"):
            load_config(Types, source, overrides)


def test_values_are_typed_by_the_variant_that_the_keys_choose(tmp_path: Path) -> None:
    class Base(Config):
        @classmethod
        def variant(cls, values: Mapping[str, Any]) -> type[Base]:
            return Named if "name" in values else cls

    class Named(Base):
        name: str

    (tmp_path / "a.yaml").write_text("name: 007\n")
    assert load_config(Base, tmp_path / "a.yaml") == Named(name="007")
    assert load_config(Base, {}, ["name=no"]) == Named(name="no")
