"""Atoms of a dictionary: their norm, their use, and how they are shown."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from common.augment import WHOLE
from common.encoders.patch_dictionary import PatchDictionary
from common.encoders.sparse_code import SparseCode
from common.errors import UserError
from common.machine.distributed import World
from pretrain.in_memory import fit
from pretrain.linear import PatchDictionaryFit, SparseCoding
from pretrain.report.dictionary import most_exciting, upright
from tests.pretrain.toys import (
    BATCH,
    NETWORK,
    SIDE,
    images_of,
)

HERE = World(0, 1, torch.device("cpu"))


@pytest.mark.parametrize("mirror", [True, False], ids=["mirror", "plain"])
def test_patches_that_excite_an_atom_are_shown_in_its_orientation(mirror: bool) -> None:
    config = PatchDictionaryFit.model_validate({"learn": "random", "network": {**NETWORK, "mirror": mirror}})
    images = images_of("")
    learner = config.build(SIDE, WHOLE, HERE, 0)
    encoder = learner.encoder
    learner.initialize(images)
    assert isinstance(encoder, PatchDictionary)
    explained = learner.explain(images)
    assert explained is not None
    turned = upright(explained)
    _, shown = most_exciting(turned, turned.codes.abs().mean(0))
    order = turned.codes.abs().mean(0).argsort(descending=True)[: len(shown)]
    # by hand: every window, and its mirror image, against an atom or its negative
    windows = torch.cat([images[:, :, y : y + 4, x : x + 4] for y in (0, 4) for x in (0, 4)])
    windows = torch.cat([windows, windows.flip(3)]) if mirror else windows

    def responses(patches: Tensor) -> Tensor:
        white = (encoder.patches(patches)[:, 0] - encoder.patch_mean) @ encoder.whiten
        return white @ encoder.dictionary.T

    z = responses(windows)
    soft = z.sign() * (z.abs() - encoder.args.threshold).clamp_min(0)
    for atom, patches in zip(order.tolist(), shown, strict=True):
        sign = 1 if soft[:, atom].sum() > 0 else -1
        best = (sign * z[:, atom]).sort(descending=True).values[: len(patches)]
        torch.testing.assert_close(sign * responses(patches)[:, atom], best, rtol=1e-4, atol=1e-4)


def dictionary(config: SparseCoding, steps: int = 12) -> Tensor:
    encoder = fit(config, images_of(""), steps=steps, batch_size=BATCH)
    assert isinstance(encoder, SparseCode)
    return encoder.dictionary


@pytest.mark.parametrize("penalty", ["l1", "l0", "atoms"])
def test_atoms_have_unit_norm_without_gamma(penalty: Any) -> None:
    norms = dictionary(SparseCoding(atoms=24, penalty=penalty, strength=0.05, top_k=4)).norm(dim=0)
    torch.testing.assert_close(norms, torch.ones(24), atol=1e-5, rtol=0)


def test_gamma_leaves_the_norm_of_atoms_free_and_shrinks_them() -> None:
    norms = [dictionary(SparseCoding(atoms=24, strength=0.5, gamma=gamma)).norm(dim=0) for gamma in (1e-3, 1e-2, 1e-1)]
    assert all(float(one.max() - one.min()) > 1e-3 for one in norms)
    means = [float(one.square().sum()) for one in norms]
    assert means[0] > means[1] > means[2]


@pytest.mark.parametrize("kind", ["sparse_coding", "kmeans"])
def test_an_atom_that_no_image_uses_is_replaced(kind: str) -> None:
    """Gray images never excite an atom of pure color."""
    config: SparseCoding | PatchDictionaryFit = SparseCoding(atoms=24, strength=0.05)
    if kind == "kmeans":
        config = PatchDictionaryFit.model_validate({"network": NETWORK, "patches": 32})
    images = images_of("").mean(1, keepdim=True).expand(-1, 3, -1, -1).contiguous()
    learner = config.build(SIDE, WHOLE, HERE, 0)
    encoder = learner.encoder
    learner.initialize(images)
    assert isinstance(encoder, (SparseCode, PatchDictionary))
    atoms = encoder.dictionary if isinstance(encoder, SparseCode) else encoder.dictionary.T  # views, [d h]
    color = torch.zeros(3, len(atoms) // 3)
    color[0], color[1] = 1, -1
    color = color.flatten() / color.norm()
    atoms[:, 0] = color
    rows = torch.arange(len(images))
    for step in range(9):
        _, told = learner.learn(images, step, rows)
        assert int(told["unused_atoms"]) == (2 if kind == "kmeans" else 1)  # with its mirror image
        assert float(atoms[:, 0] @ color) == pytest.approx(1, abs=1e-5)
    learner.learn(images, 9, rows)
    assert abs(float(atoms[:, 0] @ color)) < 0.1
    assert float(atoms[:, 0].norm()) == pytest.approx(1, abs=1e-5)
    _, told = learner.learn(images, 10, rows)
    assert int(told["unused_atoms"]) == 0


def test_images_without_any_structure_are_a_user_error() -> None:
    flat = torch.full((40, 3, SIDE, SIDE), 0.5)
    with pytest.raises(UserError, match=r"fit.kind=sparse_coding: 24 atoms are unused, but all candidate rows"):
        fit(SparseCoding(atoms=24), flat, steps=10)
