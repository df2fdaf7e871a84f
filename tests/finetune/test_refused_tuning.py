"""Fine-tuning that is refused before anything is written, or trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from common.encoders import EncoderConfig
from common.errors import UserError
from finetune.full import finetune as run_stage
from tests.finetune.tuning import config, exported, finetune
from tests.toys import new_timm


def test_of_several_tasks_one_has_to_be_named(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        finetune(config(tmp_path / "run", encoder=exported(tmp_path / "encoder"), data={"train": "shapes"}))
    assert str(error.value) == (
        "shapes:train:20000 has the tasks shape, color, texture, but fine-tuning trains on one: set data.task"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("change", ["another shape", "missing"])
def test_best_weights_of_another_network_are_refused_when_the_run_is_resumed(tmp_path: Path, change: str) -> None:
    run = config(tmp_path / "run", encoder=exported(tmp_path / "encoder"), steps=4)
    finetune(run)
    checkpoint = max((run.out / "checkpoints").iterdir())
    if change == "missing":
        facts = json.loads((checkpoint / "state.json").read_text())
        facts["groups"].remove("best")
        (checkpoint / "state.json").write_text(json.dumps(facts))
    else:
        best = load_file(checkpoint / "best.safetensors")
        save_file(
            {name: tensor.repeat(2) if tensor.ndim == 1 else tensor for name, tensor in best.items()},
            checkpoint / "best.safetensors",
        )
    with pytest.raises(UserError, match=rf"checkpoint {checkpoint} cannot be resumed: its best weights "):
        run_stage(run.model_copy(update={"resume": True}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": {}}, "set encoder=PATH to an exported encoder, or set encoder.from_scratch=true"),
        ({"encoder": "e", "data": {"task": ["shape", "color"]}}, "fine-tuning trains on one task at a time"),
    ],
    ids=["no-start", "two-tasks"],
)
def test_contradictory_config_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **changes)


def test_problems_of_encoder_and_data_are_reported_together_and_nothing_is_written(tmp_path: Path) -> None:
    run = config(tmp_path / "run", encoder=tmp_path / "none", data={"train": "folder:nowhere"})
    with pytest.raises(UserError) as caught:
        finetune(run)
    assert len(caught.value.problems) == 2
    assert not (tmp_path / "run").exists()


def test_image_size_and_number_of_images_are_checked_before_anything_is_written(tmp_path: Path) -> None:
    start = exported(tmp_path / "encoder", EncoderConfig(name="linear", model_args={"code": 4}), image_size=8)
    run = config(
        tmp_path / "run",
        encoder=start,
        data={"train": "shapes:train:40", "test": "shapes:test:40", "task": "color", "limit": 2, "image_size": 16},
    )
    with pytest.raises(UserError) as caught:
        finetune(run)
    assert caught.value.problems == (
        "data.image_size=16: linear does not support this size: it encodes images of 8 px only, not 16x16; "
        "remove data.image_size",
        "task 'color': 2 training images in 8 classes are too few for a validation split; add images",
    )
    assert not (tmp_path / "run").exists()


def test_size_at_which_the_result_could_not_be_loaded_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    data = {"train": "shapes", "task": "color", "limit": 200, "test_limit": 80, "workers": 0, "image_size": 60}
    with pytest.raises(UserError, match="small_cnn cannot be used as an encoder at 60 px: it halves images 3 times"):
        finetune(config(tmp_path / "run", encoder=exported(tmp_path / "encoder"), data=data))
    assert not (tmp_path / "run").exists()


@new_timm
def test_encoder_that_takes_no_classifier_is_not_fine_tuned(tmp_path: Path) -> None:
    args = {"depth": 1, "embed_dim": 48, "num_heads": 2}
    start = exported(tmp_path / "encoder", EncoderConfig(name="timm/qwen3_vit_88m_enc", model_args=args), 32)
    with pytest.raises(UserError, match="takes no classifier in timm: use retouch probe, or another encoder"):
        run_stage(config(tmp_path / "run", encoder=start))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["patch_dictionary", "sparse_code", "kernel"])
def test_encoder_without_weights_that_learn_is_not_fine_tuned(name: str, tmp_path: Path) -> None:
    start = exported(tmp_path / "encoder", EncoderConfig(name=name))
    with pytest.raises(UserError, match=f"{name} has no weights that learn by gradient descent, .*: use retouch probe"):
        finetune(config(tmp_path / "run", encoder=start))
    assert not (tmp_path / "run").exists()
