"""Color bins and soft codes against brute force in float64; CIELAB against its own formula."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from common.encoders import Encoder
from common.errors import UserError
from pretrain.gradient.pretexts import Colorize, Pretext
from pretrain.gradient.pretexts.colorize import AB_SCALE, soft_code

EncoderFor = Callable[[Pretext, str], Encoder]


def lab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIE 1976 L*a*b* of sRGB ``[... 3]`` in [0, 1], white point D65 (IEC 61966-2-1, CIE 15)."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    matrix = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
    ratio = linear @ matrix.T / np.array([0.95047, 1.0, 1.08883])
    f = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)


@pytest.fixture(scope="module")
def fitted(photographs: Tensor) -> tuple[Colorize, dict[str, Tensor]]:
    pretext = Colorize(bins=12)
    return pretext, pretext.fit(photographs)


def test_target_is_the_ab_of_cielab(photographs: Tensor) -> None:
    colors = Colorize(stride=1).colors(photographs)
    expected = lab(photographs.double().permute(0, 2, 3, 1).numpy())[..., 1:]
    assert colors.permute(0, 2, 3, 1).numpy() == pytest.approx(expected, abs=0.05)


def test_target_has_a_quarter_of_the_resolution(photographs: Tensor) -> None:
    flat = torch.tensor([0.8, 0.3, 0.1]).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    colors = Colorize().colors(flat)
    assert colors.shape == (1, 2, 4, 4)
    expected = np.broadcast_to(lab(np.array([0.8, 0.3, 0.1]))[1:, None, None], (2, 4, 4))
    assert colors[0].numpy() == pytest.approx(expected, abs=0.05)


def test_the_encoder_sees_no_color(photographs: Tensor, encoder_for: EncoderFor) -> None:
    pretext = Colorize()
    encoder = encoder_for(pretext, "cnn").eval()
    example = pretext.corrupt(photographs, encoder)
    assert encoder.view == "gray"
    assert torch.equal(example.input[:, 0], example.input[:, 2])
    # the encoder sees the same for gray and color images: what it learns is what it uses in transfer
    assert torch.allclose(encoder(example.input), encoder(photographs), atol=1e-4)


def test_rarity_averages_one_over_the_sample_and_prefers_rare_colors(
    photographs: Tensor, fitted: tuple[Colorize, dict[str, Tensor]]
) -> None:
    pretext, state = fitted
    colors = pretext.colors(photographs).permute(0, 2, 3, 1).reshape(-1, 2).double()
    nearest = torch.cdist(colors, state["centers"].double()).argmin(dim=1)
    share = nearest.bincount(minlength=12).double() / len(nearest)
    rarity = 1 / (0.5 * share + 0.5 / 12)
    rarity = rarity / (share * rarity).sum()
    assert state["rarity"].numpy() == pytest.approx(rarity.numpy(), rel=1e-4)
    assert state["rarity"][nearest].mean().item() == pytest.approx(1, abs=1e-5)
    assert state["rarity"].argmax() == share.argmin()


def test_no_rebalancing_at_lambda_one(photographs: Tensor) -> None:
    assert Colorize(bins=12, rebalance=1).fit(photographs)["rarity"].numpy() == pytest.approx(np.ones(12), rel=1e-5)


def test_bins_do_not_depend_on_the_global_seed(photographs: Tensor, fitted: tuple[Colorize, dict[str, Tensor]]) -> None:
    torch.manual_seed(99)
    np.random.seed(99)
    again = fitted[0].fit(photographs)
    assert all(torch.equal(again[name], fitted[1][name]) for name in again)


def test_soft_code_is_brute_force_in_float64(fitted: tuple[Colorize, dict[str, Tensor]]) -> None:
    _, state = fitted
    colors = torch.randint(-60, 60, (3, 2, 4, 4), generator=torch.Generator().manual_seed(0)).float()
    bins, shares = soft_code(colors, state)
    dense = torch.zeros(3, 12, 4, 4).scatter(1, bins, shares)
    centers = state["centers"].double().numpy()
    for image, row, column in np.ndindex(3, 4, 4):
        distance = np.square(colors[image, :, row, column].double().numpy() - centers).sum(axis=1)
        five = np.argsort(distance)[:5]
        gauss = np.exp(-(distance[five] - distance.min()) / (2 * 5.0**2))
        expected = np.zeros(12)
        expected[five] = gauss / gauss.sum()
        assert dense[image, :, row, column].numpy() == pytest.approx(expected, abs=1e-4)
        assert bins[image, 0, row, column] == five[0]


def test_colors_outside_the_table_take_its_border(fitted: tuple[Colorize, dict[str, Tensor]]) -> None:
    far, border = (soft_code(torch.full((1, 2, 1, 1), value), fitted[1]) for value in (500.0, 110.0))
    assert torch.equal(far[0], border[0])
    assert torch.equal(far[1], border[1])


def test_loss_is_the_rebalanced_cross_entropy(
    photographs: Tensor, fitted: tuple[Colorize, dict[str, Tensor]], encoder_for: EncoderFor
) -> None:
    pretext, state = fitted
    example = pretext.corrupt(photographs, encoder_for(pretext, "cnn"))
    logits = torch.randn(len(photographs), 12, 4, 4, generator=torch.Generator().manual_seed(0))
    bins, shares = soft_code(example.target, state)
    soft = torch.zeros_like(logits).scatter(1, bins, shares).double()
    weight = state["rarity"].double()[bins[:, 0]]
    expected = -(weight * (soft * logits.double().log_softmax(dim=1)).sum(dim=1)).mean((1, 2))
    assert pretext.loss(logits, example, state).tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_regression_loss_is_zero_for_the_true_colors(photographs: Tensor, encoder_for: EncoderFor) -> None:
    pretext = Colorize(objective="regression")
    example = pretext.corrupt(photographs, encoder_for(pretext, "cnn"))
    assert pretext.fit(photographs) == {}
    assert pretext.loss(example.target / AB_SCALE, example, {}).max().item() == pytest.approx(0, abs=1e-12)
    off = pretext.loss((example.target + 5) / AB_SCALE, example, {})
    assert off.tolist() == pytest.approx([(5 / AB_SCALE) ** 2] * len(photographs), rel=1e-4)


def test_picture_keeps_the_true_lightness(photographs: Tensor, encoder_for: EncoderFor) -> None:
    pretext = Colorize(objective="regression", stride=1)
    example = pretext.corrupt(photographs, encoder_for(pretext, "cnn"))
    true = pretext.picture(example.target / AB_SCALE, example, {})
    assert torch.allclose(true, photographs, atol=2e-3)
    gray = pretext.picture(torch.zeros_like(example.target), example, {})
    lightness = lab(photographs.double().permute(0, 2, 3, 1).numpy())[..., 0]
    assert lab(gray.double().permute(0, 2, 3, 1).numpy())[..., 0] == pytest.approx(lightness, abs=0.1)


def test_a_certain_prediction_is_shown_as_its_bin(
    photographs: Tensor, fitted: tuple[Colorize, dict[str, Tensor]], encoder_for: EncoderFor
) -> None:
    pretext, state = fitted
    flat = torch.full_like(photographs, 0.5)
    example = pretext.corrupt(flat, encoder_for(pretext, "cnn"))
    logits = torch.zeros(len(flat), 12, 4, 4)
    logits[:, 3] = 50.0
    shown = lab(pretext.picture(logits, example, state).double().permute(0, 2, 3, 1).numpy())[..., 1:]
    expected = np.broadcast_to(state["centers"][3].numpy(), shown.shape)
    assert shown == pytest.approx(expected, abs=0.2)


def test_gray_photographs_are_refused(photographs: Tensor) -> None:
    with pytest.raises(UserError, match="have only 1 distinct colors"):
        Colorize().fit(photographs[:, :1].repeat(1, 3, 1, 1))


def test_a_stride_that_does_not_fit_the_image_is_named(encoder_for: EncoderFor) -> None:
    (problem,) = Colorize(stride=3).check(encoder_for(Colorize(), "cnn"))
    assert problem == "pretext.stride is 3, which does not divide the image size 16"


def test_bins_that_are_not_settled_in_time_are_warned_of(
    photographs: Tensor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("WARNING", "retouch"):
        Colorize(bins=12).fit(photographs)
        assert caplog.messages == []
        monkeypatch.setattr("pretrain.gradient.pretexts.colorize.PASSES", 1)
        Colorize(bins=12).fit(photographs)
    [said] = caplog.messages
    assert said.startswith("k-means of the color bins did not converge in 1 passes over ")
