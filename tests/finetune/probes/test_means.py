"""The nearest class mean, against scikit-learn."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestCentroid

from finetune.probes import NearestMean, Rows
from finetune.solvers.preconditioner import Preconditioner


@settings(max_examples=20, deadline=None, derandomize=True)
@given(n=st.integers(4, 60), F=st.integers(1, 8), classes=st.integers(2, 5), seed=st.integers(0, 2**16))
def test_it_predicts_as_sklearn_does_and_never_a_class_without_images(n: int, F: int, classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    features, labels = torch.randn(n, F, generator=generator), torch.arange(n) % classes
    rows = Rows(features, labels, classes + 1, lambda: Preconditioner.of(features))  # the last class has no rows
    others = torch.randn(50, F, generator=generator)
    found = NearestMean().fit(rows, [{}], final=True).predict(others)[0]
    expected = NearestCentroid().fit(features.double().numpy(), labels.numpy()).predict(others.double().numpy())
    assert (found.numpy() == expected).mean() >= 0.98  # but for ties by rounding
    assert int(found.max()) < classes
