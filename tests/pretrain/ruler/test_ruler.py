"""The ruler in a run: what it measures, logs and says, and how a flat run ends."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from kornia.color import rgb_to_lab
from torch import Tensor

import retouch
from common.config import validate
from common.data import Images, build_source, load_images
from common.data.patches import PatchesSource
from common.encoders.base import Encoder
from common.engine.schedule import seed_step
from common.errors import UserError
from common.machine.distributed import World
from common.pixels import to_float
from pretrain.config import GradientPretraining
from pretrain.gradient.example import Example
from pretrain.gradient.method import AutoencoderLearner
from pretrain.gradient.pretexts import Colorize, Mask
from pretrain.results import read_results
from pretrain.ruler.budget import affordable
from pretrain.ruler.restorers import psnr
from pretrain.ruler.ruler import Ruler
from pretrain.ruler.twin import untrained
from pretrain.ruler.verdicts import Losses
from pretrain.sample import sample
from tests.recipe import Killed, kill_at, last_checkpoint, pretraining
from tests.toys import RandomSource, noise_images

HERE = World(0, 1, torch.device("cpu"))
PLENTY = 1 << 20  # images learned from between two panels, so that all images are measured on
VIT: dict[str, Any] = {  # hidden patches are dropped
    "encoder": {
        "name": "timm/vit_tiny_patch16_224",
        "model_args": {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 1, "num_heads": 2},
    },
    "decoder": {"kind": "transformer", "width": 32, "depth": 1},
    "pretext": {"kind": "mask", "ratio": 0.75},
}
LONG = {"steps": 40, "panels_every": 2, "checkpoint": {"every": 2}}


def learner(tmp_path: Path, **changes: Any) -> AutoencoderLearner:
    config = validate(GradientPretraining, pretraining(tmp_path / "run", **changes))
    built = config.method.build(config.data.image_size, config.augment, HERE, config.seed)
    built.attach(load_images(build_source("shapes"), config.data.image_size, limit=40))
    built.start()
    built.model.eval()
    return built


def test_measurement_is_that_of_the_held_out_images_worked_out_by_hand(tmp_path: Path) -> None:
    built = learner(tmp_path)
    ruler = Ruler(built, PLENTY)
    found = ruler.result(0)
    assert built.held is not None
    images = to_float(built.held.rows(torch.arange(64)))
    seed_step(3, 0)
    levels, idle, losses = [], [], []
    with torch.no_grad():
        for part in images.split(32):
            example = built.objective.pretext.corrupt(part, built.encoder)
            restored = built.objective.predict(example)[0]
            losses.append((restored - part).square().mean())
            levels.append(psnr(restored.clamp(0, 1), part))
            idle.append(psnr(example.input.clamp(0, 1), part))
    assert (found.images, found.held_out) == (64, True)
    assert found.psnr == pytest.approx(torch.cat(levels).mean().item(), abs=1e-3)
    assert found.restorers["doing nothing"] == pytest.approx(torch.cat(idle).mean().item(), abs=1e-3)
    assert found.held_out_loss == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)
    assert list(found.restorers)[1:] == ["the mean image", "a Gaussian filter", "a Wiener filter", "non-local means"]
    # nothing is learned yet: training images are no easier
    assert found.training_loss == pytest.approx(found.held_out_loss, rel=0.2)
    assert found.training_loss != found.held_out_loss
    assert found.held_out_loss is not None
    ruler.curve.add(1, found.held_out_loss / 2)
    assert [one.kind for one in ruler.result(2).verdicts] == ["diverging"]


@pytest.mark.parametrize("kind", ["denoise", "mask", "colorize"])
def test_loss_of_each_image_is_that_of_a_batch_of_it_alone_and_their_mean_that_of_all(
    tmp_path: Path, kind: str
) -> None:
    pretext = {"kind": kind, "bins": 8} if kind == "colorize" else {"kind": kind}
    objective = learner(tmp_path, pretext=pretext, penalty={"l1": 0.01}, decoder={"kind": "linear"}).objective
    images = to_float(noise_images(6, 16).rows(torch.arange(6)))
    trial = objective.trial(objective.damage(images), pictured=False)
    assert trial.restored is None
    assert trial.losses.shape == (6,)
    with torch.no_grad():
        whole = objective.losses(trial.example, *objective.predict(trial.example))
        third = Example._make(part if part is None else part[2:3] for part in trial.example)
        alone = objective.losses(third, *objective.predict(third))
    torch.testing.assert_close(trial.losses.mean(), torch.stack(list(whole.values())).sum())
    torch.testing.assert_close(trial.losses[2], torch.stack(list(alone.values())).sum())
    assert trial.losses.std() > 0


def test_images_are_damaged_alike_with_and_without_the_network_and_restored_where_shown(tmp_path: Path) -> None:
    built = learner(tmp_path)
    chunks = to_float(noise_images(6, 16).rows(torch.arange(6))).split(2)
    damaged = list(built.damaged(chunks))
    trials = list(built.trials(chunks, shown=3))
    assert [trial.restored is not None for trial in trials] == [True, True, False]
    for example, trial in zip(damaged, trials, strict=True):
        assert torch.equal(example.input, trial.example.input)
    assert not torch.equal(damaged[0].input - chunks[0], damaged[1].input - chunks[1])


def test_the_network_is_measured_in_the_precision_that_it_learns_in(tmp_path: Path) -> None:
    built = learner(tmp_path, precision="bfloat16")
    images = to_float(noise_images(6, 16).rows(torch.arange(6)))
    (trial,) = built.trials([images], shown=0)
    exact = built.objective.trial(trial.example, pictured=False).losses
    with torch.autocast("cpu", torch.bfloat16):
        rounded = built.objective.trial(trial.example, pictured=False).losses
    assert torch.equal(trial.losses, rounded)
    assert not torch.equal(trial.losses, exact)


@pytest.mark.parametrize(("panels_every", "images"), [(6, 96), (1000, 128)])
def test_fewer_images_are_measured_on_where_fewer_are_learned_from(
    panels_every: int, images: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pretrain.ruler.budget.LEARNED", 1)
    monkeypatch.setattr("pretrain.ruler.watch.LEAST", 1)
    data = {"source": "shapes", "image_size": 16, "limit": 400, "workers": 0}
    settings = {"panels_every": panels_every, "held_out": 0.5, "data": data, "watch": "shapes"}
    with caplog.at_level(logging.INFO, logger="retouch"):
        run = retouch.pretrain(pretraining(tmp_path / "run", **settings))
    assert run.results is not None
    assert run.results.ruler is not None
    assert run.results.ruler.images == images
    assert f"step 8: watch on {images} labeled training images" in caplog.text


def test_how_many_images_a_measurement_may_take() -> None:
    assert affordable(12_800, least=64, most=2048) == 100
    assert affordable(12_800, least=250, most=1000) == 250
    assert affordable(1 << 20, least=64, most=2048) == 2048


def test_untrained_twin_has_the_statistics_of_the_images_and_other_weights(tmp_path: Path) -> None:
    encoder = learner(tmp_path).encoder
    images = to_float(noise_images(32, 16).rows(torch.arange(32)))
    before = torch.get_rng_state()
    twin = untrained(encoder, images)
    assert torch.equal(torch.get_rng_state(), before)
    assert not twin.training
    trained, other = encoder.state_dict(), twin.state_dict()
    assert trained.keys() == other.keys()
    assert not torch.equal(trained["blocks.0.0.weight"], other["blocks.0.0.weight"])
    first = twin.get_submodule("blocks.0.0")(twin.prepare(images))
    torch.testing.assert_close(other["blocks.0.1.running_mean"], first.mean((0, 2, 3)))


def test_trivial_restorers_get_the_help_that_the_network_gets(encoder_for: Any, photographs: Tensor) -> None:
    torch.manual_seed(0)
    mask, colorize = Mask(), Colorize()
    encoder: Encoder = encoder_for(mask, "cnn")
    example = mask.corrupt(photographs, encoder)
    idle = mask.aided(example.seen, example, encoder)
    patch = (slice(None), slice(None), slice(4, 8), slice(8, 12))
    torch.testing.assert_close(idle[patch].mean((1, 2, 3)), photographs[patch].mean((1, 2, 3)))
    plain = Mask(normalize_patches=False)
    assert torch.equal(plain.aided(example.seen, plain.corrupt(photographs, encoder), encoder), example.seen)

    example = colorize.corrupt(photographs, encoder)
    gray = rgb_to_lab(colorize.aided(example.seen, example, encoder))
    torch.testing.assert_close(gray[:, 0], rgb_to_lab(photographs)[:, 0], atol=0.1, rtol=0)
    assert gray[:, 1:].abs().max() < 0.1


@pytest.mark.parametrize("kind", ["colorize", "mask", "mixed", "identity"])
def test_every_pretext_is_measured(tmp_path: Path, kind: str) -> None:
    changes: dict[str, Any] = {"pretext": {"kind": kind, "bins": 8} if kind == "colorize" else {"kind": kind}}
    if kind == "identity":
        changes["encoder"] = {"name": "small_cnn", "model_args": {"width": 8, "depth": 1, "code_channels": 4}}
    found = Ruler(learner(tmp_path, **changes), PLENTY).result(0)
    names = {
        "colorize": ["leaving it gray", "the mean color of equal lightness"],
        "mask": ["doing nothing", "the mean image", "the nearest visible pixel", "smooth inpainting"],
        "mixed": [
            *("doing nothing", "the mean image", "a Gaussian filter", "a Wiener filter", "non-local means"),
            *("the mean color of equal lightness", "the nearest visible pixel", "smooth inpainting"),
        ],
        "identity": ["the mean image", "PCA of 16 numbers"],
    }
    assert list(found.restorers) == names[kind]
    assert all(0 < level < 60 for level in found.restorers.values())


@pytest.mark.parametrize("kind", ["colorize", "mask", "mask of a ViT", "mixed"])
def test_trivial_restorers_are_the_same_given_one_chunk_or_all_images_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    pretext = {"kind": kind, "bins": 8} if kind == "colorize" else {"kind": kind}
    changes = VIT if kind == "mask of a ViT" else {"pretext": pretext}
    built = learner(tmp_path, **changes)
    given, aided = list[int](), built.aided

    def noting(restored: Tensor, example: Example) -> Tensor:
        given.append(len(restored))
        return aided(restored, example)

    monkeypatch.setattr(built, "aided", noting)
    by_chunks = Ruler(built, PLENTY).result(0)
    assert set(given) == {32}
    given.clear()
    at_once = Ruler(built, PLENTY, at_once=64 * 16 * 16).result(0)
    assert given.count(64) == len(by_chunks.restorers)  # the others choose strengths, or show the network beside them
    assert at_once.restorers == pytest.approx(by_chunks.restorers, abs=2e-3)
    same = {"restorers": by_chunks.restorers}
    assert at_once.model_copy(update=same) == by_chunks


def test_gray_images_are_no_part_of_the_psnr_of_a_network_that_colors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Leaving a gray image gray is perfect: its 100 dB would make doing nothing look good."""
    built = learner(tmp_path, pretext={"kind": "colorize", "bins": 8})
    plain = Ruler(built, PLENTY).result(0)

    def graying(images: Images, *more: Any, **named: Any) -> Tensor:
        found = sample(images, *more, **named).clone()
        if images is built.held:
            found[::4] = found[::4, :1]
        return found

    monkeypatch.setattr("pretrain.ruler.ruler.sample", graying)
    mixed = Ruler(built, PLENTY).result(0)
    assert plain.nothing_to_restore == 0
    assert mixed.nothing_to_restore == -(-mixed.images // 4)
    for name, level in mixed.restorers.items():
        assert level == pytest.approx(plain.restorers[name], abs=3)
    assert f"({mixed.nothing_to_restore} have nothing to restore)" in mixed.brief(64)


def test_run_logs_the_ruler_beside_its_losses_says_it_and_keeps_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="retouch"):
        run = retouch.pretrain(pretraining(tmp_path / "run", panels_every=4))
    assert run.results is not None
    found = run.results.ruler
    assert found is not None
    assert read_results(tmp_path / "run").ruler == found
    assert found.step == 8
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert ["psnr/network" in row for row in rows] == [step in (4, 8) for step in range(1, 9)]
    assert found.numbers.items() <= rows[7].items()
    assert rows[3]["psnr/doing nothing"] == rows[7]["psnr/doing nothing"]
    assert rows[3]["held_out/loss"] != rows[7]["held_out/loss"]
    said = [one.message for one in caplog.records if one.levelno == logging.INFO and one.message.startswith("step 8: ")]
    assert said == [found.brief(64)]
    assert found.sentence in (tmp_path / "run" / "train.log").read_text()
    assert "40 unlabeled images and 64 held out from shapes" in caplog.text


def test_the_console_says_on_how_many_of_the_held_out_images_and_that_a_probe_has_the_last_word(tmp_path: Path) -> None:
    found = (
        Ruler(learner(tmp_path), PLENTY)
        .result(0)
        .model_copy(
            update={"psnr": 20.0, "restorers": {"doing nothing": 15.0, "a Gaussian filter": 18.0}, "images": 256}
        )
    )
    assert found.brief(400) == (
        "step 0: better than a Gaussian filter (PSNR 20.0 against 18.0) on 256 of 400 held-out images"
    )
    worse = found.model_copy(update={"psnr": 16.0})
    assert worse.brief(256) == (
        "step 0: better than doing nothing (PSNR 16.0 against 15.0), but not than a Gaussian filter (18.0) on 256 "
        "held-out images; a probe judges the features"
    )


def test_without_held_out_images_training_images_are_measured(tmp_path: Path) -> None:
    run = retouch.pretrain(pretraining(tmp_path / "run", steps=2, held_out=0))
    assert run.results is not None
    found = run.results.ruler
    assert found is not None
    assert (found.images, found.held_out, found.held_out_loss) == (40, False, None)
    assert " on 40 training images, which the network may have memorized; loss " in found.sentence
    better = found.model_copy(update={"psnr": 31.0, "restorers": {"doing nothing": 15.0}})
    assert better.brief(0) == (
        "step 2: better than doing nothing (PSNR 31.0 against 15.0) on 40 training images, which the network may have "
        "memorized"
    )


def test_patches_cut_from_one_held_out_image_count_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = learner(tmp_path)
    source = PatchesSource(RandomSource(200, 24), each=5, side=16)
    built.attach(Images(source, 16, torch.arange(len(source)), checked=True))
    counted: list[Tensor] = []
    real = Losses.of

    def of(training: Tensor, held_out: Tensor | None, groups: Tensor) -> Losses:
        assert held_out is not None
        assert len(training) == len(held_out) == len(groups) == 100
        counted.append(groups.bincount(minlength=200))
        return real(training, held_out, groups)

    monkeypatch.setattr(Losses, "of", of)
    Ruler(built, PLENTY).result(0)
    assert built.held is not None
    images = (built.held.kept // 5).unique()
    assert counted[0].nonzero().flatten().tolist() == images.tolist()
    assert set(counted[0].tolist()) == {0, 5}


def test_flat_run_ends_by_itself_and_one_killed_there_ends_there_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.engine.curve.GAIN", 0.99)  # nothing is progress
    settings = {**LONG, "stop": {"when": "flat", "patience": 3}}
    with caplog.at_level(logging.INFO, logger="retouch"):
        whole = retouch.pretrain(pretraining(tmp_path / "whole", **settings))
    assert (whole.training.step, whole.training.finished) == (8, True)  # progress at 2, none at 4, 6 and 8
    assert whole.results is not None
    assert whole.results.steps == 8
    assert "no progress for 6 steps: stopping is safe (stop.when=flat)" in caplog.text
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 5)
        retouch.pretrain(pretraining(tmp_path / "cut", **settings))
    assert last_checkpoint(tmp_path / "cut").name == "step-0000004"
    retouch.pretrain(pretraining(tmp_path / "cut", resume=True, **settings))
    weights = Path("encoder/model.safetensors")
    assert (tmp_path / "cut" / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()
    again = retouch.pretrain(pretraining(tmp_path / "whole", resume=True, **settings))
    assert again.training.step == 8


def test_flat_run_that_was_stopped_can_be_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.engine.curve.GAIN", 0.99)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 11)
        retouch.pretrain(pretraining(tmp_path / "run", **LONG))
    ended = retouch.pretrain(pretraining(tmp_path / "run", resume=True, stop={"when": "flat"}, **LONG))
    assert ended.training.step == 10
    assert ended.encoder is not None


def test_flat_needs_held_out_images(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"stop\.when=flat follows the loss on held-out images: set held_out"):
        learner(tmp_path, held_out=0, stop={"when": "flat"})
    config = validate(GradientPretraining, pretraining(tmp_path / "run", stop={"when": "flat"}))
    built = config.method.build(16, config.augment, HERE, 0)
    with pytest.raises(UserError, match=r"but 40 are too few to hold any out: use at least 100"):
        built.attach(noise_images(40, 16))
