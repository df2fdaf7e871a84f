"""Every corruption keeps one contract, and each does what its docstring says."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from scipy import ndimage, stats
from torch import Tensor

from common.corruptions import AnyCorruption, Blur, Corruption, Gaussian, Gray, Holes, Jpeg, SaltPepper
from common.corruptions.holes import draw_patches, enlarge
from common.corruptions.jpeg import compress

EVERY: list[Corruption] = [
    Gaussian(),
    Gaussian(sigma=0.1),
    SaltPepper(),
    Blur(),
    Jpeg(),
    Gray(),
    Holes(),
    Holes(size=5, fill="mean"),
]


@pytest.fixture(params=EVERY, ids=lambda corruption: repr(corruption))
def corruption(request: pytest.FixtureRequest) -> Corruption:
    chosen: Corruption = request.param
    return chosen


def smooth_images(count: int = 8, height: int = 24, width: int = 24) -> Tensor:
    """Something like photographs: smooth, colored, in [0, 1]."""
    noise = np.random.default_rng(0).normal(size=(count, 3, height, width))
    smooth = ndimage.gaussian_filter(noise, (0, 0.5, 2, 2), mode="nearest")
    low, high = smooth.min(), smooth.max()
    return torch.from_numpy((smooth - low) / (high - low)).float()


# ---- the contract


def test_keeps_shape_and_float32_and_leaves_its_input_alone(corruption: Corruption) -> None:
    images = smooth_images()
    before = images.clone()
    damaged = corruption(images)
    assert damaged.shape == images.shape
    assert damaged.dtype == torch.float32
    assert torch.equal(images, before)
    assert damaged.isfinite().all()
    assert not torch.equal(damaged, images)


def test_is_a_function_of_the_global_seed(corruption: Corruption) -> None:
    images = smooth_images()
    torch.manual_seed(3)
    first = corruption(images)
    torch.manual_seed(3)
    assert torch.equal(corruption(images), first)


def test_is_as_exact_under_autocast(corruption: Corruption) -> None:
    images = smooth_images()
    torch.manual_seed(3)
    plain = corruption(images)
    torch.manual_seed(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = corruption(images)
    assert cast.dtype == torch.float32
    assert torch.equal(cast, plain)


def test_takes_images_that_are_not_square_nor_a_multiple_of_anything(corruption: Corruption) -> None:
    images = smooth_images(2, 19, 30)
    assert corruption(images).shape == images.shape


def test_reads_back_from_its_own_dump(corruption: Corruption) -> None:
    reader: TypeAdapter[Corruption] = TypeAdapter(AnyCorruption)
    assert reader.validate_python(corruption.model_dump(mode="json")) == corruption


@pytest.mark.parametrize("kind", [Gaussian(), SaltPepper(), Blur(), Jpeg()], ids=lambda c: c.kind)
def test_parameters_are_drawn_for_every_image(kind: Corruption) -> None:
    torch.manual_seed(0)
    same = smooth_images(1).repeat(6, 1, 1, 1)
    wrong = (kind(same) - same).square().mean(dim=(1, 2, 3))
    assert len(wrong.unique()) == 6


# ---- each one


def test_log_normal_noise_levels_have_the_stated_quantiles() -> None:
    torch.manual_seed(0)
    logs = Gaussian().levels(torch.zeros(20_000, 3, 1, 1)).flatten().log()
    shares = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
    expected = stats.norm.ppf(shares, loc=-1.9, scale=1.2)
    assert np.quantile(logs.numpy(), shares) == pytest.approx(expected, abs=0.05)
    assert math.log(0.5) - 1.2 == pytest.approx(-1.9, abs=0.01)  # EDM's mean, halved


@settings(max_examples=20, deadline=None)
@given(sigma=st.floats(0.05, 2.0))
def test_noise_is_never_clipped_and_has_the_stated_level(sigma: float) -> None:
    torch.manual_seed(0)
    white = torch.ones(4, 3, 32, 32)
    damaged = Gaussian(sigma=sigma)(white)
    assert damaged.max() > 1 + sigma  # half of all noise on white is above white
    assert (damaged - white).std().item() == pytest.approx(sigma, rel=0.05)


@settings(max_examples=20, deadline=None)
@given(amount=st.floats(0.001, 0.999))
def test_salt_and_pepper_changes_whole_pixels_to_black_or_white(amount: float) -> None:
    torch.manual_seed(0)
    images = smooth_images(4).clamp(0.1, 0.9)
    damaged = SaltPepper(amount=amount)(images)
    lost = (damaged != images).any(dim=1)
    values = damaged.permute(0, 2, 3, 1)[lost]
    assert ((values == 0).all(dim=1) | (values == 1).all(dim=1)).all()
    assert lost.float().mean().item() == pytest.approx(amount, abs=0.05)
    if amount > 0.1:
        assert (values[:, 0] == 1).float().mean().item() == pytest.approx(0.5, abs=0.15)


def test_blur_is_scipys_gaussian_filter() -> None:
    images = smooth_images(3, 24, 31)
    expected = ndimage.gaussian_filter(images.double().numpy(), (0, 0, 1.3, 1.3), mode="mirror", radius=(0, 0, 4, 4))
    assert Blur(sigma=1.3)(images).numpy() == pytest.approx(expected, abs=1e-5)


def test_blur_wider_than_the_image_still_blurs() -> None:
    images = smooth_images(2, 8, 8)
    assert Blur(sigma=20)(images).std() < images.std()


@pytest.mark.parametrize("quality", [5, 20, 50, 75, 95])
def test_jpeg_is_close_to_libjpeg(quality: int) -> None:
    images = (smooth_images(6, 32, 48) * 255).round() / 255
    expected = []
    for image in images:
        stream = io.BytesIO()
        pixels = image.mul(255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(stream, "JPEG", quality=quality, subsampling="4:2:0")
        expected.append(torch.from_numpy(np.array(Image.open(stream))).permute(2, 0, 1))
    reference = torch.stack(expected).float() / 255
    ours = compress(images, torch.full((6,), float(quality)))
    # libjpeg rounds to whole levels on the way and shifts chroma differently: nearer to it than it is to the original
    assert (ours - reference).square().mean() < 0.25 * (reference - images).square().mean() + (1 / 255) ** 2


def test_jpeg_loses_more_at_lower_quality() -> None:
    images = smooth_images(1)
    losses = [(compress(images, torch.tensor([q])) - images).square().mean().item() for q in (90.0, 50.0, 20.0, 5.0)]
    assert losses == sorted(losses)


def test_gray_is_luma_on_three_channels() -> None:
    image = torch.tensor([0.2, 0.5, 0.9]).view(1, 3, 1, 1).expand(2, 3, 4, 4)
    expected = 0.299 * 0.2 + 0.587 * 0.5 + 0.114 * 0.9
    assert Gray()(image).numpy() == pytest.approx(np.full((2, 3, 4, 4), expected), abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(ratio=st.floats(0.01, 0.99), size=st.sampled_from([1, 2, 4, 8]))
def test_holes_cover_exactly_the_stated_share(ratio: float, size: int) -> None:
    images = smooth_images(3, 16, 32)
    damaged, hidden = Holes(ratio=ratio, size=size).punch(images)
    patches = (16 // size) * (32 // size)
    expected = min(max(round(ratio * patches), 1), patches - 1) * size**2
    assert hidden.sum(dim=(1, 2, 3)).tolist() == [expected] * 3
    assert torch.equal(damaged, torch.where(hidden > 0, 0.5, images))


def test_holes_can_be_filled_with_the_mean_color() -> None:
    images = smooth_images(2)
    damaged, hidden = Holes(fill="mean").punch(images)
    filled = damaged.permute(0, 2, 3, 1)[1][hidden[1, 0] > 0]
    assert filled.numpy() == pytest.approx(images[1].mean(dim=(1, 2)).expand(len(filled), 3).numpy(), abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(ratio=st.floats(0.01, 0.99), rows=st.integers(1, 9), columns=st.integers(2, 9))
def test_kept_patches_are_the_ones_not_hidden_in_rising_order(ratio: float, rows: int, columns: int) -> None:
    visible, hidden = draw_patches(torch.zeros(4, 3, 1, 1), (rows, columns), ratio)
    assert (visible.diff(dim=1) > 0).all()
    assert visible.shape[1] + int(hidden[0].sum()) == rows * columns
    assert (hidden.gather(1, visible) == 0).all()


def test_all_patches_are_hidden_equally_often() -> None:
    torch.manual_seed(0)
    _, hidden = draw_patches(torch.zeros(4000, 3, 1, 1), (4, 4), 0.75)
    assert hidden.mean(dim=0).numpy() == pytest.approx(np.full(16, 0.75), abs=0.03)


def test_enlarge_repeats_every_number_over_its_patch() -> None:
    assert enlarge(torch.tensor([[[[1.0, 2.0]]]]), 2).tolist() == [[[[1, 1, 2, 2], [1, 1, 2, 2]]]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "jpeg", "quality": [50, 10]}, "must be \\[lowest, highest\\], got \\[50, 10\\]"),
        ({"kind": "jpeg", "quality": 0}, "must lie between 1 and 100, got \\[0, 0\\]"),
        ({"kind": "salt_pepper", "amount": 1.5}, "must lie between 0 and 1"),
        ({"kind": "salt_pepper", "amount": 0}, "must replace some pixels, and not all of every image"),
        ({"kind": "salt_pepper", "amount": [1, 1]}, "must replace some pixels, and not all of every image"),
        ({"kind": "gaussian", "sigma": 0}, "greater than or equal to 0.000001"),
        ({"kind": "holes", "ratio": 1}, "less than 1"),
    ],
)
def test_wrong_settings_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TypeAdapter(AnyCorruption).validate_python(values)


@pytest.mark.parametrize(
    ("corruption", "setting"),
    [(Gaussian, "sigma"), (Gaussian, "log_mean"), (Gaussian, "log_std"), (Holes, "size"), (Blur, "sigma")],
)
def test_settings_that_leave_nothing_of_an_image_are_refused(corruption: type[Corruption], setting: str) -> None:
    with pytest.raises(ValidationError, match=setting):
        corruption.model_validate({setting: 10**30})
