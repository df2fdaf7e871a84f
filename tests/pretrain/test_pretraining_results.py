"""Results of pretraining are their dump, and are read back; those of other stages are named."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.decomposition import FastICA

from common.augment import WHOLE
from common.data.originals import Originals, Sizes
from common.errors import UserError
from common.machine.distributed import World
from common.solvers import fista
from finetune.results import read_results as read_transfer
from pretrain.in_memory import fit
from pretrain.linear import PatchDictionaryFit, SparseCoding
from pretrain.linear.ica import Ica
from pretrain.linear.sparse_coding import SparseCodingLearner
from pretrain.results import read_results
from pretrain.run import pretrain
from tests.common.data.samples import picture
from tests.pretrain.toys import SIDE, images_of, settings

CPU = torch.device("cpu")


def test_results_are_read_back_as_the_stage_returned_them(tmp_path: Path) -> None:
    found = pretrain(settings(tmp_path / "run", "pca")).results
    assert found is not None
    assert read_results(tmp_path / "run") == read_results(tmp_path / "run" / "results.json") == found
    with pytest.raises(UserError, match=r"was written by retouch pretrain; give the results\.json of a finished"):
        read_transfer(tmp_path / "run")


def test_a_model_card_is_exported_with_the_encoder(tmp_path: Path) -> None:
    for number in range(24):
        path = tmp_path / "pictures" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        picture(number, 20 + number, 16).save(path)
    (tmp_path / "pictures" / "broken.png").write_bytes(b"no image")
    data = {"source": str(tmp_path / "pictures"), "image_size": SIDE, "workers": 0}
    found = pretrain(settings(tmp_path / "run", "pca", data=data))
    assert found.results is not None
    assert found.results.originals == Originals(
        unreadable=1, sizes=Sizes(images=24, smallest=(20, 16), median=(32, 16), largest=(43, 16))
    )
    said = (tmp_path / "run" / "encoder" / "README.md").read_text(encoding="utf-8")
    assert f"- 24 images of {tmp_path}/pictures, without labels." in said
    assert "- Unreadable images that were left out: 1." in said
    assert "- Sizes of 24 of them, in px: smallest 20 × 16, median 32 × 16, largest 43 × 16." in said
    assert "- Method: pca, seed 0;" in said
    assert "No labels were used" in said
    assert "How well it restores" not in said  # PCA restores nothing


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "ica", "components": 6},
        {"kind": "patch_dictionary", "learn": "ica", "network": {"atoms": 16, "patch": 4, "mirror": False}},
    ],
    ids=["ica", "patches"],
)
def test_ica_that_did_not_converge_is_named_in_the_log_and_in_the_results(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sklearn.decomposition.FastICA", one_step_of_ica)
    with caplog.at_level(logging.WARNING, logger="retouch"):
        results = pretrain(settings(tmp_path / "run", "ica", fit=changes)).results
    assert results is not None
    assert "without converging to a tolerance of 0.0001" in results.notes[0]
    assert read_results(tmp_path / "run").notes == results.notes
    assert [message for message in caplog.messages if "converging" in message] == list(results.notes)


def one_step_of_ica(**settings: Any) -> FastICA:
    return FastICA(**settings | {"max_iter": 1})


def test_ica_in_memory_warns_too(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="retouch"):
        fit(Ica(components=6, max_steps=1, tolerance=1e-12), images_of("ica"))
    assert "ICA stopped after 1 steps" in caplog.text


@pytest.mark.parametrize("penalty", ["l1", "l0", "atoms"])
def test_codes_that_their_steps_were_too_few_for_are_counted(penalty: Any) -> None:
    learner = SparseCoding(atoms=24, penalty=penalty, strength=0.1).build(SIDE, WHOLE, World(0, 1, CPU), 0)
    assert isinstance(learner, SparseCodingLearner)
    images = images_of("sparse_coding")
    learner.initialize(images)
    assert learner.notes(images) == []
    learner.encoder.args = learner.encoder.args.model_copy(update={"steps": 1})
    notes = learner.notes(images)
    assert len(notes) == (0 if penalty == "atoms" else 1)
    assert all("of the codes did not converge in 1 steps" in note for note in notes)


def test_codes_of_patches_that_did_not_converge_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    network = {"atoms": 16, "patch": 4, "code": "lasso", "l1": 0.5}
    method = PatchDictionaryFit.model_validate({"learn": "random", "network": network})
    learner = method.build(SIDE, WHOLE, World(0, 1, CPU), 0)
    images = images_of("patch_dictionary")
    learner.initialize(images)
    assert learner.notes(images) == []
    monkeypatch.setattr("pretrain.linear.patch_dictionary.fista", lambda x, W, l1: fista(x, W, l1, steps=1))
    assert "of the codes did not converge" in learner.notes(images)[0]
