"""What is said about results: whether fine-tuning was worth it, and what to type."""

from __future__ import annotations

import pytest

from finetune.results import Comparison, FinetuneResult
from finetune.summary import tuned_or_frozen, wider
from tests.finetune.toys import finetune_result


def of(difference: float, low: float, high: float, p: float) -> FinetuneResult:
    """A network fine-tuned to 50%, and its difference from the linear probe."""
    found = Comparison(difference=difference, ci95=(low, high), p_value=p, n10=1, n01=1)
    return finetune_result(0.5, 0.5 - difference, found)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ((-0.042, -0.08, -0.01, 0.001), "the linear probe of the frozen encoder is 4.2 points better: use it, with "
         "retouch probe linear"),
        ((-0.042, -0.08, 0.01, 0.1), "the trained network is not shown to be better or worse than the linear probe"),
        ((0.01, -0.02, 0.04, 0.5), "the trained network is not shown to be better or worse than the linear probe"),
    ],
)  # fmt: skip
def test_whether_the_frozen_encoder_does_as_well_is_one_plain_sentence(
    found: tuple[float, float, float, float], said: str
) -> None:
    [line] = tuned_or_frozen(of(*found))
    assert line.startswith(said)


def test_nothing_is_said_where_fine_tuning_is_shown_to_be_better() -> None:
    assert tuned_or_frozen(of(0.1, 0.05, 0.15, 0.001)) == []


def test_a_wider_grid_goes_on_where_the_choice_was() -> None:
    grid = (0.01, 0.1, 1.0)
    assert wider(grid, [1.0]) == pytest.approx([0.01, 0.1, 1, 3.2, 10, 32, 100])
    assert wider(grid, [0.01]) == pytest.approx([1e-4, 3.2e-4, 1e-3, 3.2e-3, 0.01, 0.1, 1])
    assert len(wider(grid, [0.01, 1.0])) == 11
    assert wider((0.000316, 0.00316), [0.00316])[2:] == [0.01, 0.032, 0.1, 0.32]
