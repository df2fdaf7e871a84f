"""Penalties on code and dictionary: the lecture's formula, atoms of bounded norm, codes with exact zeros."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from common.config import validate
from common.encoders import Encoder, EncoderConfig, build_encoder
from common.errors import UserError
from pretrain.config import GradientPretraining, PretrainConfig
from pretrain.gradient.decoders import DecoderConfig, LinearDecoder, MLPDecoder
from pretrain.gradient.objective import Objective, PenaltyConfig
from pretrain.gradient.pretexts import Denoise, Identity, Mask
from pretrain.run import pretrain

SIDE = 16  # of the photographs


def encoder(name: str, **args: Any) -> Encoder:
    torch.manual_seed(0)
    return build_encoder(EncoderConfig(name=name, model_args=args), image_size=SIDE)


def test_the_linear_sparse_autoencoder_has_the_loss_of_the_lecture(photographs: Tensor) -> None:
    """1/N Σ [ ‖x − W V x‖² + λ ‖V x‖₁ ] + η ‖W‖²_F, x centered, in float64."""
    strength, eta = 0.3, 0.02
    pretext = Identity(distance="squared")
    penalty = PenaltyConfig(l1=strength, dictionary=eta)
    model = Objective(encoder("linear", code=40), DecoderConfig(kind="linear"), pretext, penalty=penalty)
    model.fit(photographs)
    losses = model(photographs)

    assert isinstance(model.decoder, LinearDecoder)
    X = photographs.flatten(1).double()
    X = X - X.mean(0)
    V = model.encoder.state_dict()["code.weight"].double()  # [h d]
    W = model.decoder.weight.detach().flatten(1).T.double()  # [d h]
    codes = X @ V.T
    by_hand = {
        "restore": (X - codes @ W.T).square().sum(1).mean(),
        "sparsity": strength * codes.abs().sum(1).mean(),
        "dictionary": eta * W.square().sum(),
    }
    assert losses.keys() == by_hand.keys()
    for name, value in by_hand.items():
        assert losses[name].item() == pytest.approx(value.item(), rel=1e-4), name
    assert sum(losses.values()).item() == pytest.approx(sum(by_hand.values()).item(), rel=1e-4)


@pytest.mark.parametrize(
    ("penalty", "args"),
    [(PenaltyConfig(l1=0.1), {"code": 24, "rectify": True}), (PenaltyConfig(), {"code": 24, "top_k": 3})],
    ids=["l1", "top_k"],
)
@pytest.mark.parametrize("kind", ["auto", "linear", "mlp"])
def test_atoms_of_a_sparse_code_keep_unit_norm_while_weights_grow(
    kind: Any, penalty: PenaltyConfig, args: dict[str, Any], photographs: Tensor
) -> None:
    pretext = Denoise()
    model = Objective(encoder("mlp", hidden=[32], **args), DecoderConfig(kind=kind, width=32), pretext, penalty)
    example = pretext.corrupt(photographs, model.encoder)
    before = model.predict(example)[0]
    weights = [weight for name, weight in model.decoder.named_parameters() if name.endswith("weight")]
    with torch.no_grad():
        for weight in weights:
            weight.mul_(7)
    torch.testing.assert_close(model.predict(example)[0], before)
    if kind == "mlp":
        assert isinstance(model.decoder, MLPDecoder)
    else:
        assert isinstance(model.decoder, LinearDecoder)
        torch.testing.assert_close(model.decoder.atoms.flatten(1).norm(dim=1), torch.ones(24))


@pytest.mark.parametrize("unit_norm", [True, False])
def test_atoms_start_as_cells_of_images_even_if_a_cell_is_the_mean(unit_norm: bool, photographs: Tensor) -> None:
    decoder = LinearDecoder(8, 2, 3, SIDE, unit_norm=unit_norm)
    decoder.fit(photographs)
    cells = photographs.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).flatten(0, 2).flatten(1)
    torch.testing.assert_close(decoder.base.flatten(), cells.mean(0))
    likeness = torch.cosine_similarity(decoder.atoms.flatten(1)[:, None], (cells - cells.mean(0))[None], dim=2)
    assert likeness.amax(1).min() > 0.9999
    norms = decoder.atoms.flatten(1).norm(dim=1)
    assert norms.std() < 1e-5
    decoder.fit(torch.full((10, 3, SIDE, SIDE), 0.5))
    torch.testing.assert_close(decoder.atoms.flatten(1).norm(dim=1), norms)
    decoder([torch.ones(2, 8, 2, 2)]).sum().backward()
    assert decoder.weight.grad is not None
    assert decoder.weight.grad.abs().max() < 1e3


def test_a_penalized_dictionary_has_free_norms() -> None:
    penalty = PenaltyConfig(l1=0.1, dictionary=0.1)
    model = Objective(encoder("linear", code=24), DecoderConfig(), Denoise(), penalty)
    assert isinstance(model.decoder, LinearDecoder)
    with torch.no_grad():
        model.decoder.weight.mul_(7)
    assert torch.equal(model.decoder.atoms, model.decoder.weight)


def test_top_k_codes_have_at_most_k_non_zeros(photographs: Tensor) -> None:
    codes = encoder("mlp", hidden=[32], code=24, top_k=3)(photographs)
    assert (codes != 0).sum(1).unique().tolist() == [3]


def settings(out: Path, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "out": str(out),
        "steps": 60,
        "batch_size": 32,
        "base_lr": 0.02,
        "data": {"source": "photos", "image_size": 8, "limit": 96, "workers": 0},
        "augment": {"crop": None, "flip": False},
        "encoder": {"name": "mlp", "model_args": {"hidden": [32], "code": 48, "rectify": True}},
        "pretext": {"kind": "identity", "distance": "squared"},
        "wandb": {"mode": "disabled"},
    }
    return values | changes


def test_a_stronger_l1_on_a_rectified_code_gives_more_exact_zeros(tmp_path: Path) -> None:
    nonzeros = []
    for strength in (0.01, 0.1, 1.0):
        out = tmp_path / str(strength)
        pretrain(validate(PretrainConfig, settings(out, penalty={"l1": strength})))
        results = json.loads((out / "results.json").read_text())
        nonzeros.append(results["code"]["nonzeros"])
        assert results["atoms"] == 48
        assert (out / "panels" / "atoms.png").is_file()
        assert (out / "panels" / "exciting.png").is_file()
        losses = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
        assert {"loss/restore", "loss/sparsity"} <= losses.keys()
    assert 48 > nonzeros[0] > nonzeros[1] > nonzeros[2]


# ---- refusals


@pytest.mark.parametrize(("kind", "norm"), [("upsampler", "batches"), ("unet", "batches"), ("transformer", "tokens")])
@pytest.mark.parametrize("pretext", [Identity(), Denoise()], ids=["identity", "denoise"])
@pytest.mark.parametrize("sparse", ["l1", "top_k"])
def test_a_normalizing_decoder_is_refused_for_a_sparse_code(
    kind: Any, norm: str, pretext: Identity | Denoise, sparse: str
) -> None:
    args = {"code": 24} | ({"top_k": 3} if sparse == "top_k" else {})
    penalty = PenaltyConfig(l1=0.1 if sparse == "l1" else 0)
    with pytest.raises(UserError) as caught:
        Objective(encoder("mlp", **args), DecoderConfig(kind=kind, width=32), pretext, penalty)
    assert str(caught.value) == (
        f"decoder.kind={kind} normalizes its {norm}, so the scale of a sparse code would have no effect: use "
        "decoder.kind=linear or mlp"
    )


def test_l1_is_refused_if_tokens_are_dropped() -> None:
    vit = encoder("timm/vit_tiny_patch16_224", patch_size=4, embed_dim=32, depth=1, num_heads=2)
    with pytest.raises(UserError) as caught:
        Objective(vit, DecoderConfig(width=32), Mask(), PenaltyConfig(l1=0.1))
    assert str(caught.value) == ("penalty.l1 needs a code of the whole image, but this encoder drops tokens: remove it")


def test_a_dictionary_penalty_needs_a_linear_decoder() -> None:
    penalty = PenaltyConfig(l1=0.1, dictionary=0.1)
    with pytest.raises(UserError) as caught:
        Objective(encoder("linear", code=24), DecoderConfig(kind="mlp", width=32), Denoise(), penalty)
    assert str(caught.value) == (
        "penalty.dictionary needs the atoms of decoder.kind=linear: set it, or remove the penalty"
    )


LINEAR = {"name": "linear", "model_args": {"code": 24}}


def test_weight_decay_together_with_a_dictionary_penalty_is_refused(tmp_path: Path) -> None:
    values = settings(tmp_path / "run", encoder=LINEAR, penalty={"l1": 0.1, "dictionary": 0.1})
    with pytest.raises(UserError) as caught:
        validate(PretrainConfig, values)
    assert caught.value.problems == ("penalty.dictionary already decays the atoms: set optim.weight_decay=0",)
    allowed = validate(PretrainConfig, values | {"optim": {"weight_decay": 0}})
    assert isinstance(allowed, GradientPretraining)
    assert allowed.penalty.dictionary == 0.1


@pytest.mark.parametrize(
    ("l1", "chosen"),
    [
        (0.0, LINEAR),
        (0.0, {"name": "mlp", "model_args": {"code": 24, "top_k": 3}}),
        (0.1, {"name": "mlp", "model_args": {"code": 24, "top_k": 3}}),
        (0.1, {"name": "mlp", "model_args": {"code": 24}}),
        (0.1, {"name": "small_cnn"}),
    ],
    ids=["without-l1", "top_k", "top_k-and-l1", "deep", "convolutional"],
)
def test_gamma_is_refused_if_the_scale_is_undetermined(l1: float, chosen: dict[str, Any], tmp_path: Path) -> None:
    """Without L1, ‖W‖² falls without bound while the code grows and the reconstruction stays the same."""
    message = (
        "penalty.dictionary needs a linear code with L1: set encoder.name=linear and penalty.l1, or remove it "
        "(without it, the atoms of a sparse code have unit norm)"
    )
    penalty = {"l1": l1, "dictionary": 0.1}
    values = settings(tmp_path / "run", encoder=chosen, penalty=penalty, optim={"weight_decay": 0})
    with pytest.raises(UserError) as caught:
        validate(PretrainConfig, values)
    assert caught.value.problems == (message,)
    built = encoder(chosen["name"], **chosen.get("model_args", {}))
    with pytest.raises(UserError) as caught:
        Objective(built, DecoderConfig(kind="linear"), Denoise(), PenaltyConfig.model_validate(penalty))
    assert caught.value.problems == (message,)


@pytest.mark.parametrize(
    ("changes", "accepted"),
    [
        ({}, False),
        ({"penalty": {"l1": 0.1}}, True),
        ({"encoder": {"name": "mlp", "model_args": {"code": 300, "top_k": 8}}}, True),
    ],
    ids=["dense", "l1", "top_k"],
)
def test_without_damage_the_code_must_be_narrow_or_sparse(
    changes: dict[str, Any], accepted: bool, tmp_path: Path
) -> None:
    values = settings(tmp_path / "run", steps=1, encoder={"name": "mlp", "model_args": {"code": 300}})
    config = validate(PretrainConfig, values | changes)
    if accepted:
        assert pretrain(config).training.finished
        return
    with pytest.raises(UserError) as caught:
        pretrain(config)
    assert str(caught.value) == (
        "mlp cannot be pretrained with identity:\n"
        "  pretext.kind=identity needs a code narrower than the image, but mlp gives 300x1x1 = 300 numbers for an "
        "image of 192: set encoder.model_args.code to at most 191, choose an encoder with a "
        "smaller last map, or make the code sparse (penalty.l1, or top_k of the encoder)"
    )
    assert not (tmp_path / "run").exists()
