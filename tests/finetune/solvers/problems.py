"""Families of hard classification problems, and scikit-learn's minimum of each."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from finetune.solvers.logistic import objective


def _normal(n: int, F: int, g: torch.Generator) -> Tensor:
    return torch.randn(n, F, generator=g, dtype=torch.float64)


def _rare(n: int, F: int, g: torch.Generator) -> Tensor:
    """Positive codes; a feature is non-zero in a third of the rows, down to one or two of all."""
    share = torch.logspace(-0.5, -torch.tensor(n / 1.5).log10().item(), F)
    code = (torch.rand(n, F, generator=g) < share) * (torch.rand(n, F, generator=g) + 0.3)
    return code.double()


def _top_k(n: int, F: int, g: torch.Generator) -> Tensor:
    """The largest three entries of each row; some features win often, others hardly ever."""
    scores = _normal(n, F, g) * torch.logspace(0, -1, F) + torch.logspace(0.5, -1, F)
    largest = scores.topk(min(3, F), dim=1)
    return torch.zeros_like(scores).scatter_(1, largest.indices, largest.values)


def _thresholded(n: int, F: int, g: torch.Generator) -> Tensor:
    """Each feature is active in one of a hundred rows: its logits saturate, and the last digits come slowly."""
    return (_normal(n, F, g) - 2.3).relu()


def _heavy_tailed(n: int, F: int, g: torch.Generator) -> Tensor:
    return _normal(n, F, g) / _normal(n, F, g).abs().clamp_min(1e-3)


def _outlying_rows(n: int, F: int, g: torch.Generator) -> Tensor:
    features = _normal(n, F, g)
    features[3] *= 1000
    features[min(10, n - 1)] *= 100
    return features


def _extreme(n: int, F: int, g: torch.Generator) -> Tensor:
    """One row with a feature a million times its usual size, one with all: what float32 has digits for is little."""
    features = _normal(n, F, g)
    features[5 % n, 0] *= 1e6
    features[min(20, n - 1)] *= 1e6
    return features


def _duplicated(n: int, F: int, g: torch.Generator) -> Tensor:
    half = _normal(n, (F + 1) // 2, g)
    return torch.cat([half, half + 1e-5 * _normal(n, half.shape[1], g)], 1)[:, :F]


def _constant(n: int, F: int, g: torch.Generator) -> Tensor:
    features = _normal(n, F, g)
    features[:, ::3] = 2.5
    return features


def _low_rank(n: int, F: int, g: torch.Generator) -> Tensor:
    return _normal(n, 3, g) @ _normal(3, F, g)


def _badly_scaled(n: int, F: int, g: torch.Generator) -> Tensor:
    return _normal(n, F, g) * torch.logspace(-6, 6, F) + 1


FAMILIES: dict[str, Callable[[int, int, torch.Generator], Tensor]] = {
    "normal": _normal,
    "rare": _rare,
    "top_k": _top_k,
    "thresholded": _thresholded,
    "heavy_tailed": _heavy_tailed,
    "outlying_rows": _outlying_rows,
    "extreme": _extreme,
    "duplicated": _duplicated,
    "constant": _constant,
    "low_rank": _low_rank,
    "badly_scaled": _badly_scaled,
}


def standardized(features: Tensor) -> Tensor:
    """Zero mean and unit variance; constant features become zero."""
    deviation = features.std(0, correction=0)
    return (features - features.mean(0)) / torch.where(deviation > 1e-9, deviation, torch.inf)


def problem(family: str, n: int, F: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Standardized features of a family ``[n F]``, float64, and labels that follow them with noise."""
    g = torch.Generator().manual_seed(seed)
    features = standardized(FAMILIES[family](n, F, g))
    logits = features @ _normal(F, classes, g)
    logits = logits / logits.std().clamp_min(1e-9) + 0.5 * _normal(n, classes, g)
    labels = logits.argmax(1)
    labels[:2] = torch.tensor([0, 1])  # scikit-learn needs two classes
    return features, labels


def digits(n: int) -> tuple[Tensor, Tensor]:
    """Digits on black: many pixels are 0 in nearly all images."""
    images, labels = load_digits(return_X_y=True)
    return standardized(torch.from_numpy(images[:n])), torch.from_numpy(labels[:n]).long()


def sklearn_model(features: Tensor, labels: Tensor, l2: float, **options: Any) -> LogisticRegression:
    """scikit-learn's fit of the same objective, in float64; Newton's method, unless ``options`` name another."""
    # with two classes it penalizes w once where softmax penalizes w/2 twice
    strength = l2 / 2 if len(labels.unique()) == 2 else l2
    options = {"solver": "newton-cholesky", "tol": 1e-10, "max_iter": 20_000} | options
    model = LogisticRegression(C=1 / (len(labels) * strength), **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(features.double().numpy(), labels.numpy())


def sklearn_objective(features: Tensor, labels: Tensor, classes: int, l2: float) -> float:
    """The objective at scikit-learn's minimum; an absent class gets no weight and a probability of zero."""
    model = sklearn_model(features, labels, l2)
    weight = torch.zeros(features.shape[1], classes, dtype=torch.float64)
    bias = torch.full((classes,), -1e3, dtype=torch.float64)
    coefficients, intercepts = torch.from_numpy(model.coef_.T.copy()), torch.from_numpy(model.intercept_.copy())
    if coefficients.shape[1] == 1:
        coefficients = torch.cat([-coefficients, coefficients], 1) / 2
        intercepts = torch.cat([-intercepts, intercepts]) / 2
    weight[:, model.classes_], bias[model.classes_] = coefficients, intercepts
    return float(objective(features.double(), labels, weight[None], bias[None], [l2])[0])
