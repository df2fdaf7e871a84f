"""Shipped recipes are found by their names, and what a user gives to a stage is understood by one rule."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import UserError
from common.recipes import FOLDER, Recipe, find_recipe, full_names, listing, offered, recipes, stage_config, understand
from finetune.config import EmbedConfig, ProbeConfig
from pretrain.config import GradientPretraining, PretrainConfig


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder far from the recipes."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_recipe_is_found_by_its_name_with_or_without_its_stage() -> None:
    assert find_recipe("denoise").path == FOLDER / "pretrain" / "denoise.yaml"
    assert find_recipe("probe/linear").path == FOLDER / "probe" / "linear.yaml"
    assert find_recipe("patch_dictionary", "probe").path == FOLDER / "probe" / "patch_dictionary.yaml"


def test_a_name_of_two_stages_needs_its_stage() -> None:
    with pytest.raises(UserError) as error:
        find_recipe("patch_dictionary")
    assert str(error.value) == (
        "recipe 'patch_dictionary' is ambiguous: choose pretrain/patch_dictionary or probe/patch_dictionary"
    )
    names = full_names(recipes())
    assert len(set(names)) == len(names)
    assert {"denoise", "linear", "pretrain/patch_dictionary", "probe/patch_dictionary"} <= set(names)
    assert all(find_recipe(name) in recipes() for name in names)


@pytest.mark.parametrize(
    ("stage", "name", "message"),
    [
        ("probe", "linea", "no recipe 'linea'; did you mean linear?; those of retouch probe are cifar10, "),
        ("pretrain", "linear", "no recipe 'linear'; it is a recipe of retouch probe; those of retouch pretrain are "),
        ("pretrain", "zzz", "no recipe 'zzz'; those of retouch pretrain are bottleneck, cca, "),
        ("pretrain", "mine", "no recipe 'mine'; for the file here, write mine.yaml; those of "),
        ("pretrain", "plain", "no recipe 'plain'; for the file here, write ./plain; those of "),
        ("pretrain", None, "name a recipe, such as: retouch pretrain colorize data=my/pictures; "),
        ("pretrain", "data=photos", "name a recipe, such as: retouch pretrain colorize data=photos; `ret"),
        ("pretrain", "photos", "photos is a folder, not a recipe; did you mean: retouch pretrain colorize data="),
        ("probe", "photos", "photos is a folder, not a recipe; did you mean: retouch probe data=photos?"),
        ("pretrain", "configs/pretrain/mask.yaml", "config file not found: configs/pretrain/mask.yaml; the recipe is "
         "called mask"),
        ("pretrain", "./photos", "photos is a folder, not a recipe; did you mean: retouch pretrain colorize data="),
        ("probe", "runs/a", "runs/a is a folder, not a recipe; did you mean: retouch probe encoder=runs/a?"),
    ],
)  # fmt: skip
def test_one_message_says_what_may_have_been_meant(elsewhere: Path, stage: str, name: str, message: str) -> None:
    for folder in ("photos", "runs/a"):
        (elsewhere / folder).mkdir(parents=True)
    (elsewhere / "runs" / "a" / "config.yaml").write_text("# retouch pretrain\n")
    for file in ("mine.yaml", "plain"):
        (elsewhere / file).touch()
    with pytest.raises(UserError) as error:
        understand(stage, name)
    assert str(error.value).startswith(message)
    assert len(error.value.problems) == 1


def test_a_name_is_a_recipe_and_what_looks_like_a_path_is_a_file(elsewhere: Path) -> None:
    (elsewhere / "denoise").touch()
    (elsewhere / "denoise.yaml").write_text("steps: 7\n")
    assert understand("pretrain", "denoise").source == FOLDER / "pretrain" / "denoise.yaml"
    for path in ("denoise.yaml", "./denoise", str(elsewhere / "denoise.yaml"), Path("denoise")):
        assert understand("pretrain", path).source == Path(path)
    assert stage_config(PretrainConfig, "denoise.yaml").steps == 7
    assert stage_config(PretrainConfig, "denoise").steps == 1500


def test_settings_alone_mean_the_standard_recipe_of_the_stage(elsewhere: Path) -> None:
    given = understand("probe", "encoder=runs/a", ["seed=1"])
    assert (given.name, given.overrides) == ("linear", ("encoder=runs/a", "seed=1"))
    assert [understand(stage, None).name for stage in ("probe", "finetune", "embed")] == ["linear", "full", "embed"]
    config = stage_config(EmbedConfig, "encoder=runs/a", ["data=photos"])
    assert (config.encoder, config.data.source) == (Path("runs/a"), "photos")


def test_runs_are_named_after_what_they_come_from() -> None:
    assert stage_config(PretrainConfig, "denoise").out == Path("runs/denoise-{n}")
    assert stage_config(ProbeConfig, None, ["encoder=a"]).out == Path("runs/linear-{n}")
    assert stage_config(PretrainConfig, {"steps": 1}).out == Path("runs/pretrain-{n}")
    assert stage_config(PretrainConfig, {"steps": 1, "out": "here"}).out == Path("here")
    assert stage_config(PretrainConfig, "denoise", ["out=here"]).out == Path("here")


def test_a_file_of_ones_own_may_name_its_run_folder(elsewhere: Path) -> None:
    (elsewhere / "mine.yaml").write_text("steps: 1\n")
    assert stage_config(PretrainConfig, "mine.yaml").out == Path("runs/mine-{n}")
    (elsewhere / "mine.yaml").write_text("steps: 1\nout: there\n")
    assert stage_config(PretrainConfig, "mine.yaml").out == Path("there")


def test_errors_name_the_recipe() -> None:
    with pytest.raises(UserError) as error:
        stage_config(PretrainConfig, "denoise", ["stepz=3"])
    assert str(error.value) == "Found 1 error in recipe denoise:\n  stepz: unknown key; did you mean 'steps'?"


def test_a_config_is_taken_as_it_is() -> None:
    config = stage_config(PretrainConfig, "denoise", ["out=here", "seed=3"])
    assert isinstance(config, GradientPretraining)
    assert stage_config(PretrainConfig, config) == config


def test_a_listing_has_titles_and_numbers_in_100_columns(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "# What it is.\n#\n#   command\n#\n# Expect: many\n#   words.\n# More.\n\nsteps: 1\n"
    )
    one = Recipe("pretrain", "a", tmp_path / "a.yaml")
    assert (one.title, one.expect) == ("What it is.", "many words. More.")
    assert listing({"stage/a": one}, 100, expect=True).splitlines() == [
        "  stage/a  What it is.",
        "           Expect: many words. More.",
    ]
    lines = listing(dict(zip(full_names(recipes()), recipes(), strict=True)), 100, expect=True)
    assert max(map(len, lines.splitlines())) <= 100


def test_parts_of_the_lecture_are_found_by_name_and_not_offered() -> None:
    lessons = [one for one in recipes() if one not in offered()]
    assert {(one.stage, one.name) for one in lessons} >= {("pretrain", "pca_lecture"), ("probe", "lecture")}
    assert all("lecture" in one.name for one in lessons)
    assert all(find_recipe(one.name, one.stage) == one for one in lessons)
