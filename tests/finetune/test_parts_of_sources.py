"""Images without a test set of their own: encoders name the part that they learned from, and it can be opened again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import retouch
from common.config import load_config
from common.data import build_source, load_images, split_source
from common.data.build import reopened
from common.encoders.load import read_encoder_card
from common.encoders.provenance import Provenance
from common.errors import UserError
from pretrain.config import PretrainConfig
from pretrain.run import pretrain
from tests.finetune.pictures_of_classes import probed, write

QUICK = ("seed=0", "data.workers=0", "precision=float32", "wandb.mode=disabled", "batch_size=8", "steps=1")
TINY = "encoder.model_args={width: 4, depth: 1}"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty different pictures of two classes, and an encoder that was fine-tuned on four fifths of them."""
    folder = tmp_path_factory.mktemp("home")
    write(folder / "pictures", range(40))
    finetune(folder / "pictures", folder / "tuned")
    return folder


def finetune(pictures: Path, out: Path, *more: str) -> None:
    kept = ("compare.linear_probe=false", "compare.from_scratch=false", "base_lr=0.01")
    start = ("encoder.from_scratch=true", TINY, "data.image_size=16")
    retouch.finetune({}, f"out={out}", f"data.train={pictures}", *start, *QUICK, *kept, *more)


def known(folder: Path) -> Provenance:
    return read_encoder_card(folder).provenance


def in_pretraining(out: Path, encoder: Path, pictures: Path, seed: int = 0) -> tuple[int, int | None, str]:
    """Test images that pretraining has seen, the images that were compared, and why others were not."""
    found = probed(out, encoder, pictures.parent, seed, train=str(pictures), test=None).results[0].data
    seen = found.in_pretraining
    counts = (0, 0) if seen is None else (seen.test_images, seen.compared)
    return *counts, (found.not_compared or {}).get("in_pretraining", "")


def test_an_encoder_names_its_images_and_the_part_of_them_apart(home: Path) -> None:
    pictures = home / "pictures"
    train, _ = split_source(build_source(str(pictures)), fraction=0.2, seed=0)
    for folder in ("encoder", "classifier"):
        provenance = known(home / "tuned" / folder)
        assert provenance.source == f"folder:{pictures}"
        assert f"on folder:{pictures} (80% for training, seed 0)" in provenance.text
        again = reopened(provenance.source, provenance.part)
        assert again is not None
        assert (again.spec, again.fingerprint) == (train.spec, train.fingerprint)


def test_a_probe_compares_its_test_images_with_the_part_that_was_learned_from(home: Path, tmp_path: Path) -> None:
    pictures, encoder = home / "pictures", home / "tuned"
    assert in_pretraining(tmp_path / "same", encoder, pictures) == (0, 32, "")
    whole = build_source(str(pictures))
    [(train, _), (_, test)] = [split_source(whole, fraction=0.2, seed=seed) for seed in (0, 1)]
    both = int(torch.isin(test.rows, train.rows).sum())
    assert 0 < both < len(test)
    assert in_pretraining(tmp_path / "other", encoder, pictures, seed=1) == (both, 32, "")


def test_an_export_is_checked_on_the_part_that_was_learned_from(home: Path, tmp_path: Path) -> None:
    for output in ("features", "classifier"):
        check = retouch.export(
            home / "tuned", f"to={tmp_path / output}", "format=hub", f"output={output}", "check=64"
        ).check
        assert (check.images, check.real) == (32, True)


def test_images_that_have_changed_since_are_no_longer_taken_for_those_of_training(home: Path, tmp_path: Path) -> None:
    write(tmp_path / "pictures", range(40))
    finetune(tmp_path / "pictures", tmp_path / "tuned")
    write(tmp_path / "pictures", range(40, 50))
    provenance = known(tmp_path / "tuned")
    with pytest.raises(
        UserError, match=r"has other images or labels than when it was split \(80% for training, seed 0\)"
    ):
        reopened(provenance.source, provenance.part)
    *counts, why = in_pretraining(tmp_path / "probe", tmp_path / "tuned", tmp_path / "pictures")
    assert counts == [0, 0]
    assert "other images or labels than when it was split" in why


def test_columns_that_the_user_named_are_named_again(tmp_path: Path) -> None:
    write(tmp_path / "pictures", range(20))
    rows = [f"pictures/c{seed % 2}/{seed}.png,pictures/c0/0.png,{'ab'[seed % 2]},{seed % 3}" for seed in range(20)]
    table = tmp_path / "table.csv"
    table.write_text("\n".join(["where,thumbnail,what,other", *rows]))
    finetune(table, tmp_path / "tuned", "data.image=where", "data.label=what")
    provenance = known(tmp_path / "tuned")
    again = reopened(provenance.source, provenance.part)
    assert again is not None
    assert len(again) == 16
    assert again.where(3) != again.where(4)


def test_pretraining_on_a_part_names_it_as_fine_tuning_does(home: Path, tmp_path: Path) -> None:
    train, _ = split_source(build_source(str(home / "pictures")), fraction=0.2, seed=0)
    images = load_images(train, 16)
    settings = (f"data.source={train.spec}", f"out={tmp_path / 'run'}", TINY, "data.image_size=16", *QUICK)
    pretrain(load_config(PretrainConfig, {"pretext": {"kind": "denoise"}}, settings), images)  # as a study does
    provenance, tuned = known(tmp_path / "run"), known(home / "tuned")
    assert (provenance.source, provenance.part) == (tuned.source, tuned.part)
    assert provenance.part is not None


def test_all_images_have_no_part(tmp_path: Path) -> None:
    write(tmp_path / "pictures", range(40))
    write(tmp_path / "test", range(40, 60))
    finetune(tmp_path / "pictures", tmp_path / "tuned", f"data.test={tmp_path / 'test'}")
    provenance = known(tmp_path / "tuned")
    assert provenance.source == f"folder:{tmp_path / 'pictures'}"
    assert "part" not in provenance.model_fields_set
