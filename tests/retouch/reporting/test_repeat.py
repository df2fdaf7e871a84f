"""How to repeat a run: the command that the report gives, and that it works."""

from __future__ import annotations

from pathlib import Path

from common.config import dump_config
from common.files import write_text
from common.recipes import stage_config
from pretrain.config import PretrainConfig
from retouch.reporting.parts import repeat_command
from retouch.reporting.reading import read_facts
from tests.retouch.reporting.runs import write_pretraining


def test_a_run_is_repeated_in_another_folder(tmp_path: Path) -> None:
    folder = write_pretraining(tmp_path / "denoise")
    [origin] = read_facts([folder]).origins
    assert repeat_command(origin) == f"retouch repeat {folder}"


def test_the_settings_of_a_run_are_a_recipe_that_gives_the_same_run(tmp_path: Path) -> None:
    config = stage_config(PretrainConfig, "denoise_demo", [f"out={tmp_path}/mine", "resume=true", "base_lr=1e-3"])
    write_text(tmp_path / "mine" / "config.yaml", f"# retouch pretrain\n{dump_config(config)}")
    again = stage_config(PretrainConfig, str(tmp_path / "mine" / "config.yaml"), ["out=again", "resume=false"])
    assert again == config.model_copy(update={"out": Path("again"), "resume": False})
