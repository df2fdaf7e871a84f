"""The patch dictionary against a slow computation by hand, its symmetry, and what it refuses."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, cosine_similarity

from common.encoders import EncoderConfig, build_encoder
from common.encoders import patch_dictionary as module
from common.encoders.patch_dictionary import PatchDictionary, mirrored
from common.errors import UserError
from common.solvers import lasso_objective

ARGS: dict[str, Any] = {"atoms": 10, "patch": 4, "grid": 3, "threshold": 0.3, "top_k": 3, "l1": 2.0}
CODES = ("threshold", "top_k", "lasso", "triangle")


def images(count: int, side: int = 13, seed: int = 1) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def fitted(side: int = 13, **args: Any) -> PatchDictionary:
    """An encoder whose whitening and mean are what fitting would give: those of patches and their mirror images."""
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig(name="patch_dictionary", model_args={**ARGS, **args}), image_size=side)
    assert isinstance(encoder, PatchDictionary)
    rows = encoder.patches(images(40, seed=2)).flatten(0, 1).double()
    rows = torch.cat([rows, mirrored(rows)])
    encoder.patch_mean.copy_(rows.mean(0))
    values, vectors = torch.linalg.eigh(torch.cov(rows.T))
    encoder.whiten.copy_(vectors * (values + 0.1).rsqrt() @ vectors.T)
    return encoder.eval()


def by_hand(encoder: PatchDictionary, image: Tensor) -> Tensor:
    """One image ``[3 H W]`` -> ``[channels grid grid]``, float64, position by position; all codes but ``lasso``."""
    args, p = encoder.args, encoder.args.patch
    own = encoder.dictionary.double()
    flipped = torch.stack([atom.view(3, p, p).flip(2).flatten() for atom in own])
    atoms = torch.cat([own, flipped]) if args.mirror else own
    height, width = (side - p + 1 for side in image.shape[1:])
    parts = torch.zeros(2, len(atoms), height, width, dtype=torch.float64)
    for top, left in itertools.product(range(height), range(width)):
        x = image[:, top : top + p, left : left + p].double().flatten()
        x = (x - x.mean()) / (x.var(correction=0) + args.contrast).sqrt()
        y = encoder.whiten.double() @ (x - encoder.patch_mean.double())
        z = atoms @ y
        match args.code:
            case "threshold":
                parts[0, :, top, left] = (z - args.threshold).clamp_min(0)
                parts[1, :, top, left] = (-z - args.threshold).clamp_min(0)
            case "top_k":
                smallest = z.abs().sort(descending=True).values[args.top_k - 1]
                kept = torch.where(z.abs() >= smallest, z, 0)
                parts[0, :, top, left], parts[1, :, top, left] = kept.clamp_min(0), (-kept).clamp_min(0)
            case "triangle":
                # soft k-means, whose centroids are the atoms and their negatives
                distance = (y - torch.cat([atoms, -atoms])).norm(dim=1)
                parts[:, :, top, left] = (distance.mean() - distance).clamp_min(0).view(2, -1)
    maps = adaptive_avg_pool2d(parts, args.grid)
    if args.mirror:
        maps = maps[:, : len(own)] + maps[:, len(own) :].flip(3)
    return maps.flatten(0, 1)


@torch.no_grad()
@pytest.mark.parametrize("mirror", [True, False], ids=["mirror", "plain"])
@pytest.mark.parametrize("code", ["threshold", "top_k", "triangle"])
def test_features_are_those_computed_by_hand(code: str, mirror: bool) -> None:
    encoder = fitted(code=code, mirror=mirror)
    batch = torch.stack([images(2)[0], images(2)[1] * 0.01 + 0.5])  # the second is nearly flat
    expected = torch.stack([by_hand(encoder, image) for image in batch])
    torch.testing.assert_close(encoder(batch).double(), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_patch_and_its_negative_exchange_the_channels_of_the_triangle_code() -> None:
    encoder = fitted(code="triangle", mirror=False, grid=1)
    encoder.patch_mean.zero_()
    patch = images(1, side=4)
    positive, negative = encoder(patch).view(2, 10)
    assert positive.any()
    assert negative.any()
    torch.testing.assert_close(encoder(1 - patch).view(2, 10), torch.stack([negative, positive]))


@torch.no_grad()
def test_lasso_codes_minimize_their_objective() -> None:
    encoder = fitted(code="lasso", mirror=False, grid=1)
    windows = images(1).unfold(2, encoder.args.patch, 1).unfold(3, encoder.args.patch, 1)  # [1 3 h w p p]
    codes = encoder.signed(windows.permute(0, 2, 3, 1, 4, 5).flatten(0, 2))
    y = (encoder.patches(images(1))[0] - encoder.patch_mean) @ encoder.whiten
    W = encoder.dictionary.T.contiguous()
    # plain ISTA in float64, many steps
    exact, D = torch.zeros(len(y), 10, dtype=torch.float64), W.double()
    step = 1 / float(torch.linalg.matrix_norm(D, 2)) ** 2
    for _ in range(3000):
        z = exact + step * (y.double() - exact @ D.T) @ D
        exact = z.sign() * (z.abs() - step * ARGS["l1"] / 2).clamp_min(0)
    least = lasso_objective(y.double(), D, exact, ARGS["l1"])
    torch.testing.assert_close(lasso_objective(y, W, codes, ARGS["l1"]), least, rtol=1e-4, atol=1e-5)
    positive, negative = exact.clamp_min(0).mean(0), (-exact).clamp_min(0).mean(0)
    expected = torch.cat([positive, negative]).view(1, 20, 1, 1).float()
    torch.testing.assert_close(encoder(images(1)), expected, rtol=1e-2, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("code", CODES)
def test_with_mirror_left_and_right_make_no_difference(code: str) -> None:
    encoder = fitted(code=code)
    features = encoder(images(3))
    assert encoder.config.model_args["grid"] == 3  # it holds for cells that are not in the middle, too
    torch.testing.assert_close(encoder(images(3).flip(3)), features, rtol=1e-3, atol=1e-3 if code == "lasso" else 1e-5)
    plain = fitted(code=code, mirror=False)
    assert not torch.allclose(plain(images(3).flip(3)), plain(images(3)), rtol=1e-2, atol=1e-2)


@torch.no_grad()
@pytest.mark.parametrize("code", CODES)
def test_signed_codes_of_patches_are_the_parts_of_the_features_and_turn_round_with_a_mirrored_patch(code: str) -> None:
    patches = images(5, side=4)
    signed = fitted(code=code).signed(patches)
    own, mirror = signed.split(5, dim=1)
    near: dict[str, Any] = {"rtol": 1e-3, "atol": 1e-3 if code == "lasso" else 1e-5}
    torch.testing.assert_close(fitted(code=code).signed(patches.flip(3)), torch.cat([mirror, own], dim=1), **near)
    positive, negative = fitted(code=code, mirror=False, atoms=5, grid=1)(patches).view(5, 2, -1).unbind(1)
    plain = fitted(code=code, mirror=False, atoms=5).signed(patches)
    torch.testing.assert_close(plain, positive - negative, **near)
    assert (signed < 0).any()
    assert (signed > 0).any()


@torch.no_grad()
@pytest.mark.parametrize("code", CODES)
def test_how_many_images_are_worked_on_at_once_does_not_matter(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = fitted(code=code)
    together = encoder(images(6))
    monkeypatch.setattr(module, "CHUNK", {"cpu": 1})
    torch.testing.assert_close(encoder(images(6)), together, rtol=1e-4, atol=1e-3 if code == "lasso" else 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("code", CODES)
def test_bfloat16_is_near_float32(code: str) -> None:
    encoder = fitted(code=code)
    exact = encoder(images(4))
    with torch.autocast("cpu", torch.bfloat16):
        rough = encoder(images(4))
    assert rough.dtype == torch.float32
    assert float(cosine_similarity(exact.flatten(), rough.flatten(), dim=0)) > 0.999
    # top_k may keep another atom of nearly the same response
    bound = 0.1 if code == "top_k" else 0.03
    assert float((exact - rough).abs().max()) < bound * float(exact.abs().max())


@torch.no_grad()
def test_images_of_another_size_are_served_down_to_the_patchs_side() -> None:
    encoder = fitted()
    assert encoder(images(2, side=20)).shape == (2, 10, 3, 3)
    torch.testing.assert_close(
        encoder(images(1, side=20))[0].double(), by_hand(encoder, images(1, side=20)[0]), rtol=1e-4, atol=1e-5
    )
    with pytest.raises(ValueError, match="patches of 4 px do not fit into 3x3"):
        encoder(images(1, side=3))


@torch.no_grad()
def test_patterns_of_the_atoms_respond_as_the_atoms_do() -> None:
    encoder = fitted(mirror=False)
    shown = encoder.atoms()
    assert shown.shape == (10, 3, 4, 4)
    torch.testing.assert_close(shown.flatten(1) @ encoder.whiten, encoder.dictionary, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("config", "image_size", "message"),
    [
        ({"model_args": {"atoms": 5}}, 32, "mirror needs an even number of atoms, not 5"),
        (
            {"model_args": {"atoms": 6, "code": "top_k", "top_k": 9}},
            32,
            "top_k 9 exceeds the number of atoms (6)",
        ),
        (
            {"model_args": {"patch": 6, "grid": 4}},
            8,
            "patch_dictionary cannot be used as an encoder at 8 px: "
            "patches of 6 px leave 3 positions per side for a grid of 4",
        ),
        (
            {"pretrained": True},
            32,
            "encoder.pretrained: patch_dictionary has no pretrained weights; use a timm model, or false",
        ),
        ({"stem": "small"}, 32, "encoder.stem: patch_dictionary has no stem to replace; leave it at auto"),
    ],
)
def test_what_it_cannot_encode_is_refused(config: dict[str, Any], image_size: int, message: str) -> None:
    with pytest.raises(UserError) as caught:
        build_encoder(EncoderConfig(name="patch_dictionary", **config), image_size=image_size)
    assert str(caught.value).splitlines()[-1].strip() == message


def test_a_mask_channel_is_refused() -> None:
    with pytest.raises(UserError) as caught:
        build_encoder(EncoderConfig(name="patch_dictionary"), image_size=32, mask_channel=True)
    message = "encoder.name: patch_dictionary takes no mask channel; use another encoder for masking"
    assert str(caught.value) == message


def test_cutting_patches_leaves_images_of_a_patchs_size_as_they_were() -> None:
    small = images(2, side=4)
    before = small.clone()
    fitted().patches(small)
    assert torch.equal(small, before)
