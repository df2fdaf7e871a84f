"""What fits and probes cost, as arithmetic: estimates in seconds and bytes, from the cost of judging."""

from __future__ import annotations

from typing import Literal, NamedTuple

from common.runs.results import Record
from finetune.solvers.ridge import MANY_ROWS, WIDE

ProbeKind = Literal["logistic", "ridge"]
FACTOR = 1 / 3  # operations of a Cholesky factorization, per cube of the matrix's side
EIGEN = 20  # an eigendecomposition takes as long as this many float32 products of the same size
WORTH_SHARES, WORTH_DRAWS = (0.05, 0.1, 0.25, 0.5), 5  # of the fitted images


class ProbeCost(NamedTuple):
    """The cost of a linear probe of the winner; the first one that fits is used, if any does."""

    fits: float  # how many times as long it takes as a ridge fit, both with the choice of a strength
    share: float  # of the time for training: the most that it may take


PROBES: dict[ProbeKind, ProbeCost] = {"logistic": ProbeCost(5.0, 0.25), "ridge": ProbeCost(1.0, 0.45)}


class JudgeCost(Record):
    """The cost of judging a contestant, from which the cost of larger fits is estimated."""

    width: int  # features
    extraction: float  # seconds for the judged images
    fitting: float  # seconds

    @property
    def seconds(self) -> float:
        return self.extraction + self.fitting


def ridge_work(rows: int, width: int, strengths: int) -> float:
    """Operations of one ridge fit, in units of float32 operations: the product of the features, and the solution.

    It follows ``finetune/solvers/ridge.py``: half of a float32 product for more rows than features, otherwise a float64
    product; then an eigendecomposition, or one factorization per strength.
    """
    if rows >= width:
        return rows * width**2 + (strengths * FACTOR if width > WIDE else EIGEN) * width**3
    return 4 * rows**2 * width + (strengths * FACTOR if rows > MANY_ROWS else EIGEN) * rows**3


def fit_work(rows: int, width: int, strengths: int, folds: int) -> float:
    """Operations of choosing a strength: by cross-validation, or on a held-out tenth if ``folds`` is 1."""
    fitted = round(rows * (folds - 1) / folds) if folds > 1 else round(0.9 * rows)
    return folds * ridge_work(fitted, width, strengths)


def fit_seconds(cost: JudgeCost, judged: int, fitted: int, tested: int, *, strengths: int, few: int) -> float:
    """Estimated seconds to fit on ``fitted`` images and predict ``tested``, from the cost of judging on ``judged``.

    Args:
        few: below this number of images, a strength is chosen by 5-fold cross-validation.
    """
    fitting = _fitting(cost, judged, fitted, strengths, few)
    return cost.extraction * (fitted + tested) / judged + fitting


def probe_seconds(
    cost: JudgeCost, judged: int, fitted: int, labeled: int, kind: ProbeKind, *, strengths: int, few: int
) -> float:
    """Estimated seconds of a linear probe on ``labeled`` images, in addition to a test fitted on ``fitted`` of them."""
    extraction = cost.extraction * max(0, labeled - fitted) / judged
    return extraction + PROBES[kind].fits * _fitting(cost, judged, labeled, strengths, few)


def _fitting(cost: JudgeCost, judged: int, fitted: int, strengths: int, few: int) -> float:
    """Seconds to choose a strength and to fit, without features."""
    work = _choosing(fitted, cost.width, strengths, few) + ridge_work(fitted, cost.width, 1)
    return cost.fitting * work / _choosing(judged, cost.width, strengths, few)


def _choosing(rows: int, width: int, strengths: int, few: int) -> float:
    return fit_work(rows, width, strengths, 5 if rows < few else 1)


def wider_cost(cost: JudgeCost, judged: int, width: int, image: float, *, strengths: int, few: int) -> JudgeCost:
    """Estimated cost of judging ``width`` features, which take ``image`` seconds per image, from that for fewer."""
    more, known = (_choosing(judged, features, strengths, few) for features in (width, cost.width))
    return JudgeCost(width=width, extraction=image * judged, fitting=cost.fitting * more / known)


def fit_bytes(rows: int, width: int, others: int, copies: int) -> int:
    """Peak memory of a ridge fit in bytes: the features, standardized copies of them, and the solver.

    It follows ``finetune/solvers/ridge.py``: with more rows than features, moments in float64, two copies of them and a
    factor in float32; otherwise the features in float64, twice, and their products.

    Args:
        others: rows of features in memory besides those to fit on.
        copies: of the features to fit on, at the same time: the splits of a cross-validation are kept together.
    """
    solving = 24 * width**2 if rows >= width else 16 * rows * (width + rows)
    return 4 * width * ((1 + copies) * rows + others) + solving


def worth_seconds(cost: JudgeCost, judged: int, fitted: int, tested: int, *, strengths: int, few: int) -> float:
    """Estimated seconds to test two contestants again, fitted on all fitted images and on draws of them."""
    extraction = cost.extraction * (fitted + tested) / judged
    fits = [fitted, *(round(share * fitted) for share in WORTH_SHARES for _ in range(WORTH_DRAWS))]
    whole = [fit_seconds(cost, judged, rows, 0, strengths=strengths, few=few) for rows in fits]
    return 2 * (extraction + sum(whole) - cost.extraction * sum(fits) / judged)
