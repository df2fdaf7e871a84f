"""The nearest rows, by faiss and by matrix products, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics.pairwise import cosine_similarity

from finetune.search import nearest as module
from finetune.search.nearest import nearest

either = pytest.mark.parametrize("way", ["by_faiss", "by_products"])


def only(patch: pytest.MonkeyPatch, way: str) -> None:
    """Rows are found this way, and the other one is not used."""
    if way == "by_faiss":
        pytest.importorskip("faiss", reason="pip install '.[search]' installs it")
    else:
        patch.setattr(module, "find_spec", lambda name: None)
    [other] = {"by_faiss", "by_products"} - {way}
    patch.setattr(module, other, lambda *_: pytest.fail(f"{other} was used"))


@either
@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 40), st.integers(1, 12), st.integers(1, 60), st.integers(0, 10**6))
def test_the_nearest_rows_are_those_of_scikit_learn(way: str, m: int, n: int, count: int, room: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    rows = random.standard_normal((n, 5)).astype(np.float32)
    queries = random.standard_normal((m, 5)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        only(patch, way)
        patch.setattr(module, "SIMILARITIES", room)  # so that rows come in several blocks
        similar, places = nearest(torch.from_numpy(queries), torch.from_numpy(rows), count)
    whole = cosine_similarity(queries.astype(np.float64), rows.astype(np.float64))
    expected = -np.sort(-whole, axis=1)[:, :count]
    np.testing.assert_allclose(similar.numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(whole, places.numpy(), 1), expected, atol=1e-5)
    assert all(len(set(row)) == len(row) for row in places.tolist())


@either
def test_a_row_of_zeros_is_similar_to_none(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, way)
    rows = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    similar, places = nearest(torch.tensor([[2.0, 0.0]]), rows, 3)
    assert places.tolist() == [[1, 0, 2]]
    assert similar.tolist() == [[1, 0, -1]]


def test_faiss_takes_as_many_threads_as_torch() -> None:
    faiss = pytest.importorskip("faiss", reason="pip install '.[search]' installs it")
    before = torch.get_num_threads()
    try:
        for threads in (2, 1):
            torch.set_num_threads(threads)
            nearest(torch.eye(4), torch.eye(4), 1)
            assert faiss.omp_get_max_threads() == threads
    finally:
        torch.set_num_threads(before)
