"""Every shipped config is complete, valid, and named by the command in its header."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from common.config import Config, dump_config, load_config
from finetune.config import EmbedConfig, FinetuneConfig, ProbeConfig
from pretrain.config import GradientPretraining, PretrainConfig
from retouch import lecture

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
SCHEMAS: dict[str, type[Config]] = {"pretrain": PretrainConfig, "finetune": FinetuneConfig, "probe": ProbeConfig}
STAGES: dict[str, type[Config]] = {**SCHEMAS, "embed": EmbedConfig}
FILES = sorted(CONFIGS.rglob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_shipped_config_is_valid_and_survives_its_own_dump(path: Path, tmp_path: Path) -> None:
    schema = EmbedConfig if path.stem == "embed" else SCHEMAS[path.parent.name]
    config = load_config(schema, path)
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump_config(config), encoding="utf-8")
    assert load_config(schema, copy) == config


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_header_names_the_command(path: Path) -> None:
    header = "".join(line for line in path.read_text(encoding="utf-8").splitlines(True) if line.startswith("#"))
    assert f"configs/{path.parent.name}/{path.name}" in header


def commands(path: Path) -> list[list[str]]:
    """The ``retouch`` commands of a config's header, split as a shell would; lines that end in a backslash go on."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    text = "\n".join(line.removeprefix("#").strip() for line in lines).replace("\\\n", "")
    return [shlex.split(line) for line in text.splitlines() if line.startswith("retouch ")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_commands_of_the_header_are_accepted_as_typed(path: Path) -> None:
    assert commands(path)
    for _, stage, config, *overrides in commands(path):
        load_config(STAGES[stage], CONFIGS.parent / config, overrides)


def test_each_kind_is_shipped_for_shapes_and_for_cifar10() -> None:
    shipped = {path.relative_to(CONFIGS).as_posix() for path in FILES}
    kinds = ("denoise", "colorize", "mask", "mixed")
    assert {f"pretrain/{kind}{end}.yaml" for kind in kinds for end in ("", "_cifar10")} <= shipped
    assert {"pretrain/bottleneck.yaml", "pretrain/mask_imagenette.yaml", "probe/linear.yaml"} <= shipped
    assert {"finetune/full.yaml", "finetune/many_class.yaml"} <= shipped


def test_the_shipped_probe_is_that_of_the_defaults() -> None:
    """Fine-tuning compares with the defaults, and a probe by the recipe must give the same number."""
    shipped = load_config(ProbeConfig, CONFIGS / "probe" / "linear.yaml")
    defaults = ProbeConfig(out=shipped.out, encoder=shipped.encoder, data=shipped.data)
    assert shipped == defaults


def test_denoisers_that_are_looked_at_have_skips() -> None:
    config = load_config(PretrainConfig, CONFIGS / "pretrain" / "denoise.yaml")
    assert isinstance(config, GradientPretraining)
    assert config.decoder.kind == "unet"


def test_codes_that_are_compared_by_their_last_map_have_no_way_round_it() -> None:
    config = lecture._config(Path("out"), "denoise", *lecture.CODES["denoise"])
    assert isinstance(config, GradientPretraining)
    assert config.decoder.kind == "upsampler"


def test_the_linear_family_is_shipped() -> None:
    shipped = {path.relative_to(CONFIGS).as_posix() for path in FILES}
    names = (
        "sparse_coding", "sparse_coding_l0", "linear_sparse_autoencoder", "deep_sparse_autoencoder",
        "patch_dictionary", "patch_dictionary_best", "pca", "ica", "cca", "tca",
    )  # fmt: skip
    assert {f"pretrain/{name}.yaml" for name in names} <= shipped
    assert {"probe/patch_dictionary.yaml", "probe/patch_dictionary_best.yaml"} <= shipped
