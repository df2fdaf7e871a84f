"""Configs: overrides, kinds, blocks and round trips."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from common.config import Config, dump_config, load_config
from common.settings import apply_overrides
from tests.common.schemas import Block, Damage, Data, Example, Holes, Noise, Restore, Start


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


@pytest.mark.parametrize(
    "overrides",
    [["encoder=runs/a", "encoder.scratch=true"], ["encoder.scratch=true", "encoder=runs/a"]],
    ids=["path-first", "path-last"],
)
@pytest.mark.parametrize("given_as", ["old", {"path": "old"}, {"path": None}, Path("old")], ids=str)
def test_a_block_may_be_named_by_its_path_alone(overrides: list[str], given_as: object) -> None:
    tree = apply_overrides(Start, {"encoder": given_as}, overrides)
    assert tree == {"encoder": {"path": "runs/a", "scratch": True}}


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


def test_an_item_of_a_list_can_be_overridden() -> None:
    given = {"steps": 1, "several": [{"kind": "noise"}, {"kind": "holes"}]}
    config = load_config(Example, given, ["several.1.kind=noise", "several.0.sigma=0.5", "several.1.sigma=0.25"])
    assert config.several == (Noise(sigma=0.5), Noise(sigma=0.25))
    assert given["several"] == [{"kind": "noise"}, {"kind": "holes"}]  # the caller's own mapping stays as it is


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


def test_a_kind_of_a_block_that_is_no_union_keeps_the_other_settings_of_the_block() -> None:
    class Search(Config):
        kind: Literal["logistic", "ridge"] = "logistic"
        layers: tuple[str, ...] = ("each",)

    class Stage(Config):
        probe: Search = Search()

    config = load_config(Stage, {"probe": {"kind": "logistic", "layers": ["all"]}}, ["probe.kind=ridge"])
    assert config.probe == Search(kind="ridge", layers=("all",))
