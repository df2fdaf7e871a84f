"""Mistakes in a config: every problem at once, each in one plain line."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field

from common.config import Config, load_config, validate
from common.errors import UserError
from tests.common.schemas import Example

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
        "steps: input should be a whole number, got 'many'",
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
        "steps: input should be a whole number, got 'true'",
        id="true-is-no-number",
    ),
    pytest.param(
        {"steps": 1, "base_lr": False},
        "base_lr: input should be a number, got 'false'",
        id="false-is-no-number",
    ),
    pytest.param(
        {"steps": 1, "sizes": [4, True]},
        "sizes.1: input should be a whole number, got 'true'",
        id="true-in-a-list",
    ),
    pytest.param({"steps": 1, "sizes": [0]}, "sizes.0: input should be greater than 0, got 0", id="only-item"),
    pytest.param({"steps": 1, "sizes": []}, "sizes: list should have at least 1 item, not 0, got []", id="no-item"),
    pytest.param({"steps": 1, "sizes": 0}, "sizes.0: input should be greater than 0, got 0", id="item-alone"),
    pytest.param(
        {"steps": 1, "sizes": "4,8"},
        "sizes.0: input should be a whole number, got '4,8'; a list is written [4,8]",
        id="list-without-brackets",
    ),
    pytest.param(
        {"steps": 1, "betas": "0.9,0.99"},
        "betas: input should be a valid list, got '0.9,0.99'; a list is written [0.9,0.99]",
        id="pair-without-brackets",
    ),
    pytest.param(
        {"steps": "4,8"},
        "steps: input should be a whole number, got '4,8'",
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


class Images(Config):
    source: str = Field("", min_length=1)
    image_size: int = 32


class Tracking(Config):
    project: str = "retouch"
    mode: Literal["online", "disabled"] = "online"


class Nested(Config):
    """Keys of two levels, as a stage has them."""

    image: int = 0
    batch_size: int = 16
    base_lr: float = 0.1
    epochs: int = 1
    out: Path = Path("runs")
    data: Images = Images(source="x")
    wandb: Tracking = Tracking()


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["image_size=64"], "image_size: unknown key; did you mean 'data.image_size'?"),
        (["size=64"], "size: unknown key; did you mean 'data.image_size'?"),
        (["dataset.image_size=64"], "dataset: unknown key; did you mean 'data.image_size'?"),
        (["data.batch_size=2"], "data.batch_size: unknown key; did you mean 'batch_size'?"),
        (["lr=1"], "lr: unknown key; did you mean 'base_lr'?"),
        (["bs=1"], "bs: unknown key; did you mean 'batch_size'?"),
        (["epoch=1"], "epoch: unknown key; did you mean 'epochs'?"),
        (["imagesize=64"], "imagesize: unknown key; did you mean 'data.image_size'?"),
        (["data.soruce=a"], "data.soruce: unknown key; did you mean 'source'?"),
        (["device=cpu"], "device: unknown key; a GPU is used if there is one (CUDA_VISIBLE_DEVICES= before the command "
         "hides it)"),
        (["zebra=1"], "zebra: unknown key"),
        (["wandb=disabled"], "wandb: has settings of its own; write wandb.mode=disabled"),
        (["wandb=off"], "wandb: has settings of its own; write wandb.mode=disabled"),
        (["wandb=5"], "wandb: has settings of its own, such as wandb.project, wandb.mode; got 5"),
        (["batch_size=1,000"], "batch_size: input should be a whole number, got '1,000'; write 1000"),
        (["base_lr=1,000.5"], "base_lr: input should be a number, got '1,000.5'; write 1000.5"),
        (["out="], "out: is empty"),
        (["data.source="], "data.source: is empty"),
    ],
)  # fmt: skip
def test_what_to_type_instead_is_named_whatever_its_level(overrides: list[str], line: str) -> None:
    with pytest.raises(UserError) as caught:
        load_config(Nested, {}, overrides)
    assert caught.value.problems == (line,)


def test_a_value_that_a_space_has_cut_off_is_quoted(config_file: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_config(Example, config_file, ["data=my/messy", "slides"])
    assert caught.value.problems == (
        "'slides': an override is written key=value; a value with spaces is quoted, as in 'data=my/messy slides'",
    )


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


BROKEN_FILES = [
    pytest.param("steps: 1\nsteps: 2\n", "line 2, column 1: key 'steps' appears twice", id="twice"),
    pytest.param("? [a, b]\n: 1\n", "line 1, column 3: a key must be a word", id="key of several words"),
    pytest.param(
        "".join(
            [
                "a: &a [x, x, x, x, x, x, x, x, x, x]\n",
                *(f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True)),
            ]
        ),
        "it has more than 100,000 values; each *name repeats what &name holds",
        id="billions",
    ),
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
    with pytest.raises(UserError, match="steps: input should be a whole number"):
        load_config(Example, {"steps": "a"})
    with pytest.raises(UserError, match="data: has settings of its own"):
        load_config(Example, {"steps": 1, "data": "a"})
