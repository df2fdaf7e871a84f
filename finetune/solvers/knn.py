"""Weighted k-nearest-neighbor classification by cosine similarity (Wu et al. 2018, arXiv:1805.01978, section 3.4).

A query's vote for class c is ``Σ exp(s_i / T)`` over those of its k most similar training rows that have label c, where
``s_i`` is the cosine similarity; that of a row of zeros, which has no direction, is 0. Of equally similar rows, the
first in the bank come first. Nothing is learned, so the result depends on the features alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from finetune.solvers.gram import blocks

SIMILARITIES = 1 << 25  # entries of the similarity matrix held at once


def knn_predict(
    queries: Tensor, bank: Tensor, labels: Tensor, classes: int, k: Sequence[int], temperature: float = 0.07
) -> Tensor:
    """Classify queries ``[m F]`` by a labeled bank ``[n F]``, with each number of neighbors.

    Args:
        queries: rows to classify.
        bank: labeled rows; only their directions matter, not their scale.
        labels: int64 ``[n]`` in ``0..classes-1``.
        classes: number of classes.
        k: numbers of neighbors; any number above n means all n.
        temperature: T above.

    Returns:
        int64 ``[len(k) m]``, the class of each query for each k.
    """
    return torch.cat([votes.argmax(2) for votes in _votes(queries, bank, labels, classes, k, temperature)], dim=1)


def knn_confident(
    queries: Tensor, bank: Tensor, labels: Tensor, classes: int, k: int, temperature: float = 0.07
) -> tuple[Tensor, Tensor]:
    """As ``knn_predict`` with one number of neighbors, and the share of the votes that each answer got, ``[m]``."""
    answers, shares = [], []
    for [votes] in _votes(queries, bank, labels, classes, [k], temperature):
        answers.append(votes.argmax(1))
        shares.append(votes.amax(1) / votes.sum(1))
    return torch.cat(answers), torch.cat(shares)


def _votes(
    queries: Tensor, bank: Tensor, labels: Tensor, classes: int, k: Sequence[int], temperature: float
) -> Iterator[Tensor]:
    """The votes ``[len(k) b classes]`` of some queries after the other."""
    bank = normalize(bank, dim=1)  # a row of zeros stays one
    most = min(max(k), len(bank))
    for rows in blocks(queries, max(1, SIMILARITIES // len(bank))):
        similarity, nearest = _nearest(normalize(rows, dim=1) @ bank.T, most)
        # Relative to the best neighbor: the winner is the same, and exp cannot overflow.
        votes = ((similarity - similarity[:, :1]) / temperature).exp()
        chosen = labels[nearest]
        totals = votes.new_zeros(len(k), len(rows), classes)
        for index, count in enumerate(k):
            totals[index].scatter_add_(1, chosen[:, :count], votes[:, :count])
        yield totals


def _nearest(similarity: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` largest of each row ``[b n]``, and where they are, ``[b count]`` each, largest first.

    Equal ones come in order. ``topk`` alone may take any of equal ones, and others in a chunk of another size.
    """
    values, places = similarity.topk(count, dim=1)
    last = values[:, -1:]
    cut = (similarity == last).sum(1) > (values == last).sum(1)  # some of the equal ones were left out
    if bool(cut.any()):
        places[cut] = similarity[cut].sort(dim=1, descending=True, stable=True).indices[:, :count]
    places = places.sort(dim=1).values
    values, order = similarity.gather(1, places).sort(dim=1, descending=True, stable=True)
    return values, places.gather(1, order)
