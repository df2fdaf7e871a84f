"""Every shipped recipe is valid and short, says what it is, how it is called and what to expect."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from common.config import dump_config, load_config, read_settings
from common.recipes import STANDARD, Recipe, header, recipes, stage_config
from common.runs.describe import settings_of
from common.settings import plain
from finetune.config import EmbedConfig, FinetuneConfig, ProbeConfig
from pretrain.config import GradientPretraining, PretrainConfig
from retouch import lecture
from retouch.studies.config import StudyConfig

ROOT = Path(__file__).resolve().parents[1]
SCHEMAS: dict[str, Any] = {
    "pretrain": PretrainConfig, "finetune": FinetuneConfig, "probe": ProbeConfig, "embed": EmbedConfig,
    "study": StudyConfig,
}  # fmt: skip

CLASSES = {schema.__name__ for schema in SCHEMAS.values()} | {"GradientPretraining", "LinearPretraining"}

every = pytest.mark.parametrize("recipe", recipes(), ids=lambda one: f"{one.stage}-{one.name}")


def needed(recipe: Recipe) -> list[str]:
    """The settings that a recipe leaves to the user."""
    if recipe.stage == "study":
        return ["labels=my/labeled"]
    return ["encoder=runs/mine"] if recipe.stage in ("probe", "embed") or recipe.name == "full" else []


@every
def test_it_is_valid_and_survives_its_own_dump(recipe: Recipe, tmp_path: Path) -> None:
    schema = SCHEMAS[recipe.stage]
    config = stage_config(schema, recipe.name, needed(recipe))
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump_config(config), encoding="utf-8")
    assert load_config(schema, copy) == config


@every
def test_it_says_in_one_line_what_it_is_and_then_what_to_expect(recipe: Recipe) -> None:
    lines = header(recipe.text)
    assert re.fullmatch(r"[A-Z].{10,72}\.", lines[0])
    assert lines[1] == ""
    assert re.search("[0-9]", recipe.expect)
    assert recipe.expect.endswith((".", ".)"))


@every
def test_it_leaves_to_the_user_what_is_the_users(recipe: Recipe) -> None:
    """Where a run is written and which encoder is read."""
    given = read_settings(SCHEMAS[recipe.stage], recipe.path)
    assert not given.keys() & {"out", "seed", "resume", "overwrite", "wandb"}
    assert "path" not in given.get("encoder", {})


@every
def test_it_repeats_no_default(recipe: Recipe) -> None:
    """But for tags of a kind, and for the images that its numbers were measured on."""
    schema = SCHEMAS[recipe.stage]
    given = read_settings(schema, recipe.path)
    defaults = {one.key: one.value for one in settings_of(schema, kinds_of(given), {})}
    exempt = {"data.source", "data.train"}
    assert not [
        one.key
        for one in settings_of(schema, given, {})
        if one.given and one.key not in exempt and not one.key.endswith("kind")
        if plain(one.value) == plain(defaults.get(one.key, ...))
    ]


def kinds_of(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The tags alone: they decide which defaults there are."""
    return {
        key: kinds_of(value) if isinstance(value, dict) else value
        for key, value in tree.items()
        if key == "kind" or (isinstance(value, dict) and kinds_of(value))
    }


def commands(text: str) -> list[list[str]]:
    """The ``retouch`` commands in a text, split as a shell would; lines that end in a backslash go on."""
    lines = (line.removeprefix("#").strip() for line in text.splitlines())
    return [
        shlex.split(line) for line in "\n".join(lines).replace("\\\n", "").splitlines() if line.startswith("retouch ")
    ]


@every
def test_its_commands_are_accepted_as_typed(recipe: Recipe) -> None:
    found = commands("\n".join(header(recipe.text)))
    called = [[stage, name if "=" not in name else STANDARD[stage]] for _, stage, name, *_ in found]
    assert [recipe.stage, recipe.name] in called
    for _, stage, name, *overrides in found:
        stage_config(SCHEMAS[stage], name, overrides)


def test_each_kind_is_shipped_for_shapes_and_for_cifar10() -> None:
    shipped = {f"{one.stage}/{one.name}" for one in recipes()}
    kinds = ("denoise", "colorize", "mask", "mixed")
    assert {f"pretrain/{kind}{end}" for kind in kinds for end in ("", "_cifar10")} <= shipped
    assert {"pretrain/bottleneck", "pretrain/mask_imagenette", "finetune/many_class"} <= shipped
    assert {f"{stage}/{name}" for stage, name in STANDARD.items()} | {"probe/masks"} <= shipped


def test_the_shipped_probe_is_that_of_the_defaults() -> None:
    """Fine-tuning compares with the defaults, and a probe by the recipe must give the same number."""
    shipped = stage_config(ProbeConfig, "linear", ["encoder=runs/mine"])
    defaults = ProbeConfig(out=shipped.out, encoder=shipped.encoder, data=shipped.data)
    assert shipped == defaults


def test_denoisers_that_are_looked_at_have_skips() -> None:
    config = stage_config(PretrainConfig, "denoise")
    assert isinstance(config, GradientPretraining)
    assert config.decoder.kind == "unet"


def test_codes_that_are_compared_by_their_last_map_have_no_way_round_it() -> None:
    config = stage_config(PretrainConfig, "denoise_lecture")
    assert isinstance(config, GradientPretraining)
    assert config.decoder.kind == "upsampler"


def test_the_linear_family_is_shipped() -> None:
    shipped = {f"{one.stage}/{one.name}" for one in recipes()}
    names = (
        "sparse_coding", "sparse_coding_l0", "linear_sparse_autoencoder", "deep_sparse_autoencoder",
        "patch_dictionary", "patch_dictionary_best", "pca", "ica", "cca", "tca",
    )  # fmt: skip
    assert {f"pretrain/{name}" for name in names} <= shipped
    assert {"probe/patch_dictionary", "probe/patch_dictionary_best"} <= shipped


def configs_made(tree: ast.AST) -> Iterator[str]:
    """How a file makes the settings of stages: the names of the functions that it calls with, or on, their classes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if CLASSES & set(map(ast.unparse, node.args)):
                yield ast.unparse(node.func)
            if CLASSES & set(ast.unparse(node.func).split(".")):
                yield ast.unparse(node.func)


def settings_typed(tree: ast.AST) -> set[str]:
    """The keys, or blocks, of all ``key=value`` that a file has in its text."""
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return {found[1] for text in texts if (found := re.match(r"([a-z_]+)(?:\.[a-z_.]+)?=", text))}


@pytest.mark.parametrize(
    "path", ["retouch/demo.py", "retouch/lecture.py", "benchmarks/shapes.py", "benchmarks/cifar10.py"]
)
def test_demo_lecture_and_benchmarks_start_from_shipped_recipes(path: str) -> None:
    assert set(configs_made(ast.parse((ROOT / path).read_text(encoding="utf-8")))) == {"stage_config"}


@pytest.mark.parametrize("path", ["retouch/demo.py", "retouch/lecture.py"])
def test_demo_and_lecture_change_no_more_of_a_recipe_than_belongs_to_a_run(path: str) -> None:
    """Where it is written, which encoder is probed, and next to which baselines."""
    typed = settings_typed(ast.parse((ROOT / path).read_text(encoding="utf-8")))
    assert typed == {"out", "overwrite", "wandb", "encoder", "baselines"}


def test_every_run_of_the_lecture_has_a_recipe() -> None:
    shipped = {one.name for one in recipes("pretrain") if one.name.endswith("_lecture")}
    assert shipped == {f"{name}_lecture" for name in (*lecture.ATOMS, *lecture.CODES)}
