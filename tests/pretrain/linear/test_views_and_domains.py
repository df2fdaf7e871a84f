"""Methods of two views or two domains, as the stage fits them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from common.augment import WHOLE
from common.errors import UserError
from common.machine.distributed import World
from pretrain.in_memory import fit
from pretrain.linear import Cca, Tca
from pretrain.opening import check_sources
from tests.pretrain.toys import (
    SIDE,
    images_of,
    settings,
)
from tests.toys import RandomSource

HERE = World(0, 1, torch.device("cpu"))


def test_neighbors_are_adjacent() -> None:
    config = Cca(components=2, views="neighbors")
    learner: Any = config.build(SIDE, WHOLE, HERE, 0)
    rows, columns = torch.meshgrid(torch.arange(2.0 * SIDE), torch.arange(2.0 * SIDE), indexing="ij")
    images = torch.stack([rows, columns, rows])[None]
    tops = set()
    for seed in range(40):
        torch.manual_seed(seed)
        left, right = learner.views(images, torch.arange(1))
        assert left.shape == right.shape == (1, 3, SIDE, SIDE)
        assert torch.equal(right[:, 0], left[:, 0])
        assert torch.equal(right[:, 1], left[:, 1] + SIDE)
        tops.add(float(left[0, 0, 0, 0]))
    assert min(tops) == 0
    assert max(tops) == SIDE


def test_cca_of_two_views_finds_what_they_share() -> None:
    """One latent variable sets the red level of one view and the blue level of the other; everything else is noise."""
    torch.manual_seed(0)
    shared, noise = torch.rand(400), 0.2 * torch.rand(2, 400, 3, SIDE, SIDE)
    first, second = noise
    first[:, 0] += 0.7 * shared[:, None, None]
    second[:, 2] += 0.7 * shared[:, None, None]
    encoder = fit(Cca(components=1, views="other"), first, second)
    code = encoder(first).flatten()
    assert abs(float(torch.corrcoef(torch.stack([code, shared]))[0, 1])) > 0.95


def test_sources_of_unequal_length_are_refused_as_pairs(tmp_path: Path) -> None:
    config = settings(tmp_path / "run", "cca-other")
    config = config.model_copy(update={"data": config.data.model_copy(update={"limit": 20})})
    check_sources(config, [RandomSource(40), RandomSource(40)])
    with pytest.raises(UserError) as caught:  # twenty of each, but not the same twenty
        check_sources(config, [RandomSource(40), RandomSource(30)])
    assert str(caught.value) == "fit.kind=cca pairs images by row, but noise has 40 rows and noise has 30"


def test_the_problems_tca_solves_do_not_grow_with_the_image_size(monkeypatch: pytest.MonkeyPatch) -> None:
    solve, sizes = torch.linalg.eigh, []
    monkeypatch.setattr(torch.linalg, "eigh", lambda matrix: sizes.append(len(matrix)) or solve(matrix))
    images = images_of("", limit=30)
    fit(Tca(components=4, landmarks=20), images, 1 - images)
    assert len(sizes) == 3  # TCA, kernel PCA, and PCA of the 60 images that are compared
    assert max(sizes) == 60 < 3 * SIDE**2


def test_tca_can_have_more_components_than_directions_in_which_pixels_vary() -> None:
    """Gray images of 8 px vary in 64 directions; their kernel features in more."""
    images = images_of("").mean(1, keepdim=True).expand(-1, 3, -1, -1)
    encoder = fit(Tca(components=70, landmarks=80), images, 1 - images)
    assert encoder(images[:4]).shape == (4, 70, 1, 1)


def test_tca_is_fitted_even_if_domains_are_too_similar_to_compare() -> None:
    images = torch.rand(100, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    alike = torch.cat([images[:1].expand(80, -1, -1, -1), images[80:]])  # most distances are zero
    encoder = fit(Tca(components=2, landmarks=20, kernel="linear"), alike, alike.flip(0))
    assert encoder(images).isfinite().all()


def test_codes_whose_domains_cannot_be_compared_are_named_and_the_fit_stays(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def compared(a: Tensor, b: Tensor) -> float:
        if a.shape[1] == 3 * SIDE**2:  # pixels
            raise ValueError("the median distance between 60 rows is 0: give a width")
        return 0.5

    monkeypatch.setattr("pretrain.linear.tca.maximum_mean_discrepancy", compared)
    images = images_of("", limit=30)
    encoder = fit(Tca(components=2, landmarks=20), images, 1 - images)
    assert encoder(images).isfinite().all()
    assert "no discrepancy for pixels: the median distance between 60 rows is 0: give a width" in caplog.messages
    assert "maximum mean discrepancy between the two domains: pca 0.5000, kernel_pca 0.5000, tca 0.5000" in caplog.text
