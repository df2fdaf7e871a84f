"""The largest eigenvalues, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.linear import eigen
from pretrain.linear.eigen import leading


@settings(max_examples=30, deadline=None)
@given(st.integers(8, 60), st.integers(1, 4), st.integers(1, 60), st.integers(0, 10**6))
def test_both_ways_give_the_eigenvalues_of_numpy_and_their_vectors(d: int, count: int, rank: int, seed: int) -> None:
    rows = np.random.default_rng(seed).standard_normal((min(rank, d), d)) * np.linspace(1, 3, min(rank, d))[:, None]
    matrix = torch.from_numpy(rows.T @ rows)
    whole = np.linalg.eigvalsh(matrix.numpy())[::-1][:count]
    for small in (0, 1000):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(eigen, "SMALL", small)
            patch.setattr(eigen, "SHARE", 2)
            values, vectors = leading(matrix, count)
        np.testing.assert_allclose(values.numpy(), whole, atol=1e-9 * whole[0])
        assert vectors.shape == (count, d)
        torch.testing.assert_close(vectors @ vectors.T, torch.eye(count, dtype=torch.float64), atol=1e-9, rtol=0)
        torch.testing.assert_close(vectors @ matrix, values[:, None] * vectors, atol=1e-8 * whole[0], rtol=0)


def test_few_of_many_are_found_without_a_whole_decomposition(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randn(300, 1100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    matrix = rows.T @ rows
    again = leading(matrix, 8)
    monkeypatch.setattr(torch.linalg, "eigh", lambda matrix: pytest.fail("the whole decomposition"))
    values, vectors = leading(matrix, 8)
    assert torch.equal(values, again[0])  # from a fixed start
    assert torch.equal(vectors, again[1])
    monkeypatch.undo()
    torch.testing.assert_close(values, torch.linalg.eigvalsh(matrix).flip(0)[:8])


def test_eigenvalues_that_are_all_alike_are_found_all_the_same() -> None:
    values, vectors = leading(torch.eye(1100, dtype=torch.float64), 4)
    assert values.tolist() == pytest.approx([1.0] * 4)
    torch.testing.assert_close(vectors @ vectors.T, torch.eye(4, dtype=torch.float64))
