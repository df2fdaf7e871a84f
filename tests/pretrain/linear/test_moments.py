"""Streaming moments against numpy's formula on all rows at once."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pretrain.linear import moments as module
from pretrain.linear.moments import CrossMoments, Moments


def rows_of(n: int, d: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64).to(dtype)


def moments_of(rows: Tensor) -> Moments:
    moments = Moments(rows.shape[1])
    moments.add(rows)
    return moments


def test_moments_are_the_mean_and_the_unbiased_covariance() -> None:
    moments = moments_of(torch.tensor([[0.0, 1.0], [2.0, 1.0], [4.0, 4.0]]))
    assert moments.count == 3
    assert moments.mean.tolist() == [2.0, 2.0]
    assert moments.covariance().tolist() == [[4.0, 3.0], [3.0, 3.0]]


@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=12), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_moments_do_not_depend_on_how_rows_are_split(sizes: list[int], seed: int) -> None:
    rows = rows_of(sum(sizes) + 2, 4, seed) + 5
    moments = Moments(4)
    for batch in rows.split([*sizes, 2]):
        moments.add(batch)
    assert moments.count == len(rows)
    torch.testing.assert_close(moments.mean, rows.mean(0), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(moments.covariance(), torch.cov(rows.T), rtol=1e-11, atol=1e-12)


def test_a_long_batch_is_processed_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(50, 3)
    monkeypatch.setattr(module, "BLOCK", 7)
    torch.testing.assert_close(moments_of(rows).covariance(), torch.cov(rows.T), rtol=1e-12, atol=1e-13)


def test_a_mean_far_from_zero_loses_no_precision() -> None:
    rows = rows_of(2000, 3)
    far = Moments(3)
    for batch in (rows + 1e6).split(64):
        far.add(batch)
    # rows + 1e6 are themselves rounded to 1e-10; sums of squares near 1e12 would leave errors of 1e-4 to 1e-3
    torch.testing.assert_close(far.covariance(), torch.cov(rows.T), rtol=1e-8, atol=1e-9)


def test_float32_and_uint8_rows_are_summed_in_float64() -> None:
    rows = rows_of(3000, 5, dtype=torch.float32)
    torch.testing.assert_close(moments_of(rows).covariance(), torch.cov(rows.double().T), rtol=1e-12, atol=1e-13)
    pixels = torch.randint(0, 256, (300, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    torch.testing.assert_close(moments_of(pixels).covariance(), torch.cov(pixels.double().T), rtol=1e-12, atol=1e-10)


@given(cut=st.integers(0, 6))
@settings(max_examples=7, deadline=None)
def test_a_loaded_state_continues_bit_for_bit(cut: int) -> None:
    batches = rows_of(60, 4).split(10)
    whole = Moments(4)
    for batch in batches:
        whole.add(batch)
    first, second = Moments(4), Moments(4)
    for batch in batches[:cut]:
        first.add(batch)
    state = first.state_dict()
    first.add(batches[0])  # later batches do not change the copy
    second.load_state_dict(state)
    for batch in batches[cut:]:
        second.add(batch)
    assert second.state_dict().keys() == whole.state_dict().keys()
    assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in second.state_dict().items())


def test_pairs_have_the_covariances_of_both_views_and_between_them() -> None:
    x, y = rows_of(80, 3), rows_of(80, 2, seed=1)
    pairs = CrossMoments(3, 2)
    for start in range(0, 80, 32):
        pairs.add(x[start : start + 32], y[start : start + 32].float().double())
    y = y.float().double()
    cxx, cxy, cyy = pairs.covariance()
    torch.testing.assert_close(cxx, torch.cov(x.T))
    torch.testing.assert_close(cyy, torch.cov(y.T))
    torch.testing.assert_close(cxy, (x - x.mean(0)).T @ (y - y.mean(0)) / 79)
    torch.testing.assert_close(pairs.mean_x, x.mean(0))
    torch.testing.assert_close(pairs.mean_y, y.mean(0))
    again = CrossMoments(3, 2)
    again.load_state_dict(pairs.state_dict())
    assert again.count == 80
    assert all(torch.equal(a, b) for a, b in zip(again.covariance(), pairs.covariance(), strict=True))


def test_mistakes_are_refused_and_do_not_change_the_sums() -> None:
    moments = moments_of(rows_of(5, 3))
    before = moments.state_dict()
    for rows, message in [
        (torch.zeros(4, 2), r"rows must be \[rows 3\], not \[4, 2\]"),
        (torch.zeros(3), r"rows must be \[rows 3\], not \[3\]"),
        (torch.tensor([[0.0, float("nan"), 1.0]]), "not finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            moments.add(rows)
    assert all(torch.equal(tensor, before[name]) for name, tensor in moments.state_dict().items())
    with pytest.raises(ValueError, match="at least 2 rows; 1 were added"):
        moments_of(rows_of(1, 3)).covariance()
    with pytest.raises(ValueError, match="at least one column"):
        Moments(0)
    with pytest.raises(ValueError, match="x has 4 rows, y has 3"):
        CrossMoments(2, 2).add(torch.zeros(4, 2), torch.zeros(3, 2))


def test_a_wrong_state_is_refused_with_all_problems() -> None:
    state = moments_of(rows_of(5, 3)).state_dict()
    del state["mean"]
    state["scatter"] = state["scatter"].float()
    state["extra"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"mean is missing; extra is unknown; scatter is \[3, 3\] torch.float32"):
        Moments(3).load_state_dict(state)
    with pytest.raises(ValueError, match=r"views of \[3, 2\] columns, not of \[2, 3\]"):
        CrossMoments(2, 3).load_state_dict(CrossMoments(3, 2).state_dict())
