"""``stop.at``, ``stop.after``: a run pauses where the user wants, exports, and goes on as if it had never paused."""

from __future__ import annotations

from pathlib import Path

import pytest

import retouch
from common.config import validate
from common.data import build_source, load_images
from common.errors import UserError
from pretrain.config import PretrainConfig
from pretrain.run import pretrain
from tests.recipe import IMAGES, SIDE, STEPS, last_checkpoint, logged, pretraining

WEIGHTS = "encoder/model.safetensors"
LINES = {"log_every": 2, "panels_every": 4}  # a pause after three steps is between two lines and two panels


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    assert retouch.pretrain(pretraining(out, **LINES)).training.step == STEPS
    return out


def test_paused_run_goes_on_bit_for_bit_like_one_never_paused(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    for at in (3, 5):
        paused = retouch.pretrain(pretraining(out, resume=at != 3, stop={"at": at}, **LINES))
        assert paused.encoder is not None
        assert (paused.training.step, paused.training.steps, paused.training.finished) == (at, STEPS, True)
        assert last_checkpoint(out).name == f"step-{at:07d}"
        assert (out / WEIGHTS).read_bytes() != (whole / WEIGHTS).read_bytes()
    retouch.pretrain(pretraining(out, resume=True, **LINES))
    assert logged(out) == logged(whole)
    assert (out / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()


def test_run_that_has_taken_its_seconds_pauses_and_goes_on_bit_for_bit(
    whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "retouch")
    out = tmp_path / "run"
    for resume in (False, True):  # and stays where it is, as long as it may take no longer
        paused = retouch.pretrain(pretraining(out, resume=resume, stop={"after": 1e-6}, **LINES))
        assert (paused.training.step, paused.training.steps, paused.training.finished) == (1, STEPS, True)
    again = f"run the same command with out={out} resume=true"
    said = f"paused at step 1 of {STEPS} (stop.after=1e-06); to go on, {again}, and a larger stop.after or none"
    assert said in caplog.text
    paused = retouch.pretrain(pretraining(out, resume=True, stop={"at": 3}, **LINES))
    assert f"paused at step 3 of {STEPS} (stop.at=3); to go on, {again}, and a larger stop.at or none" in caplog.text
    half = paused.training.seconds / 2  # those of all processes count
    assert retouch.pretrain(pretraining(out, resume=True, stop={"after": half}, **LINES)).training.step == 3
    retouch.pretrain(pretraining(out, resume=True, stop={"after": 1e6}, **LINES))
    assert logged(out) == logged(whole)
    assert (out / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()


def test_pause_after_the_last_step_changes_nothing(whole: Path, tmp_path: Path) -> None:
    retouch.pretrain(pretraining(tmp_path / "run", stop={"at": 2 * STEPS}, **LINES))
    assert logged(tmp_path / "run") == logged(whole)
    assert (tmp_path / "run" / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()


def test_paused_run_that_is_resumed_with_the_same_pause_stays_where_it_is(tmp_path: Path) -> None:
    first = retouch.pretrain(pretraining(tmp_path / "run", stop={"at": 3}))
    again = retouch.pretrain(pretraining(tmp_path / "run", stop={"at": 3}, resume=True))
    assert again.training.step == 3
    assert again.sha256 == first.sha256


def test_images_that_are_decoded_already_give_the_same_run(whole: Path, tmp_path: Path) -> None:
    images = load_images(build_source("shapes"), SIDE, limit=IMAGES)
    other = {"source": "shapes", "image_size": SIDE, "limit": 8, "workers": 0}  # which would give another run
    values = pretraining(tmp_path / "run", **LINES, data=other)
    pretrain(validate(PretrainConfig, values), images)
    assert (tmp_path / "run" / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()


def test_too_few_decoded_images_are_refused(tmp_path: Path) -> None:
    values = {"out": tmp_path / "run", "fit": {"kind": "ica"}, "data": {"image_size": SIDE}}
    with pytest.raises(UserError, match="images"):
        pretrain(validate(PretrainConfig, values), load_images(build_source("shapes"), SIDE, limit=2))
    assert not (tmp_path / "run").exists()
