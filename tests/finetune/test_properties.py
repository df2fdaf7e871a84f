"""Code properties, on encoders whose numbers can be computed by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from common.data import Images
from common.encoders.base import Encoder
from common.pixels import to_float
from finetune import properties as module
from finetune.features import Extraction
from finetune.properties import CHANGES, darken, flip, invariance, measure_properties, shift
from finetune.records import CodeProperties
from tests.finetune.toys import BrightSource, bright_images

SIDE = 8
INVARIANT = ["gaussian", "shift", "flip", "brightness", "gray"]


class FormulaEncoder(Encoder):
    """One map, computed by a formula from the image ``[B 3 8 8]`` in [0, 1]."""

    def __init__(self, formula: Callable[[Tensor], Tensor]) -> None:
        super().__init__("formula", SIDE, "rgb", mask_channel=False)
        self.formula = formula
        self.settle()

    def layers(self, images: Tensor) -> list[Tensor]:
        return [torch.zeros_like(images), self.formula(images)]  # the first one must not count


def extraction(batch_size: int = 16) -> Extraction:
    return Extraction(torch.device("cpu"), torch.float32, batch_size, workers=0)


def measured(formula: Callable[[Tensor], Tensor], images: Images | None = None, **how: int) -> CodeProperties:
    return measure_properties(FormulaEncoder(formula), images or bright_images(), extraction(**how))


def compact(found: CodeProperties) -> tuple[int, float, float]:
    return found.size, found.nonzeros, found.bytes


def pairs(images: Tensor) -> float:
    """Mean squared distance over all pairs of different images, one by one."""
    flat = images.flatten(1).double()
    apart = [(one - other).square().sum() for i, one in enumerate(flat) for j, other in enumerate(flat) if i != j]
    return float(torch.stack(apart).mean())


def test_a_code_equal_to_the_image_moves_as_far_as_its_pixels() -> None:
    found = measured(lambda images: images)
    images = to_float(bright_images().rows(torch.arange(60)))
    between = pairs(images)
    assert found.size == 3 * SIDE * SIDE
    assert list(found.invariance) == INVARIANT
    for name in ("shift", "flip", "brightness", "gray"):
        moved = float((CHANGES[name](images) - images).double().square().flatten(1).sum(1).mean())
        assert found.invariance[name] == pytest.approx(1 - moved / between, rel=1e-6)
    # noise of deviation 0.1 on each of 192 entries; its mean square is known to about 1%
    assert found.invariance["gaussian"] == pytest.approx(1 - 192 * 0.01 / between, abs=0.02 * 1.92 / between)


def test_a_constant_code_does_not_move() -> None:
    found = measured(lambda images: torch.full((len(images), 5, 1, 1), 0.1))
    assert found.invariance == dict.fromkeys(INVARIANT, 1.0)
    assert compact(found) == (5, 5.0, 20)


def test_a_code_averaged_over_flips_is_invariant_to_flips() -> None:
    found = measured(lambda images: (images + images.flip(-1)) / 2).invariance
    assert found["flip"] == 1
    assert found["shift"] is not None
    assert found["gaussian"] is not None
    assert found["shift"] < 0.9
    assert found["gaussian"] < 1


def test_a_code_proportional_to_brightness_has_the_exact_score() -> None:
    # two uniform gray images: codes a and b, darkened 0.8 a and 0.8 b
    source = BrightSource(2)
    source.pixels[0], source.pixels[1] = 51, 204  # 0.2 and 0.8
    images = Images(source, SIDE, torch.arange(2), source.pixels)
    found = measured(lambda images: images[:, :1, :1, :1], images).invariance
    moved = 0.2**2 * (0.2**2 + 0.8**2) / 2
    assert found["brightness"] == pytest.approx(1 - moved / 0.6**2, rel=1e-6)
    assert found["shift"] == found["flip"] == 1
    assert found["gray"] == pytest.approx(1)


def test_a_code_without_color_is_invariant_to_gray() -> None:
    luma = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    assert measured(lambda images: (images * luma).sum(1, keepdim=True)).invariance["gray"] == pytest.approx(1)


def test_a_code_can_move_farther_than_to_another_image() -> None:
    # the code is the roughness of near-constant images: noise changes it more than the image does
    found = measured(lambda images: 100 * (images[..., 1:] - images[..., :-1]).square().mean((1, 2, 3), keepdim=True))
    moved = found.invariance["gaussian"]
    assert moved is not None
    assert moved < 0


def test_scale_and_offset_of_the_code_change_nothing() -> None:
    plain, other = (measured(formula).invariance for formula in (lambda x: x, lambda x: 1000 + 7 * x))
    assert other == pytest.approx(plain, abs=1e-3)


def test_entries_negligible_next_to_the_largest_are_not_counted() -> None:
    entries = torch.tensor([0, 1e-9, -1e-9, 1e-3, -1.0, 0, 0, 0, 0, 0]).view(1, 10, 1, 1)
    found = measured(lambda images: entries.expand(len(images), -1, -1, -1))
    assert compact(found) == (10, 2.0, 16.0)
    nothing = measured(lambda images: torch.zeros(len(images), 10, 1, 1))
    assert compact(nothing) == (10, 0.0, 0.0)
    assert nothing.invariance == dict.fromkeys(INVARIANT, 1.0)


def test_numbers_do_not_depend_on_the_batches_except_for_the_noise() -> None:
    whole, parts = measured(lambda images: images, batch_size=64), measured(lambda images: images, batch_size=7)
    assert compact(whole) == compact(parts)
    assert whole.invariance == pytest.approx(parts.invariance, abs=0.01)
    assert all(whole.invariance[name] == pytest.approx(parts.invariance[name]) for name in INVARIANT[1:])


def test_the_same_seed_gives_the_same_numbers() -> None:
    encoder, images = FormulaEncoder(lambda images: images), bright_images()
    first, again, other = (measure_properties(encoder, images, extraction(), seed) for seed in (3, 3, 4))
    assert first == again
    assert first.invariance["gaussian"] != other.invariance["gaussian"]


def test_many_images_are_subsampled_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IMAGES", 4)
    asked: list[list[int]] = []
    images = bright_images()
    real = images.batches
    monkeypatch.setattr(images, "batches", lambda rows, workers: real([asked.append(r.tolist()) or r for r in rows]))
    measured(lambda images: images, images, batch_size=3)
    assert asked == [[0, 20, 39], [59]]


def test_undefined_scores_are_none() -> None:
    assert measured(lambda images: images, bright_images(1)).invariance["flip"] is None
    assert invariance(0, 0) == 1
    assert invariance(1, 0) is None
    assert invariance(float("nan"), 1) is invariance(float("inf"), float("inf")) is None
    assert invariance(1, 2) == 0.5


def test_changes_do_what_their_names_say() -> None:
    images = torch.arange(5.0).expand(1, 3, 5, 5)
    assert shift(images)[0, 0, 0].tolist() == [2, 1, 0, 1, 2]
    assert flip(images)[0, 0, 0].tolist() == [4, 3, 2, 1, 0]
    assert darken(images)[0, 0, 0].tolist() == pytest.approx([0, 0.8, 1.6, 2.4, 3.2])
