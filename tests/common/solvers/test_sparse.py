"""Sparse coders against scikit-learn, closed forms, and what must hold at every step."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import sparse_encode
from sklearn.linear_model import orthogonal_mp_gram
from torch import Tensor

from common.solvers import (
    apart,
    fista,
    hard_threshold,
    iht,
    l0_objective,
    lasso,
    lasso_objective,
    moving,
    omp,
    relative_gap,
    soft_threshold,
    top_k,
)
from common.solvers.problem import curvature, solve_on_support

few = settings(max_examples=15, deadline=None)


def problem(
    seed: int = 0, B: int = 12, d: int = 16, h: int = 40, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Rows of correlated numbers and unit atoms that are as correlated: a hard case for first-order steps."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=generator, dtype=torch.float64) + 2 * torch.eye(d, dtype=torch.float64)
    x = torch.randn(B, d, generator=generator, dtype=torch.float64) @ mix / d**0.5
    dictionary = mix @ torch.randn(d, h, generator=generator, dtype=torch.float64)
    return x.to(dtype), (dictionary / dictionary.norm(dim=0)).to(dtype)


# ---- L1


@pytest.mark.parametrize("algorithm", ["lasso_cd", "lasso_lars"])
@pytest.mark.parametrize("l1", [0.05, 0.3, 1.0])
def test_fista_reaches_sklearns_objective_in_every_row(algorithm: str, l1: float) -> None:
    x, dictionary = problem(B=15)
    reference = sparse_encode(x.numpy(), dictionary.T.numpy(), algorithm=algorithm, alpha=l1 / 2, max_iter=50_000)
    theirs = lasso_objective(x, dictionary, torch.from_numpy(reference), l1)
    ours = lasso_objective(x, dictionary, fista(x, dictionary, l1, steps=3000, tolerance=1e-7), l1)
    assert (ours / theirs - 1).max() < 1e-6


def test_the_gap_bounds_how_far_codes_are_from_their_optimum() -> None:
    x, dictionary = problem(B=15)
    best = lasso_objective(x, dictionary, fista(x, dictionary, 0.3, steps=1000, tolerance=1e-9), 0.3)
    for steps in (1, 5, 20, 1000):
        codes = fista(x, dictionary, 0.3, steps=steps, tolerance=0)
        value, gap = lasso_objective(x, dictionary, codes, 0.3), relative_gap(x, dictionary, codes, 0.3)
        assert (value * (1 - gap) <= best * (1 + 1e-8)).all()
        assert gap.dtype == torch.float64
    assert (gap < 1e-4).all()  # and it closes


def test_codes_are_apart_from_their_minimum_or_not_whatever_rounding_leaves_of_the_gap() -> None:
    x, dictionary = problem(B=10, dtype=torch.float32)
    best = lasso_objective(x, dictionary, fista(x.double(), dictionary.double(), 0.01, steps=2000).float(), 0.01)
    for steps in (1, 60, 600):
        codes = fista(x, dictionary, 0.01, steps=steps, tolerance=0)
        above = lasso_objective(x, dictionary, codes, 0.01) / best - 1
        known = apart(x, dictionary, codes, 0.01)
        assert known[above > 2e-3].all()
        assert not known[above < 5e-4].any()
        assert bool(known.any()) or steps > 60


def test_rows_that_hard_thresholding_would_still_move_are_known() -> None:
    x, dictionary = problem(B=30)
    assert moving(x, dictionary, iht(x, dictionary, 0.02, steps=1), 0.02).any()
    codes = iht(x, dictionary, 0.02, steps=2000)
    assert not moving(x, dictionary, codes, 0.02).any()


@pytest.mark.parametrize("shape", [(16, 40), (40, 16), (16, 16)], ids=["overcomplete", "undercomplete", "square"])
def test_float32_with_default_settings_is_within_1e4_of_float64(shape: tuple[int, int]) -> None:
    x, dictionary = problem(B=60, d=shape[0], h=shape[1])
    best = lasso_objective(x, dictionary, fista(x, dictionary, 0.3, steps=1000, tolerance=1e-8), 0.3)
    codes = fista(x.float(), dictionary.float(), 0.3)
    assert codes.dtype == torch.float32
    assert (lasso_objective(x, dictionary, codes.double(), 0.3) / best - 1).max() < 1e-4


def test_nonnegative_codes_equal_sklearns() -> None:
    x, dictionary = problem(B=30)
    arguments = {"algorithm": "lasso_cd", "alpha": 0.1, "positive": True, "max_iter": 10_000}
    reference = torch.from_numpy(sparse_encode(x.numpy(), dictionary.T.numpy(), **arguments))
    codes = fista(x, dictionary, 0.2, steps=500, tolerance=1e-8, nonnegative=True)
    assert codes.min() >= 0
    theirs = lasso_objective(x, dictionary, reference, 0.2)
    assert (lasso_objective(x, dictionary, codes, 0.2) / theirs - 1).max() < 1e-6


@few
@given(
    seed=st.integers(0, 10_000),
    l1=st.floats(0, 3),
    h=st.integers(1, 40),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
    nonnegative=st.booleans(),
    warm=st.booleans(),
)
def test_no_objective_rises_at_any_step(
    seed: int, l1: float, h: int, scale: float, nonnegative: bool, warm: bool
) -> None:
    x, dictionary = problem(seed, B=5, d=10, h=h)
    dictionary = dictionary * scale
    start = torch.randn(5, h, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)
    start = (start.abs() if nonnegative else start) if warm else torch.zeros_like(start)
    before = lasso_objective(x, dictionary, start, l1)
    seen = steps_of_fista(x, dictionary, l1, steps=45, start=start, nonnegative=nonnegative)
    assert len(seen) == 45 + 3  # and polished after 20, 40 and 45
    for codes in seen:
        after = lasso_objective(x, dictionary, codes, l1)
        assert (after <= before * (1 + 1e-12) + 1e-15).all()
        before = after


def steps_of_fista(x: Tensor, dictionary: Tensor, l1: float, **how: Any) -> list[Tensor]:
    """The codes after everything that ``fista`` does to them."""
    seen: list[Tensor] = []

    class Watched(lasso.Block):
        def step(self) -> None:
            super().step()
            seen.append(self.codes.clone())

        def polish(self, gram: Tensor) -> None:
            super().polish(gram)
            seen.append(self.codes.clone())

        def relative_gap(self) -> Tensor:
            return torch.full_like(self.objective, torch.inf)  # all rows stay to the end

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(lasso, "Block", Watched)
        codes = fista(x, dictionary, l1, tolerance=0, **how)
    assert torch.equal(codes, seen[-1])
    return seen


def test_rows_that_leave_do_not_change_the_others() -> None:
    x, dictionary = problem(B=24)
    x[::2] = 0  # done at the first look
    together = fista(x, dictionary, 0.2, steps=500, tolerance=1e-9)
    alone = fista(x[1::2].contiguous(), dictionary, 0.2, steps=500, tolerance=1e-9)
    torch.testing.assert_close(together[1::2], alone)
    assert not together[::2].any()


def test_blocks_of_rows_join_seamlessly(monkeypatch: pytest.MonkeyPatch) -> None:
    x, dictionary = problem(B=50)
    whole = fista(x, dictionary, 0.2, steps=100, tolerance=0), iht(x, dictionary, 0.2), omp(x, dictionary, 4)
    monkeypatch.setattr("common.solvers.problem.BLOCK_CPU", 40 * 7)
    parts = fista(x, dictionary, 0.2, steps=100, tolerance=0), iht(x, dictionary, 0.2), omp(x, dictionary, 4)
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)  # rounding goes through many steps


@few
@given(seed=st.integers(0, 10_000), factor=st.floats(1, 5))
def test_a_penalty_beyond_the_largest_correlation_gives_zeros(seed: int, factor: float) -> None:
    x, dictionary = problem(seed, B=4)
    l1 = float(2 * (x @ dictionary).abs().max()) * factor * (1 + 1e-12)
    assert not fista(x, dictionary, l1).any()


@few
@given(seed=st.integers(0, 10_000), l1=st.floats(0, 3))
def test_orthogonal_atoms_give_the_soft_threshold_at_half_the_penalty(seed: int, l1: float) -> None:
    x, _ = problem(seed, B=4, d=10)
    dictionary = torch.linalg.qr(torch.randn(10, 10, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)).Q
    expected = soft_threshold(x @ dictionary, l1 / 2)
    torch.testing.assert_close(fista(x, dictionary, l1, steps=100, tolerance=1e-12), expected, rtol=1e-6, atol=1e-9)


def test_a_start_at_the_solution_stays_there() -> None:
    x, dictionary = problem()
    solution = fista(x, dictionary, 0.3, steps=1000, tolerance=1e-12)
    torch.testing.assert_close(fista(x, dictionary, 0.3, steps=20, start=solution), solution, rtol=1e-6, atol=1e-8)


def test_two_copies_of_an_atom_do_no_harm() -> None:
    x, dictionary = problem()
    doubled = torch.cat([dictionary, dictionary], dim=1)
    once = lasso_objective(x, dictionary, fista(x, dictionary, 0.3, tolerance=1e-9), 0.3)
    twice = lasso_objective(x, doubled, fista(x, doubled, 0.3, steps=1000, tolerance=1e-9), 0.3)
    torch.testing.assert_close(once, twice, rtol=1e-6, atol=0)


def test_no_rows_and_no_steps_are_answered() -> None:
    x, dictionary = problem()
    assert fista(x[:0], dictionary, 0.1).shape == (0, 40)
    assert iht(x[:0], dictionary, 0.1).shape == (0, 40)
    assert omp(x[:0], dictionary, 2).shape == (0, 40)
    assert not fista(x, dictionary, 0.1, steps=0).any()


# ---- L0


@pytest.mark.parametrize("atoms", [1, 3, 8, 16])
def test_omp_equals_sklearns(atoms: int) -> None:
    x, dictionary = problem(B=25)
    reference = orthogonal_mp_gram(
        (dictionary.T @ dictionary).numpy(), (x @ dictionary).T.numpy(), n_nonzero_coefs=atoms
    )
    codes = omp(x, dictionary, atoms)
    assert ((codes != 0).sum(1) <= atoms).all()
    torch.testing.assert_close(codes, torch.from_numpy(reference.T.copy()), rtol=1e-6, atol=1e-8)


def test_omp_stops_where_nothing_is_left() -> None:
    dictionary = torch.eye(6, dtype=torch.float64)
    x = torch.tensor([[0, 0, 0, 0, 0, 0], [0, 3, 0, 0, -1, 0], [1, 2, 3, 4, 5, 6]], dtype=torch.float64)
    codes = omp(x, dictionary, 3)
    assert (codes != 0).sum(1).tolist() == [0, 2, 3]
    torch.testing.assert_close(codes[1], x[1])


def test_omp_finds_what_a_row_was_made_of() -> None:
    generator = torch.Generator().manual_seed(0)
    dictionary = torch.nn.functional.normalize(torch.randn(64, 128, generator=generator), dim=0)
    codes = top_k(torch.randn(50, 128, generator=generator), 4)
    torch.testing.assert_close(omp(codes @ dictionary.T, dictionary, 4), codes, rtol=1e-3, atol=1e-4)


def test_omp_refuses_atoms_of_other_norms() -> None:
    x, dictionary = problem()
    with pytest.raises(ValueError, match="unit norm"):
        omp(x, dictionary * 2, 3)


@few
@given(seed=st.integers(0, 10_000), l0=st.floats(0.05, 2))
def test_iht_ends_at_a_fixed_point_no_higher_than_its_start(seed: int, l0: float) -> None:
    x, dictionary = problem(seed, B=5)
    start = omp(x, dictionary, 3)
    codes = iht(x, dictionary, l0, steps=2000, start=start)
    assert (l0_objective(x, dictionary, codes, l0) <= l0_objective(x, dictionary, start, l0) + 1e-12).all()
    c = curvature(dictionary)
    again = hard_threshold(codes + (x - codes @ dictionary.T) @ dictionary / c, (l0 / c) ** 0.5)
    torch.testing.assert_close(again, codes, rtol=1e-6, atol=1e-7)


def test_iht_never_rises_with_more_steps() -> None:
    x, dictionary = problem()
    values = [l0_objective(x, dictionary, iht(x, dictionary, 0.05, steps=steps), 0.05) for steps in range(0, 60, 3)]
    # the fit on the support after the last step is an extra: plain steps may follow it later
    assert (values[-1] <= values[0]).all()
    ten_by_ten = [
        l0_objective(x, dictionary, iht(x, dictionary, 0.05, steps=steps), 0.05) for steps in (0, 10, 20, 40, 80)
    ]
    for before, after in pairwise(ten_by_ten):
        assert (after <= before + 1e-12).all()


def test_iht_on_orthogonal_atoms_is_the_hard_threshold_at_the_root_of_the_penalty() -> None:
    x, _ = problem(d=10)
    dictionary = torch.linalg.qr(torch.randn(10, 10, generator=torch.Generator().manual_seed(1), dtype=x.dtype)).Q
    torch.testing.assert_close(iht(x, dictionary, 0.25), hard_threshold(x @ dictionary, 0.5), rtol=1e-5, atol=1e-7)


def test_solutions_on_supports_of_any_size_are_exact() -> None:
    x, dictionary = problem(B=20, d=16, h=12)
    codes = torch.stack([(torch.arange(12) < size).double() for size in [*range(13), 5, 5, 0, 12, 1, 2, 3]])
    found = solve_on_support(dictionary.T @ dictionary, x @ dictionary, codes)
    for row, code, solution in zip(x, codes, found, strict=True):
        used = code != 0
        assert not solution[~used].any()
        expected = torch.linalg.lstsq(dictionary[:, used], row[:, None]).solution[:, 0] if used.any() else row[:0]
        torch.testing.assert_close(solution[used], expected)


def test_thresholds_and_budgets_by_hand() -> None:
    x = torch.tensor([-2.0, -0.5, 0.0, 0.5, 3.0])
    assert soft_threshold(x, 0.5).tolist() == [-1.5, 0, 0, 0, 2.5]
    assert hard_threshold(x, 0.5).tolist() == [-2, 0, 0, 0, 3]
    assert top_k(x, 2).tolist() == [-2, 0, 0, 0, 3]
    assert (top_k(torch.ones(3, 7), 4) != 0).sum(1).tolist() == [4, 4, 4]
    assert not top_k(x, 0).any()
    maps = torch.randn(2, 7, 3, 3).to(memory_format=torch.channels_last)
    along = top_k(maps, 4, dim=1)
    assert torch.equal(along.movedim(1, -1), top_k(maps.movedim(1, -1), 4))
    assert along.stride() == maps.stride()  # a map of codes keeps its memory format


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, W: fista(x, W.T, 0.1), "dictionary"),
        (lambda x, W: fista(x[0], W, 0.1), "rows"),
        (lambda x, W: fista(x, W.float(), 0.1), "float32"),
        (lambda x, W: fista(x.half(), W.half(), 0.1), "float16"),
        (lambda x, W: fista(x, W, -0.1), "l1 must be"),
        (lambda x, W: fista(x, W, float("nan")), "l1 must be"),
        (lambda x, W: fista(x, W, 0.1, steps=-1), "steps"),
        (lambda x, W: fista(x, W, 0.1, tolerance=-1), "tolerance"),
        (lambda x, W: fista(x, W, 0.1, start=x), "start"),
        (lambda x, W: fista(x, W, 0.1, start=-torch.ones(12, 40).double(), nonnegative=True), "negative"),
        (lambda x, W: lasso_objective(x, W, x, 0.1), "codes"),
        (lambda x, W: iht(x, W, -1), "l0 must be"),
        (lambda x, W: omp(x, W, 17), r"0\.\.16"),
        (lambda x, W: top_k(x, 17), r"0\.\.16"),
        (lambda x, W: soft_threshold(x, -1), "threshold"),
        (lambda x, W: hard_threshold(x, -1), "threshold"),
    ],
)
def test_what_is_no_problem_is_refused(call: object, message: str) -> None:
    x, dictionary = problem()
    with pytest.raises(ValueError, match=message):
        call(x, dictionary)  # type: ignore[operator]
