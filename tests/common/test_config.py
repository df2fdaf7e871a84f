"""Configs: overrides, round trips, and errors that name every problem at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from pydantic import Field

from common.config import Config, apply_overrides, dump_config, load_config, validate
from common.errors import UserError


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
    task: Annotated[Restore | Sort, Field(discriminator="kind")] = Sort()


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
    pytest.param({"steps": 1, "damage": {"sigma": 1}}, "damage.kind: required, one of noise, holes", id="no-kind"),
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
def test_a_mistake_is_told_in_one_plain_line(values: dict[str, object], line: str) -> None:
    with pytest.raises(UserError) as caught:
        validate(Example, values, "c.yaml")
    assert str(caught.value) == f"Found 1 error in c.yaml:\n  {line}"


def test_every_mistake_is_told_at_once() -> None:
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


def test_a_file_that_is_no_text_or_may_not_be_read_is_a_user_error(
    tmp_path: Path, config_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("steps: 1  # Schärfe\n".encode("latin-1"))
    with pytest.raises(UserError, match=rf"^{latin} is not UTF-8 text \(.*\); save it as UTF-8$"):
        load_config(Example, latin)

    def closed(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(OmegaConf, "load", closed)
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
@pytest.mark.parametrize("given_as", ["old", {"path": "old"}, {"path": None}], ids=str)
def test_a_block_may_be_named_by_its_path_alone(overrides: list[str], given_as: object) -> None:
    tree = apply_overrides(OmegaConf.create({"encoder": given_as}), overrides)
    assert tree.encoder == {"path": "runs/a", "scratch": True}


@given(st.floats(min_value=1e-8, max_value=1e8, allow_nan=False))
def test_any_float_survives_an_override(value: float) -> None:
    tree = OmegaConf.create({"steps": 1})
    assert apply_overrides(tree, [f"base_lr={value!r}"]).base_lr == value
