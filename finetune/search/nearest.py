"""The nearest rows of a matrix by cosine similarity, exactly: all of them are compared."""

from __future__ import annotations

from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn.functional import normalize

from finetune.solvers.gram import blocks

SIMILARITIES = 1 << 25  # entries of the similarity matrix held at once: 128 MB


def nearest(queries: Tensor, rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` rows most similar to each query: similarities ``[m count]``, largest first, and their places.

    By faiss where it is installed, else by matrix products: the same rows, up to rounding.

    Args:
        queries, rows: float32 ``[m F]`` and ``[n F]``; only directions matter. A row of zeros is similar to none (0).
        count: at most n are found.
    """
    queries, rows = normalize(queries, dim=1), normalize(rows, dim=1)
    search = by_faiss if find_spec("faiss") is not None else by_products
    return search(queries, rows, min(count, len(rows)))


def by_faiss(queries: Tensor, rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest inner products of float32 rows ``[m F]`` and ``[n F]``, by an exact index of faiss.

    With torch imported first, it uses torch's OpenMP, and as many threads.
    """
    import faiss

    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows.contiguous().numpy())
    similar, places = index.search(queries.contiguous().numpy(), count)
    return torch.from_numpy(similar), torch.from_numpy(places)


def by_products(queries: Tensor, rows: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The same by matrix products, block by block; of equal ones the first comes first."""
    best = torch.full((len(queries), count), -torch.inf)
    where = torch.zeros(len(queries), count, dtype=torch.int64)
    start = 0
    for some in blocks(rows, max(1, SIMILARITIES // max(1, len(queries)))):
        values = torch.cat([best, queries @ some.T], 1)
        places = torch.cat([where, torch.arange(start, start + len(some)).expand(len(queries), -1)], 1)
        order = values.sort(dim=1, descending=True, stable=True).indices[:, :count]
        best, where = values.gather(1, order), places.gather(1, order)
        start += len(some)
    return best, where
