"""Codes of whole small images: each against its formula, then what they share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from common.data import build_source, load_images
from common.encoders import EncoderConfig, build_encoder
from common.encoders.export import export_encoder
from common.encoders.kernel import KernelCode
from common.encoders.linear import Linear
from common.encoders.load import load_encoder
from common.encoders.mlp import MLP
from common.encoders.sparse_code import L0_START, SparseCode
from common.encoders.vector import VectorEncoder, code_activation
from common.errors import UserError
from common.pixels import to_float
from common.solvers import fista, iht, l0_objective, lasso_objective, omp

SIDE, DIMENSION = 8, 192
MEMBERS: dict[str, tuple[str, dict[str, Any]]] = {
    "linear": ("linear", {"code": 10}),
    "mlp": ("mlp", {"hidden": [30], "code": 10}),
    "mlp_top_k": ("mlp", {"hidden": [30, 20], "code": 16, "rectify": True, "top_k": 4}),
    "l1": ("sparse_code", {"atoms": 24, "strength": 0.3}),
    "l0": ("sparse_code", {"atoms": 24, "penalty": "l0", "strength": 0.05, "centring": "data"}),
    "atoms": ("sparse_code", {"atoms": 24, "penalty": "atoms", "top_k": 5}),
    "kernel": ("kernel", {"code": 6, "landmarks": 20, "width": 5.0}),
}


def images(count: int, side: int = SIDE, seed: int = 1) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def build(name: str, **settings: Any) -> Any:
    """A member with the center of some images."""
    torch.manual_seed(0)
    kind, args = MEMBERS[name]
    encoder = build_encoder(EncoderConfig(name=kind, model_args=args), image_size=SIDE, **settings)
    assert isinstance(encoder, VectorEncoder)
    encoder.fit_centre(images(50, seed=2))
    return encoder.eval()


def centered(encoder: VectorEncoder, batch: Tensor) -> Tensor:
    """Rows ``[B d]`` by the plain formula."""
    rows = batch.flatten(1)
    if encoder.centring == "own":
        return rows - rows.mean(1, keepdim=True)
    return rows - images(50, seed=2).flatten(1).double().mean(0).float()


@torch.no_grad()
def test_linear_is_a_product_with_the_centered_image() -> None:
    encoder: Linear = build("linear")
    V = encoder.code.weight
    torch.testing.assert_close(V @ V.T, torch.eye(10), rtol=0, atol=1e-5)
    torch.testing.assert_close(encoder(images(5)).flatten(1), centered(encoder, images(5)) @ V.T)
    mean_image = images(50, seed=2).mean(0, keepdim=True)
    assert float(encoder(mean_image).abs().max()) < 1e-5


@torch.no_grad()
def test_mlp_is_its_layers_one_after_another() -> None:
    encoder: MLP = build("mlp")
    block = encoder.hidden[0]
    assert isinstance(block, torch.nn.Sequential)
    hidden = torch.nn.functional.gelu(block[0](centered(encoder, images(5))))
    first, code = encoder.layers(images(5))
    torch.testing.assert_close(first.flatten(1), hidden)
    torch.testing.assert_close(code.flatten(1), encoder.code(hidden))


@torch.no_grad()
def test_kernel_code_is_a_sum_of_kernel_functions() -> None:
    encoder: KernelCode = build("kernel")
    encoder.shift.fill_(0.25)
    distance = torch.cdist(centered(encoder, images(5)).double(), encoder.landmarks.double())
    expected = (-distance.square() / (2 * 5.0**2)).exp() @ encoder.weight.double() - 0.25
    torch.testing.assert_close(encoder(images(5)).flatten(1).double(), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["l1", "l0", "atoms"])
def test_a_sparse_code_is_the_solvers_and_better_than_none(name: str) -> None:
    encoder: SparseCode = build(name)
    x, W, strength = centered(encoder, images(5)), encoder.dictionary, encoder.args.strength
    codes = encoder(images(5)).flatten(1)
    none = torch.zeros_like(codes)
    match name:
        case "l1":
            expected = fista(x, W, strength, steps=encoder.args.steps)
            gain = lasso_objective(x, W, none, strength) - lasso_objective(x, W, codes, strength)
        case "l0":
            # the L1 code of twice the root has the same threshold under an orthonormal dictionary
            start = fista(x, W, 2 * strength**0.5, steps=encoder.args.steps, tolerance=L0_START)
            expected = iht(x, W, strength, steps=encoder.args.steps, start=start)
            gain = l0_objective(x, W, none, strength) - l0_objective(x, W, codes, strength)
        case _:
            expected = omp(x, W, 5)
            gain = x.square().sum(1) - (x - codes @ W.T).square().sum(1)
            assert ((codes != 0).sum(1) == 5).all()
    torch.testing.assert_close(codes, expected, rtol=1e-4, atol=1e-5)
    assert (gain > 0).all()
    assert ((codes == 0).sum(1) > 0).all()


@torch.no_grad()
def test_l1_codes_of_photographs_are_within_1e4_of_the_least_objective_by_default() -> None:
    """Patches written with patches: atoms as alike as these are the hard case."""
    args = {"atoms": 256, "strength": 0.5}
    encoder = build_encoder(EncoderConfig(name="sparse_code", model_args=args), image_size=12)
    assert isinstance(encoder, SparseCode)

    def patches(source: str, count: int) -> Tensor:
        return to_float(load_images(build_source(source), 12, limit=count).rows(torch.arange(count)))

    encoder.dictionary.copy_(normalize(encoder.vectors(patches("photos", 256)), dim=1).T)
    x, W = encoder.vectors(patches("photos:test", 40)), encoder.dictionary
    exact = fista(x.double(), W.double(), 0.5, steps=3000, tolerance=1e-8)
    least = lasso_objective(x.double(), W.double(), exact, 0.5)
    codes = encoder(patches("photos:test", 40)).flatten(1)
    assert (lasso_objective(x.double(), W.double(), codes.double(), 0.5) / least - 1).max() < 1e-4


@torch.no_grad()
def test_top_k_keeps_exactly_k_and_rectify_nothing_negative() -> None:
    encoder: MLP = build("mlp_top_k")
    code = encoder(images(40)).flatten(1)
    assert (code >= 0).all()
    assert int((code != 0).sum(1).max()) == 4
    plain = encoder.code(encoder.layers(images(40))[1].flatten(1)).relu()
    torch.testing.assert_close(code.sum(1), plain.topk(4, dim=1).values.sum(1))


def test_the_activation_of_a_code_keeps_the_largest_by_magnitude() -> None:
    code = torch.tensor([[3.0, -4.0, 1.0, -2.0], [1.0, 1.0, 1.0, 1.0]])
    kept = code_activation(code, rectify=False, kept=2)
    torch.testing.assert_close(kept[0], torch.tensor([3.0, -4.0, 0.0, 0.0]))
    assert int((kept[1] != 0).sum()) == 2  # exactly k among equals
    torch.testing.assert_close(code_activation(code, True, 2)[0], torch.tensor([3.0, 0.0, 1.0, 0.0]))
    assert code_activation(code, rectify=False, kept=None) is code
    learning = code.clone().requires_grad_()
    code_activation(learning, rectify=False, kept=2)[0].sum().backward()
    torch.testing.assert_close(learning.grad[0], torch.tensor([1.0, 1.0, 0.0, 0.0]))  # type: ignore[index]


@torch.no_grad()
@pytest.mark.parametrize("name", MEMBERS)
def test_export_and_load_keep_the_features_bit_for_bit(name: str, tmp_path: Path) -> None:
    encoder = build(name)
    export_encoder(encoder, tmp_path / "encoder")
    loaded = load_encoder(tmp_path / "encoder")
    assert loaded.config == encoder.config
    for mine, theirs in zip(encoder.layers(images(4)), loaded.layers(images(4)), strict=True):
        torch.testing.assert_close(theirs, mine, rtol=0, atol=0)


@torch.no_grad()
def test_a_gray_views_center_is_gray() -> None:
    encoder: Linear = build("linear", view="gray")
    gray = encoder.centre.view(3, SIDE, SIDE)
    torch.testing.assert_close(gray[0], gray[2])
    assert encoder(images(50, seed=2)).mean(0).abs().max() < 1e-5


@pytest.mark.parametrize("name", MEMBERS)
def test_images_of_another_size_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="it encodes images of 8 px only, not 16x16"):
        build(name)(images(2, side=16))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"name": "linear", "pretrained": True},
            "encoder.pretrained: linear has no pretrained weights; use a timm model, or false",
        ),
        ({"name": "mlp", "stem": "small"}, "encoder.stem: mlp has no stem to replace; leave it at auto"),
        ({"name": "linear", "model_args": {"code": 0}}, "code: input should be greater than or equal to 1, got 0"),
        (
            {"name": "sparse_code", "model_args": {"penalty": "atoms", "atoms": 4, "top_k": 5}},
            "top_k 5 exceeds the number of atoms (4)",
        ),
    ],
)
def test_what_makes_no_encoder_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        build_encoder(EncoderConfig(**config), image_size=SIDE)
    assert str(caught.value).splitlines()[-1].strip() == message


@pytest.mark.parametrize("name", ["linear", "mlp", "sparse_code", "kernel"])
def test_a_mask_channel_is_refused(name: str) -> None:
    with pytest.raises(UserError) as caught:
        build_encoder(EncoderConfig(name=name), image_size=SIDE, mask_channel=True)
    assert str(caught.value) == f"encoder.name: {name} takes no mask channel; use another encoder for masking"
