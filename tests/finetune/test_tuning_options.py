"""Options of fine-tuning: frozen layers, a classifier that starts at its probe, mixed images, weighted classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor

import retouch
from common.augment import WHOLE
from common.config import validate
from common.data import Labels, build_source, load_images, stratified_split
from common.encoders import Classifier, EncoderConfig, build_encoder
from common.encoders.export import export_encoder
from common.encoders.load import load_encoder
from common.engine.schedule import seed_step
from common.errors import UserError
from common.machine.distributed import World
from common.pixels import to_float
from finetune.config import FinetuneConfig
from finetune.head_start import start_at_probe
from finetune.probes import Fitted
from finetune.supervised import Supervised, check_mixing, class_weights
from tests.recipe import Killed, kill_at

SIDE, IMAGES = 16, 120
VIT = EncoderConfig(
    name="timm/vit_tiny_patch16_224", model_args={"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start") / "encoder"
    torch.manual_seed(0)
    export_encoder(build_encoder(EncoderConfig(model_args={"width": 8, "depth": 1}), image_size=SIDE), folder)
    return folder


def settings(out: Path, encoder: object, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "out": str(out),
        "encoder": encoder,
        "steps": 4,
        "batch_size": 16,
        "base_lr": 0.05,
        "precision": "float32",
        "data": {"train": "shapes", "task": "color", "limit": IMAGES, "test_limit": 40, "workers": 0},
        "evaluate_every": 4,
        "validation": 0.3,
        "compare": {"linear_probe": False, "from_scratch": False},
        "checkpoint": {"every": 1},
        "wandb": {"mode": "disabled"},
    }
    return values | changes


def trained(out: Path) -> dict[str, Tensor]:
    return load_file(out / "encoder" / "model.safetensors")


# ---- frozen layers


@pytest.mark.parametrize(("freeze", "groups"), [("stem", 1), (2, 2)])
def test_frozen_layers_end_bit_for_bit_as_they_began(tmp_path: Path, start: Path, freeze: object, groups: int) -> None:
    found = retouch.finetune(settings(tmp_path / "run", start, freeze=freeze))
    before, after = load_file(start / "model.safetensors"), trained(tmp_path / "run")
    kept = {name for name in before if int(name.split(".")[1]) < groups}
    assert {name for name, tensor in after.items() if torch.equal(tensor, before[name])} == kept
    assert any("running_mean" in name for name in kept)
    assert found is not None
    assert f"but for its first layers (freeze={freeze})" in found.protocol


@pytest.mark.parametrize("name", ["small_cnn", "vit"])
def test_frozen_parts_get_no_gradient_and_stay_in_eval_mode(name: str) -> None:
    config = EncoderConfig(model_args={"width": 8, "depth": 1}) if name == "small_cnn" else VIT
    classifier = Classifier(build_encoder(config, image_size=SIDE), ["a", "b"])
    depths = classifier.encoder.depths()
    classifier.freeze_first(2)
    for mode in (False, True):
        classifier.train(mode)
    for parameter_name, parameter in classifier.encoder.named_parameters():
        if depths[parameter_name] < 2:
            assert not parameter.requires_grad, parameter_name
    still = classifier.encoder.get_submodule("blocks.1" if name == "small_cnn" else "model.blocks.0")
    moving = classifier.encoder.get_submodule("blocks.2" if name == "small_cnn" else "model.blocks.1")
    assert not any(module.training for module in still.modules())
    assert all(module.training for module in moving.modules())
    assert any(parameter.requires_grad for parameter in moving.parameters())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"freeze": "stom"}, "freeze: input should be 'stem' or a whole number, got 'stom'"),
        ({"freeze": 0}, "freeze: input should be 'stem' or greater than 0, got 0"),
        (
            {"class_weights": "ballanced"},
            "class_weights: input should be 'none' or 'balanced' or a valid dictionary, got 'ballanced'",
        ),
        ({"class_weights": {"cat": 0}}, "class_weights.cat: input should be greater than 0, got 0"),
    ],
)
def test_a_wrong_option_is_one_mistake(setting: dict[str, Any], message: str, start: Path) -> None:
    with pytest.raises(UserError) as error:
        validate(FinetuneConfig, settings(Path("x"), start, **setting))
    assert error.value.problems == (message,)


def test_too_many_layers_to_freeze_are_refused_before_anything_is_written(tmp_path: Path, start: Path) -> None:
    with pytest.raises(UserError) as error:
        retouch.finetune(settings(tmp_path / "run", start, freeze=4))
    assert str(error.value) == (
        "freeze=4: small_cnn has 3 groups of layers below the classifier's: use stem, or 1 to 3"
    )
    assert not (tmp_path / "run").exists()
    retouch.finetune(settings(tmp_path / "all", start, freeze=3, steps=1))  # the classifier alone learns


def test_what_keeps_learned_weights_is_refused_for_random_ones_and_left_out_of_the_baseline(start: Path) -> None:
    scratch = {"path": str(start), "from_scratch": True}
    with pytest.raises(UserError) as error:
        validate(FinetuneConfig, settings(Path("x"), scratch, freeze="stem", head_start="probe"))
    assert str(error.value).splitlines() == [
        "Found 2 errors in the config:",
        "  freeze: random weights are not worth keeping: remove it, or start from an encoder",
        "  head_start: random weights are not worth keeping: remove it, or start from an encoder",
    ]
    options = {"freeze": 2, "head_start": "probe", "mixup": 0.2, "cutmix": 1.0, "class_weights": "balanced"}
    random = validate(FinetuneConfig, settings(Path("x"), str(start), **options)).from_random()
    assert (random.freeze, random.head_start, random.layer_decay) == (None, "random", 1.0)
    assert (random.mixup, random.cutmix, random.class_weights) == (0.2, 1.0, "balanced")


# ---- the classifier starts at its probe


@pytest.mark.parametrize("name", ["small_cnn", "vit"])
def test_the_classifier_starts_at_logistic_regression_on_what_it_sees(name: str) -> None:
    config = EncoderConfig(model_args={"width": 8, "depth": 1}) if name == "small_cnn" else VIT
    torch.manual_seed(0)
    encoder = build_encoder(config, image_size=SIDE)
    images = load_images(build_source("shapes"), SIDE, limit=200)
    labels = images.labels("color")
    classifier = Classifier(encoder, labels.names).eval()
    tuning = validate(FinetuneConfig, settings(Path("x"), {"name": "small_cnn", "from_scratch": True}))
    start_at_probe(classifier, images, labels, tuning, torch.device("cpu"))

    pixels = to_float(images.rows(torch.arange(200)))
    with torch.no_grad():
        model: Any = encoder
        seen = (
            encoder(pixels).mean((2, 3))
            if name == "small_cnn"
            else model.model.forward_head(model.model.forward_features(encoder.prepare(pixels)), pre_logits=True)
        )
        found = classifier(pixels).double()
    rows = seen.double().numpy()
    scaled = (rows - rows.mean(0)) / np.maximum(rows.std(0), 1e-9)
    # ours minimizes mean loss + l2/2 ‖w‖²; scikit-learn's C is 1 / (n l2). One of the strengths of the grid is ours.
    apart = []
    for l2 in (10 ** (exponent / 2) for exponent in range(-10, 0)):
        theirs = LogisticRegression(C=1 / (200 * l2), tol=1e-8, max_iter=5000).fit(scaled, labels.values.numpy())
        apart.append(np.abs(theirs.predict_proba(scaled) - found.softmax(1).numpy()).max())
    assert min(apart) < 0.01


def test_a_run_starts_at_the_probe_of_its_training_rows_alone_and_so_do_its_averages(
    tmp_path: Path, start: Path
) -> None:
    """With a rate of nearly zero, the result is the start."""
    run = settings(tmp_path / "run", str(start), head_start="probe", base_lr=1e-12, steps=1, ema=0.9)
    found = retouch.finetune(run)
    assert found is not None
    assert "a head that started at its linear probe" in found.protocol
    images = load_images(build_source("shapes"), SIDE, limit=IMAGES)
    labels = images.labels("color")
    fit, _ = stratified_split(labels.values, 0.3, 0)
    classifier = Classifier(load_encoder(start), labels.names)
    mine = labels._replace(values=labels.values[fit])
    start_at_probe(classifier, images.only(fit), mine, validate(FinetuneConfig, run), torch.device("cpu"))
    saved = load_file(tmp_path / "run" / "classifier" / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        assert torch.allclose(saved[name], classifier.encoder.state_dict()[name], atol=1e-4), name


# ---- mixed images, weighted classes


def by_hand(logits: Tensor, shares: Tensor, smoothing: float, weights: Tensor) -> float:
    """``mean_i -Σ_c w_c ((1 - ε) t_ic + ε / C) log p_ic`` in float64."""
    logits, shares = logits.detach().double(), shares.double()
    log_p = logits - logits.exp().sum(1, keepdim=True).log()
    target = (1 - smoothing) * shares + smoothing / shares.shape[1]
    return float(-(weights.double() * target * log_p).sum(1).mean())


def mixed_by_hand(pixels: Tensor, shares: Tensor, mixup: float, cutmix: float) -> tuple[Tensor, Tensor]:
    """Each image with the one before it in the batch; the first with the last. Draws as torchvision does."""
    other, other_shares = pixels.roll(1, 0), shares.roll(1, 0)
    pasted = cutmix > 0 and (not mixup or int(torch.multinomial(torch.tensor([0.5, 0.5]), 1)) == 1)
    alpha = torch.tensor([cutmix if pasted else mixup])
    lam = float(torch.distributions.Beta(alpha, alpha).sample(()))
    if not pasted:
        return lam * pixels + (1 - lam) * other, lam * shares + (1 - lam) * other_shares
    x, y = int(torch.randint(SIDE, (1,))), int(torch.randint(SIDE, (1,)))
    half = int(0.5 * (1 - lam) ** 0.5 * SIDE)
    rows, columns = slice(max(0, y - half), min(SIDE, y + half)), slice(max(0, x - half), min(SIDE, x + half))
    mixed = pixels.clone()
    mixed[:, :, rows, columns] = other[:, :, rows, columns]
    share = (rows.stop - rows.start) * (columns.stop - columns.start) / SIDE**2
    return mixed, (1 - share) * shares + share * other_shares


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.0, 0.0), (0.4, 0.0), (0.0, 1.0), (0.4, 1.0)])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_is_that_of_the_formula_in_float64(mixup: float, cutmix: float, weighted: bool) -> None:
    torch.manual_seed(0)
    classifier = Classifier(build_encoder(EncoderConfig(model_args={"width": 4}), image_size=SIDE), list("abc")).eval()
    weights = torch.tensor([0.5, 2.0, 1.0]) if weighted else None
    model = Supervised(classifier, 0.2, WHOLE, mixup, cutmix, weights)
    images = torch.randint(0, 256, (6, 3, SIDE, SIDE), dtype=torch.uint8)
    labels = torch.tensor([0, 1, 2, 1, 0, 0])
    shares = torch.nn.functional.one_hot(labels, 3).float()
    for step in range(6):
        seed_step(0, step)
        found = model(images, labels)["cross_entropy"]
        seed_step(0, step)
        pixels = images.float() / 255
        if mixup or cutmix:
            pixels, target = mixed_by_hand(pixels, shares, mixup, cutmix)
        else:
            target = shares
        logits = classifier(pixels)
        expected = by_hand(logits, target, 0.2, torch.ones(3) if weights is None else weights)
        assert float(found.detach()) == pytest.approx(expected, rel=1e-5)


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    values = torch.tensor([0] * 7 + [1] * 2 + [2] * 11)
    found = class_weights("balanced", Labels(values, ("a", "b", "c"), "task"))
    assert found is not None
    expected = compute_class_weight("balanced", classes=np.arange(3), y=values.numpy())
    assert found.tolist() == pytest.approx(expected.tolist())
    assert float(found[values].mean()) == pytest.approx(1)
    missing = class_weights("balanced", Labels(values, ("a", "b", "c", "d"), "task"))
    assert missing is not None
    assert missing.tolist() == pytest.approx([*expected, 1])  # no image, no say


def test_weights_are_given_by_name_and_unknown_names_are_refused(tmp_path: Path, start: Path) -> None:
    labels = Labels(torch.tensor([0, 1]), ("cat", "dog"), "task")
    assert class_weights("none", labels) is None
    found = class_weights({"dog ": 3.0}, labels)
    assert found is not None
    assert found.tolist() == [1, 3]
    with pytest.raises(UserError, match=r"class_weights: color has no class 'mauve'; it has .*red"):
        retouch.finetune(settings(tmp_path / "run", str(start), class_weights={"mauve": 2, "red": 2}))
    assert not (tmp_path / "run").exists()


def test_options_are_felt_in_the_weights_and_killed_runs_with_them_end_bit_for_bit_alike(
    tmp_path: Path, start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes: dict[str, dict[str, Any]] = {
        "plain": {},
        "mixup": {"mixup": 0.5},
        "cutmix": {"cutmix": 1.0},
        "balanced": {"class_weights": "balanced"},
        "head_start": {"head_start": "probe"},
        "freeze": {"freeze": "stem"},
    }
    for name, change in changes.items():
        retouch.finetune(settings(tmp_path / name, str(start), **change))
    weights = [trained(tmp_path / name)["blocks.2.0.weight"] for name in changes]
    assert not any(torch.equal(a, b) for i, a in enumerate(weights) for b in weights[:i])

    every = {key: value for change in changes.values() for key, value in change.items()}
    retouch.finetune(settings(tmp_path / "whole", str(start), **every))
    with monkeypatch.context() as patch:
        kill_at(patch, 2)
        with pytest.raises(Killed):
            retouch.finetune(settings(tmp_path / "run", str(start), **every))
    with monkeypatch.context() as patch:  # the start is in the checkpoint
        patch.setattr("finetune.supervised.start_at_probe", lambda *given: pytest.fail("started again"))
        retouch.finetune(settings(tmp_path / "run", str(start), **every, resume=True))
    file = "classifier/model.safetensors"
    assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_a_start_that_did_not_converge_is_named_in_the_results_also_of_a_resumed_run(
    tmp_path: Path, start: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = settings(tmp_path / "run", str(start), head_start="probe")
    with monkeypatch.context() as patch:
        patch.setattr(Fitted, "converged", False)
        kill_at(patch, 2)
        with pytest.raises(Killed):
            retouch.finetune(options)
    found = retouch.finetune(options | {"resume": True})
    assert found is not None
    assert not found.start_converged
    assert sum("the linear probe at which the classifier started did not converge" in note for note in found.notes) == 1
    sound = retouch.finetune(options | {"out": str(tmp_path / "sound")})
    assert sound is not None
    assert sound.start_converged
    assert not any("did not converge" in note for note in sound.notes)


@pytest.mark.parametrize(("accumulate", "processes"), [(16, 1), (4, 4)])
def test_an_image_alone_cannot_be_mixed(start: Path, accumulate: int, processes: int) -> None:
    config = validate(FinetuneConfig, settings(Path("x"), str(start), mixup=0.2, accumulate=accumulate))
    here = World(rank=0, size=processes, device=torch.device("cpu"))
    with pytest.raises(UserError, match="mixup and cutmix pair images, but a process has one at a time"):
        check_mixing(config, here)
    check_mixing(config.model_copy(update={"mixup": 0.0}), here)
