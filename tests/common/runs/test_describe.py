"""What a user reads of the settings of a stage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import Field

from common.config import Config, read_settings
from common.recipes import recipes
from common.runs.describe import describe, settings_of
from finetune.config import EmbedConfig, FinetuneConfig, ProbeConfig
from pretrain.config import GradientPretraining, PretrainConfig
from retouch.studies.config import StudyConfig

SCHEMAS: dict[str, Any] = {
    "pretrain": PretrainConfig,
    "finetune": FinetuneConfig,
    "probe": ProbeConfig,
    "embed": EmbedConfig,
    "study": StudyConfig,
}


class Oil(Config):
    """Slow, but ``rich``. It smells.

    And more of it.
    """

    kind: Literal["oil"] = "oil"
    layers: int = 3
    """Layers of paint."""


class Chalk(Config):
    """Fast."""

    kind: Literal["chalk"] = "chalk"
    white: bool = True
    """Whether it is white, which is
    what most have."""


class Canvas(Config):
    """What is painted on."""

    short: ClassVar[str] = "path"
    path: Path | None = None
    """Where it is."""
    size: tuple[int, int] = (3, 4)
    """In metres."""


class Picture(Config):
    title: str
    """Its title."""
    price: float | None = Field(default=1e-3, gt=0)
    """In millions."""
    paint: Annotated[Oil | Chalk, Field(discriminator="kind")] = Oil(layers=5)
    canvas: Canvas = Canvas()
    frame: Canvas | None = None
    """What is around it."""
    spots: tuple[Chalk, ...] = (Chalk(white=False),)
    """More on it."""


def shown(tree: dict[str, Any]) -> str:
    return describe(settings_of(Picture, tree, {"price": 2.5}), 80)


def test_every_setting_has_a_line_with_its_value_what_it_means_and_what_it_takes() -> None:
    assert (
        shown({"title": "Waves", "paint": {"kind": "chalk"}, "canvas": "wall"})
        == """\
* title=Waves                           Its title. (text)
  price=2.5                             In millions. (number or null)
  frame=null                            What is around it. (mapping or null)
  spots=[{kind: chalk, white: false}]   More on it. (list)

* paint.kind=chalk                      Fast. (oil, chalk)
  paint.white=true                      Whether it is white, which is what most
                                        have. (true or false)

* canvas.path=wall                      Where it is. (path or null)
  canvas.size=[3, 4]                    In metres. (list)"""
    )


def test_images_come_first() -> None:
    schema: Any = GradientPretraining
    keys = [line[2:].partition("=")[0] for line in describe(settings_of(schema, {}, {}), 100).splitlines()]
    assert keys[0] == "data.source"
    assert "steps" in keys


def test_a_block_has_the_values_of_its_own_default() -> None:
    assert "paint.layers=5 " in shown({})
    assert "paint.layers=3 " in shown({"paint": {"kind": "oil"}})  # as validation gives it
    assert "  paint.kind=oil                        Slow, but rich. It smells. (oil, chalk)" in shown({})
    assert "  title=?       " in shown({})


@pytest.mark.parametrize("recipe", recipes(), ids=lambda one: f"{one.stage}-{one.name}")
def test_every_setting_of_every_recipe_is_explained_in_100_columns(recipe: Any) -> None:
    schema = SCHEMAS[recipe.stage]
    settings = settings_of(schema, read_settings(schema, recipe.path), {})
    assert [one.key for one in settings if not one.text or not one.takes] == []
    assert len({one.key for one in settings}) == len(settings)
    assert max(map(len, describe(settings, 100).splitlines())) <= 100


def test_what_is_shown_is_what_a_run_has() -> None:
    """Values of all settings are those of the validated config."""
    for recipe in recipes("pretrain"):
        schema = SCHEMAS[recipe.stage]
        tree = read_settings(schema, recipe.path)
        config = schema.variant(tree).model_validate({"out": "here", **tree})
        for one in settings_of(schema, tree, {"out": Path("here")}):
            value: Any = config
            for name in one.key.split("."):
                value = getattr(value, name)
            if (isinstance(value, (int, float, str, bool)) or value is None) and one.key != "epochs":  # 1 unless set
                assert one.value == value, one.key
