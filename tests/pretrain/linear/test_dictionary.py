"""The dictionary step: exact where claimed, never uphill, and the same after a checkpoint."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from common.solvers import fista, lasso_objective, top_k
from pretrain.linear.dictionary import (
    DictionaryStatistics,
    dictionary_objective,
    replace_unused,
    unused_atoms,
    update_dictionary,
    worst_reconstructed,
)

few = settings(max_examples=25, deadline=None)


def unit(dictionary: Tensor) -> Tensor:
    return dictionary / dictionary.norm(dim=0)


def problem(seed: int = 0, N: int = 60, d: int = 8, h: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """Rows ``[N d]``, unit atoms ``[d h]`` and sparse codes ``[N h]``, float64."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(N, d, generator=generator, dtype=torch.float64)
    codes = top_k(torch.randn(N, h, generator=generator, dtype=torch.float64), 3)
    return x, unit(torch.randn(d, h, generator=generator, dtype=torch.float64)), codes


def moments(x: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    return codes.T @ codes / len(x), x.T @ codes / len(x)


def test_the_objective_is_the_error_minus_a_constant() -> None:
    x, dictionary, codes = problem()
    error = (x - codes @ dictionary.T).square().sum(1).mean() + 0.1 * dictionary.square().sum()
    value = dictionary_objective(dictionary, *moments(x, codes), gamma=0.1)
    torch.testing.assert_close(value + x.square().sum(1).mean(), error)


@few
@given(seed=st.integers(0, 10_000), sweeps=st.integers(1, 3), h=st.sampled_from([1, 5, 70, 130]))
def test_unit_atoms_stay_unit_and_no_update_goes_uphill(seed: int, sweeps: int, h: int) -> None:
    x, dictionary, codes = problem(seed, h=max(h, 3))
    A, B = moments(x, codes)
    before = dictionary_objective(dictionary, A, B)
    for _ in range(4):
        dictionary = update_dictionary(dictionary, A, B, sweeps=sweeps)
        after = dictionary_objective(dictionary, A, B)
        assert after <= before + 1e-12 * before.abs()
        torch.testing.assert_close(dictionary.norm(dim=0), torch.ones(dictionary.shape[1], dtype=torch.float64))
        before = after


def test_a_sweep_is_the_plain_loop_over_atoms() -> None:
    x, dictionary, codes = problem(h=150, N=400)
    A, B = moments(x, codes)
    expected = dictionary.clone()
    for j in range(150):
        c = B[:, j] - expected @ A[:, j] + expected[:, j] * A[j, j]
        expected[:, j] = c / c.norm()
    torch.testing.assert_close(update_dictionary(dictionary, A, B), expected, rtol=1e-4, atol=1e-5)


def test_the_gradient_vanishes_at_the_closed_form() -> None:
    x, dictionary, codes = problem()
    A, B = moments(x, codes)
    W = update_dictionary(dictionary, A, B, gamma=0.05, unit_norm=False).requires_grad_()
    (gradient,) = torch.autograd.grad(dictionary_objective(W, A, B, gamma=0.05), W)
    assert gradient.abs().max() < 1e-12


def test_the_closed_form_works_for_codes_of_low_rank() -> None:
    x, dictionary, codes = problem()
    codes[:, 3] = 0
    W = update_dictionary(dictionary.float(), *moments(x, codes), gamma=1e-8, unit_norm=False)
    assert W.dtype == torch.float32
    assert W.isfinite().all()
    assert not W[:, 3].any()


@few
@given(seed=st.integers(0, 10_000), gamma=st.floats(1e-4, 10), factor=st.floats(1.1, 100))
def test_a_larger_gamma_gives_a_smaller_dictionary(seed: int, gamma: float, factor: float) -> None:
    x, dictionary, codes = problem(seed)
    A, B = moments(x, codes)
    small = update_dictionary(dictionary, A, B, gamma=gamma * factor, unit_norm=False)
    large = update_dictionary(dictionary, A, B, gamma=gamma, unit_norm=False)
    assert small.norm() < large.norm()


def test_an_unused_atom_does_not_change_and_is_then_replaced() -> None:
    x, dictionary, codes = problem()
    codes[:, [2, 7]] = 0
    A, B = moments(x, codes)
    updated = update_dictionary(dictionary, A, B)
    assert torch.equal(updated[:, [2, 7]], dictionary[:, [2, 7]])
    assert unused_atoms(A.diagonal()).nonzero()[:, 0].tolist() == [2, 7]
    worst = worst_reconstructed(x, updated, codes, 2)
    replaced = replace_unused(updated, A.diagonal(), worst, torch.Generator().manual_seed(0))
    kept = [j for j in range(12) if j not in (2, 7)]
    assert torch.equal(replaced[:, kept], updated[:, kept])
    torch.testing.assert_close(replaced.norm(dim=0), torch.ones(12, dtype=torch.float64))
    along = (replaced[:, [2, 7]].T * worst).sum(1) / worst.norm(dim=1)
    assert (along > 0.999).all()
    assert torch.equal(replaced, replace_unused(updated, A.diagonal(), worst, torch.Generator().manual_seed(0)))


def test_fewer_rows_than_unused_atoms_still_give_different_atoms() -> None:
    _, dictionary, _ = problem()
    row = torch.ones(2, 8, dtype=torch.float64) * torch.tensor([[0.0], [1.0]])
    replaced = replace_unused(dictionary, torch.zeros(12), row, torch.Generator().manual_seed(0))
    assert torch.linalg.matrix_rank(replaced) == 8
    with pytest.raises(ValueError, match="12 atoms are unused"):
        replace_unused(dictionary, torch.zeros(12), row[:1], torch.Generator().manual_seed(0))


def test_the_worst_rows_are_sorted_worst_first() -> None:
    x = torch.diag(torch.tensor([1.0, 4.0, 2.0, 3.0]))
    worst = worst_reconstructed(x, torch.eye(4), torch.zeros(4, 4), 3)
    assert worst.max(dim=1).values.tolist() == [4, 3, 2]


def test_without_forgetting_the_statistics_are_plain_means() -> None:
    x, _, codes = problem()
    statistics = DictionaryStatistics(8, 12, forgetting=0)
    for rows in (slice(0, 7), slice(7, 40), slice(40, 60)):
        statistics.add(x[rows], codes[rows])
    A, B = moments(x, codes)
    torch.testing.assert_close(statistics.codes_gram, A)
    torch.testing.assert_close(statistics.cross, B)
    torch.testing.assert_close(statistics.use, A.diagonal())


def test_minibatch_i_of_t_is_weighted_by_a_power_of_i_over_t() -> None:
    x, _, codes = problem()
    statistics = DictionaryStatistics(8, 12, forgetting=1.5)
    for part in range(6):
        statistics.add(x[part * 10 : part * 10 + 10], codes[part * 10 : part * 10 + 10])
    weight = torch.tensor([(i / 6) ** 1.5 for i in range(1, 7)], dtype=torch.float64).repeat_interleave(10)[:, None]
    torch.testing.assert_close(statistics.codes_gram, codes.T @ (weight * codes) / weight.sum())
    torch.testing.assert_close(statistics.cross, x.T @ (weight * codes) / weight.sum())


def test_forgotten_atoms_leave_no_trace() -> None:
    x, _, codes = problem()
    statistics = DictionaryStatistics(8, 12)
    statistics.add(x, codes)
    statistics.forget(torch.arange(12) == 4)
    assert not statistics.codes_gram[4].any()
    assert not statistics.codes_gram[:, 4].any()
    assert not statistics.cross[:, 4].any()
    assert statistics.use[4] == 0


def test_a_run_resumed_from_its_state_continues_bit_for_bit() -> None:
    x, dictionary, _ = problem(N=100)

    def learn(W: Tensor, statistics: DictionaryStatistics, batches: range) -> Tensor:
        for t in batches:
            rows = x[t * 10 : t * 10 + 10]
            codes = fista(rows, W, 0.3)
            statistics.add(rows, codes)
            W = update_dictionary(W, statistics.codes_gram, statistics.cross)
        return W

    whole = learn(dictionary, DictionaryStatistics(8, 12), range(10))
    first = DictionaryStatistics(8, 12)
    middle = learn(dictionary, first, range(4))
    state, second = first.state_dict(), DictionaryStatistics(8, 12)
    learn(middle, first, range(4, 6))  # the saved state is a copy
    second.load_state_dict(state)
    assert torch.equal(learn(middle, second, range(4, 10)), whole)


def test_alternating_codes_and_atoms_lowers_the_joint_objective() -> None:
    x, dictionary, _ = problem(N=200)
    start = fista(x, dictionary, 0.3, tolerance=1e-7)
    values, codes = [lasso_objective(x, dictionary, start, 0.3).mean()], start
    for _ in range(10):
        dictionary = update_dictionary(dictionary, *moments(x, codes))
        codes = fista(x, dictionary, 0.3, start=codes, tolerance=1e-7)
        values.append(lasso_objective(x, dictionary, codes, 0.3).mean())
    assert all(after <= before + 1e-12 for before, after in pairwise(values))
    assert values[-1] < 0.95 * values[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gamma": 0.1}, "unit_norm=False"),
        ({"unit_norm": False}, "positive"),
        ({"gamma": -1.0, "unit_norm": False}, "positive"),
        ({"sweeps": 0}, "sweeps"),
    ],
)
def test_contradictory_settings_are_refused(arguments: dict[str, float], message: str) -> None:
    x, dictionary, codes = problem()
    with pytest.raises(ValueError, match=message):
        update_dictionary(dictionary, *moments(x, codes), **arguments)  # type: ignore[arg-type]


def test_wrong_shapes_and_norms_are_refused() -> None:
    x, dictionary, codes = problem()
    A, B = moments(x, codes)
    with pytest.raises(ValueError, match="unit norm"):
        update_dictionary(dictionary * 2, A, B)
    with pytest.raises(ValueError, match="expected"):
        update_dictionary(dictionary, A, B.T)
    with pytest.raises(ValueError, match="expected"):
        update_dictionary(dictionary, A[:5], B)
    with pytest.raises(ValueError, match="expected"):
        replace_unused(dictionary, A.diagonal(), x[:, :3], torch.Generator())
    with pytest.raises(ValueError, match="expected"):
        DictionaryStatistics(8, 12).add(x, codes[:5])
    with pytest.raises(ValueError, match="forgetting"):
        DictionaryStatistics(8, 12, forgetting=-1)
    with pytest.raises(ValueError, match="cross"):
        DictionaryStatistics(8, 12).load_state_dict(DictionaryStatistics(9, 12).state_dict())
