"""The whitened distance equals its formula, computed with scipy in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.fft import dctn
from torch import Tensor

from common.errors import UserError
from pretrain.gradient.pretexts.restore import FLOOR, cosine_transform, error, fit_spectrum


def test_cosine_transform_is_scipys() -> None:
    images = torch.randn(2, 3, 6, 10, generator=torch.Generator().manual_seed(0))
    expected = dctn(images.double().numpy(), axes=(1, 2, 3), norm="ortho")
    assert cosine_transform(images).numpy() == pytest.approx(expected, abs=1e-5)


def test_whitened_distance_is_the_float64_formula(photographs: Tensor) -> None:
    spectrum = fit_spectrum(photographs)
    prediction = torch.rand(photographs.shape, generator=torch.Generator().manual_seed(0))
    ours = error("whitened", prediction, photographs, spectrum)
    variance = dctn(photographs.double().numpy(), axes=(1, 2, 3), norm="ortho").var(axis=0)
    floored = variance + FLOOR * variance.mean()
    floored *= (variance / floored).mean() / variance.mean()
    difference = dctn((prediction - photographs).double().numpy(), axes=(1, 2, 3), norm="ortho")
    assert ours.numpy() == pytest.approx(np.square(difference) / floored, rel=1e-2, abs=1e-4)


def test_the_mean_image_costs_the_same_whitened_or_not(photographs: Tensor) -> None:
    mean = photographs.mean(dim=0, keepdim=True).expand_as(photographs)
    plain = error("l2", mean, photographs, None).mean().item()
    assert error("whitened", mean, photographs, fit_spectrum(photographs)).mean().item() == pytest.approx(
        plain, rel=1e-3
    )


def test_a_fine_error_costs_more_than_a_broad_one_of_equal_size(photographs: Tensor) -> None:
    spectrum = fit_spectrum(photographs)
    broad = torch.full((1, 3, 16, 16), 0.1)
    fine = broad * (1 - 2 * (torch.arange(16) % 2))
    zero = torch.zeros_like(broad)
    assert error("l2", broad, zero, None).mean() == error("l2", fine, zero, None).mean()
    assert error("whitened", fine, zero, spectrum).mean() > 10 * error("whitened", broad, zero, spectrum).mean()


def test_l1_and_l2_are_the_plain_formulas() -> None:
    prediction, target = torch.tensor([0.2, 0.9]), torch.tensor([0.5, 0.5])
    assert error("l1", prediction, target, None).tolist() == pytest.approx([0.3, 0.4])
    assert error("l2", prediction, target, None).tolist() == pytest.approx([0.09, 0.16])


@pytest.mark.parametrize("count", [1, 8])
def test_images_that_are_all_alike_have_no_spectrum(photographs: Tensor, count: int) -> None:
    with pytest.raises(UserError, match=r"but they are all alike: use more images, or pretext.distance=l2"):
        fit_spectrum(photographs[:1].expand(count, -1, -1, -1))
