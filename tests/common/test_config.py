"""Configs: overrides, round trips, and errors that name every problem at once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from common.config import Config, dump_config, load_config, validate
from common.errors import UserError
from common.settings import apply_overrides


class Noise(Config):
    kind: Literal["noise"] = "noise"
    sigma: float = Field(default=0.1, gt=0)


class Holes(Config):
    kind: Literal["holes"] = "holes"
    ratio: float = Field(default=0.6, gt=0, lt=1)
    size: int = 4


Damage = Annotated[Noise | Holes, Field(discriminator="kind")]


class Restore(Config):
    kind: Literal["restore"] = "restore"
    damage: Damage = Noise()


class Sort(Config):
    kind: Literal["sort"] = "sort"


class Data(Config):
    source: str = "shapes"
    limit: int | None = None


class Example(Config):
    steps: int = Field(gt=0)
    base_lr: float = 1e-3
    data: Data = Data()
    damage: Damage = Noise()
    several: tuple[Damage, ...] = ()
    sizes: tuple[Annotated[int, Field(gt=0)], ...] = Field(default=(1,), min_length=1)
    betas: tuple[float, float] = (0.9, 0.99)
    task: Annotated[Restore | Sort, Field(discriminator="kind")] = Sort()


class Block(Config):
    short: ClassVar[str] = "path"

    path: Path | None = None
    scratch: bool = False


class Start(Config):
    encoder: Block


class Types(Config):
    """One field of each type that settings have."""

    text: str = ""
    folder: Path = Path("x")
    maybe: str | None = None
    number: int = 0
    rate: float = 0.0
    flag: bool = False
    choice: Literal["auto", "none"] = "auto"
    layer: int | str = 0
    layers: tuple[Annotated[int | str, Field()], ...] = ()
    names: str | list[str] | None = None
    anything: dict[str, Any] = Field(default_factory=dict)
    damage: Damage = Noise()
    several: tuple[Damage, ...] = ()


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text("steps: 10\ndamage: {kind: holes, ratio: 0.5, size: 8}\n", encoding="utf-8")
    return path


def test_overrides_are_applied_and_scientific_notation_is_a_number(config_file: Path) -> None:
    config = load_config(Example, config_file, ["base_lr=1e-4", "data.source=folder:a=b", "data.limit=7"])
    assert (config.base_lr, config.data.source, config.data.limit) == (1e-4, "folder:a=b", 7)


def test_changing_a_kind_replaces_the_whole_block(config_file: Path) -> None:
    assert load_config(Example, config_file, ["damage.kind=noise"]).damage == Noise()


def test_keeping_a_kind_keeps_the_block(config_file: Path) -> None:
    assert load_config(Example, config_file, ["damage.kind=holes"]).damage == Holes(ratio=0.5, size=8)


def test_a_new_kind_keeps_its_own_overrides_in_any_order(config_file: Path) -> None:
    config = load_config(Example, config_file, ["damage.sigma=0.3", "damage.kind=noise"])
    assert config.damage == Noise(sigma=0.3)


@pytest.mark.parametrize("order", [1, -1], ids=["outer-first", "inner-first"])
def test_a_kind_within_a_new_kind_is_kept_in_any_order(config_file: Path, order: int) -> None:
    overrides = ["task.kind=restore", "task.damage.kind=holes", "task.damage.size=2"][::order]
    assert load_config(Example, config_file, overrides).task == Restore(damage=Holes(size=2))


def test_later_override_wins(config_file: Path) -> None:
    assert load_config(Example, config_file, ["steps=3", "steps=4"]).steps == 4


def test_dumped_config_reads_back_equal(tmp_path: Path, config_file: Path) -> None:
    config = load_config(Example, config_file, ["several=[{kind: noise},{kind: holes}]"])
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump_config(config), encoding="utf-8")
    assert load_config(Example, copy) == config


MISTAKES = [
    pytest.param({}, "steps: required, but not given", id="missing"),
    pytest.param({"steps": 1, "stepz": 2}, "stepz: unknown key; did you mean 'steps'?", id="unknown-key"),
    pytest.param(
        {"steps": 1, "data": {"sorce": "x"}},
        "data.sorce: unknown key; did you mean 'source'?",
        id="nested-key",
    ),
    pytest.param({"steps": 0}, "steps: input should be greater than 0, got 0", id="range"),
    pytest.param(
        {"steps": "many"},
        "steps: input should be a valid integer, unable to parse string as an integer, got 'many'",
        id="type",
    ),
    pytest.param(
        {"steps": 1, "damage": {"kind": "hole"}},
        "damage.kind: unknown kind 'hole'; did you mean 'holes'?; one of noise, holes",
        id="kind",
    ),
    pytest.param(
        {"steps": 1, "damage": {"size": 8}}, "damage.size: unknown key of kind 'noise'; holes has it", id="other-kind"
    ),
    pytest.param({"steps": 1, "several": [{}]}, "several.0.kind: required, one of noise, holes", id="no-kind"),
    pytest.param(
        {"steps": True},
        "steps: input should be a valid integer, unable to parse string as an integer, got 'true'",
        id="true-is-no-number",
    ),
    pytest.param(
        {"steps": 1, "base_lr": False},
        "base_lr: input should be a valid number, unable to parse string as a number, got 'false'",
        id="false-is-no-number",
    ),
    pytest.param(
        {"steps": 1, "sizes": [4, True]},
        "sizes.1: input should be a valid integer, unable to parse string as an integer, got 'true'",
        id="true-in-a-list",
    ),
    pytest.param({"steps": 1, "sizes": [0]}, "sizes.0: input should be greater than 0, got 0", id="only-item"),
    pytest.param({"steps": 1, "sizes": []}, "sizes: list should have at least 1 item, not 0, got []", id="no-item"),
    pytest.param({"steps": 1, "sizes": 0}, "sizes.0: input should be greater than 0, got 0", id="item-alone"),
    pytest.param(
        {"steps": 1, "sizes": "4,8"},
        "sizes.0: input should be a valid integer, unable to parse string as an integer, got '4,8'; a list is written "
        "[4,8]",
        id="list-without-brackets",
    ),
    pytest.param(
        {"steps": 1, "betas": "0.9,0.99"},
        "betas: input should be a valid list, got '0.9,0.99'; a list is written [0.9,0.99]",
        id="pair-without-brackets",
    ),
    pytest.param(
        {"steps": "4,8"},
        "steps: input should be a valid integer, unable to parse string as an integer, got '4,8'",
        id="no-list-is-expected",
    ),
    pytest.param({"steps": 1, "betas": 0.9}, "betas: input should be a valid list, got 0.9", id="no-list"),
    pytest.param(
        {"steps": 1, "several": {"kind": "holes", "x": 1}}, "several.0.x: unknown key", id="key-of-item-alone"
    ),
    pytest.param(
        {"steps": "9" * 5000},
        "steps: unable to parse input string as an integer, exceeded maximum size, got '" + "9" * 99 + "... (5,002 "
        "characters)",
        id="long-value",
    ),
    pytest.param(
        {"steps": 1, "damage": {"kind": "holes", "ratoi": 0.4}},
        "damage.ratoi: unknown key; did you mean 'ratio'?",
        id="key-in-union",
    ),
    pytest.param(
        {"steps": 1, "several": [{"kind": "noise", "sigma": -1.0}]},
        "several.0.sigma: input should be greater than 0, got -1.0",
        id="list-item",
    ),
]


@pytest.mark.parametrize(("values", "line"), MISTAKES)
def test_a_mistake_is_reported_in_one_plain_line(values: dict[str, object], line: str) -> None:
    with pytest.raises(UserError) as caught:
        validate(Example, values, "c.yaml")
    assert str(caught.value) == f"Found 1 error in c.yaml:\n  {line}"


def test_every_mistake_is_reported_at_once() -> None:
    with pytest.raises(UserError) as caught:
        validate(Example, {"steps": -1, "sed": 1, "damage": {"kind": "holes", "ratio": 2}}, "c.yaml")
    assert str(caught.value).splitlines()[0] == "Found 3 errors in c.yaml:"
    assert len(caught.value.problems) == 3


def test_missing_file_bad_yaml_and_bad_override_are_user_errors(tmp_path: Path, config_file: Path) -> None:
    with pytest.raises(UserError, match="config file not found"):
        load_config(Example, tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("steps: [1\n", encoding="utf-8")
    with pytest.raises(UserError, match="is not valid YAML"):
        load_config(Example, broken)
    with pytest.raises(UserError, match="an override is written key=value"):
        load_config(Example, config_file, ["steps"])


def test_a_file_that_is_not_text_or_may_not_be_read_is_a_user_error(
    tmp_path: Path, config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("steps: 1  # Schärfe\n".encode("latin-1"))
    with pytest.raises(UserError, match=rf"^{latin} is not UTF-8 text \(.*\); save it as UTF-8$"):
        load_config(Example, latin)

    def closed(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", closed)  # root may read any file
    with pytest.raises(UserError, match=f"^{config_file} cannot be read: Permission denied$"):
        load_config(Example, config_file)


def test_list_at_top_level_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    path.write_text("- 1\n", encoding="utf-8")
    with pytest.raises(UserError, match="at its top level"):
        load_config(Example, path)


@pytest.mark.parametrize(
    "overrides",
    [["encoder=runs/a", "encoder.scratch=true"], ["encoder.scratch=true", "encoder=runs/a"]],
    ids=["path-first", "path-last"],
)
@pytest.mark.parametrize("given_as", ["old", {"path": "old"}, {"path": None}, Path("old")], ids=str)
def test_a_block_may_be_named_by_its_path_alone(overrides: list[str], given_as: object) -> None:
    tree = apply_overrides(Start, {"encoder": given_as}, overrides)
    assert tree == {"encoder": {"path": "runs/a", "scratch": True}}


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
    ("damage={kind: holes, ratio: 5e-1}", {"damage": Holes(ratio=0.5)}),
    ("several=[{kind: noise}, {kind: holes, size: 2}]", {"several": (Noise(), Holes(size=2))}),
]  # fmt: skip


@pytest.mark.parametrize(("override", "expected"), READ_BY_TYPE, ids=[override for override, _ in READ_BY_TYPE])
def test_an_override_is_read_by_the_type_of_its_field(override: str, expected: dict[str, object]) -> None:
    assert load_config(Types, {}, [override]) == Types.model_validate(expected)


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
        with pytest.raises(UserError, match="number: input should be a valid integer"):
            load_config(Types, source, overrides)


def test_what_a_block_leaves_out_is_as_in_its_default() -> None:
    class Stage(Config):
        damage: Damage = Holes(ratio=0.1, size=2)
        data: Data = Data(limit=3)

    for settings, overrides in (
        ({"damage": {"size": 8}, "data": {"source": "a"}}, []),
        ({}, ["damage.size=8", "data.source=a"]),
    ):
        assert load_config(Stage, settings, overrides) == Stage(
            damage=Holes(ratio=0.1, size=8), data=Data(source="a", limit=3)
        )
    assert load_config(Stage, {}, ["damage.kind=noise"]).damage == Noise()
    assert load_config(Stage, {"damage": {"kind": "holes"}}).damage == Holes()  # a kind by name starts afresh


BROKEN_FILES = [
    pytest.param("steps: 1\nsteps: 2\n", "line 2, column 1: key 'steps' appears twice", id="twice"),
    pytest.param(
        "steps: &x [*x]\n", "it is nested too deeply; does an anchor (&name) hold itself (*name)?", id="endless"
    ),
    pytest.param(
        "steps: !!python/name:os.system\n",
        "line 1, column 8: could not determine a constructor for the tag 'tag:yaml.org,2002:python/name:os.system'",
        id="tag",
    ),
    pytest.param("base_lr: !!float fast\n", "could not convert string to float: 'fast'", id="wrong-tag"),
    pytest.param("steps: 1\0\n", "character 9: special characters are not allowed", id="control-character"),
    pytest.param(
        "steps: 1\n\tdata: a\n",
        "line 2, column 1: while scanning for the next token found character '\\t' that cannot start any token",
        id="tab",
    ),
    pytest.param(
        "steps: 1\n---\nsteps: 2\n",
        "line 2, column 1: expected a single document in the stream but found another document",
        id="two-documents",
    ),
]


@pytest.mark.parametrize(("text", "message"), BROKEN_FILES)
def test_a_broken_file_is_a_user_error(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_config(Example, path)
    assert str(caught.value) == f"{path} is not valid YAML: {message}"


def test_an_item_of_a_list_can_be_overridden() -> None:
    given = {"steps": 1, "several": [{"kind": "noise"}, {"kind": "holes"}]}
    config = load_config(Example, given, ["several.1.kind=noise", "several.0.sigma=0.5", "several.1.sigma=0.25"])
    assert config.several == (Noise(sigma=0.5), Noise(sigma=0.25))
    assert given["several"] == [{"kind": "noise"}, {"kind": "holes"}]  # the caller's own mapping stays as it is


BROKEN_OVERRIDES = [
    pytest.param("steps", "'steps': an override is written key=value", id="no-value"),
    pytest.param("=1", "'=1': an override is written key=value", id="no-key"),
    pytest.param("data..limit=1", "'data..limit=1': an override is written key=value", id="empty-part"),
    pytest.param("steps.x=1", "'steps.x=1': steps is 1, not a block", id="inside-a-number"),
    pytest.param("several.1.size=1", "'several.1.size=1': 1 is not an index of a list of 1", id="no-such-item"),
    pytest.param("several.x=1", "'several.x=1': x is not an index of a list of 1", id="no-index"),
    pytest.param("several=[1", "'several=[1': not a valid YAML list or mapping", id="broken-list"),
]


@pytest.mark.parametrize(("override", "line"), BROKEN_OVERRIDES)
def test_an_override_that_cannot_be_applied_is_a_user_error(override: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(Example, {"steps": 1, "several": [{"kind": "noise"}]}, [override])
    assert str(caught.value).startswith(line)


def test_all_overrides_that_cannot_be_applied_are_reported_at_once() -> None:
    with pytest.raises(UserError) as caught:
        load_config(Example, {"steps": 1}, ["steps.x=1", "steps.y=2"])
    assert len(caught.value.problems) == 2


class Images(Config):
    short: ClassVar[str] = "source"

    source: str = "shapes"
    size: int = 32


class Network(Block):
    name: str = "cnn"


class Short(Config):
    data: Images = Images()
    encoder: Network = Network()
    more: tuple[Images, ...] = ()


@pytest.mark.parametrize(
    ("given", "overrides", "data"),
    [
        ({}, ["data=my/pictures"], ("my/pictures", 32)),
        ({"data": {"size": 8}}, ["data=my/pictures"], ("my/pictures", 8)),
        ({"data": {"source": "a", "size": 8}}, ["data=2024"], ("2024", 8)),
        ({"data": "a"}, ["data.size=8"], ("a", 8)),
        ({"data": "a"}, ["data=b", "data.size=8"], ("b", 8)),
        ({}, ["data.size=8", "data=b"], ("b", 8)),
        ({"data": {"size": 8}}, ["data={source: b}"], ("b", 32)),
    ],
)
def test_a_text_for_a_block_is_its_most_important_key(
    given: dict[str, Any], overrides: list[str], data: tuple[str, int], tmp_path: Path
) -> None:
    (tmp_path / "a.yaml").write_text(json.dumps(given))
    for source in (given, tmp_path / "a.yaml"):
        config = load_config(Short, source, overrides)
        assert (config.data.source, config.data.size) == data


def test_a_path_replaces_a_block_that_names_none() -> None:
    """``encoder=PATH`` starts from the path, whatever network the recipe describes."""
    assert load_config(Short, {"encoder": {"name": "vit"}}, ["encoder=a"]).encoder == Network(path=Path("a"))
    kept = load_config(Short, {"encoder": {"name": "vit", "path": "b"}}, ["encoder=a"]).encoder
    assert kept == Network(path=Path("a"), name="vit")


def test_blocks_in_a_list_may_be_texts_too() -> None:
    assert load_config(Short, {}, ["more=[a, {size: 3}]"]).more == (Images(source="a"), Images(size=3))
    assert load_config(Short, {"more": ["a"]}).more == (Images(source="a"),)


def test_a_missing_setting_is_explained() -> None:
    class Stage(Config):
        encoder: Path
        """A finished run, or its encoder/ folder."""
        steps: int

    with pytest.raises(UserError) as error:
        load_config(Stage, {})
    assert error.value.problems == (
        "encoder: required, but not given: a finished run, or its encoder/ folder",
        "steps: required, but not given",
    )


def test_a_text_for_a_block_that_has_no_such_key_is_an_error() -> None:
    with pytest.raises(UserError, match="steps: input should be a valid integer"):
        load_config(Example, {"steps": "a"})
    with pytest.raises(UserError, match="data: input should be a valid dictionary or instance of Data"):
        load_config(Example, {"steps": 1, "data": "a"})


def test_a_kind_of_a_block_that_is_no_union_keeps_the_other_settings_of_the_block() -> None:
    class Search(Config):
        kind: Literal["logistic", "ridge"] = "logistic"
        layers: tuple[str, ...] = ("each",)

    class Stage(Config):
        probe: Search = Search()

    config = load_config(Stage, {"probe": {"kind": "logistic", "layers": ["all"]}}, ["probe.kind=ridge"])
    assert config.probe == Search(kind="ridge", layers=("all",))


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
