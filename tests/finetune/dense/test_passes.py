"""Passes over images with masks: what is fitted, what is held out, and what is compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from common.encoders.load import load_encoder
from common.errors import UserError
from common.pixels import to_float
from finetune.dense import passes
from finetune.dense.cells import enlarge, mean_iou, overlaps
from finetune.dense.fitting import discriminant
from finetune.dense.passes import build_parts
from finetune.dense.pixels import Patches
from finetune.probes import Search
from tests.finetune.dense.masked_pictures import HOW, SIZE, loaded


@pytest.mark.parametrize("layers", [[0], [1], None], ids=["another", "this", "all"])
def test_maps_that_are_not_finite_are_named_with_layer_and_image(
    here: Path, monkeypatch: pytest.MonkeyPatch, layers: list[int] | None
) -> None:
    images, encoder = loaded(here), load_encoder(here / "encoder")
    real = encoder.layers

    def broken(shown: Tensor) -> list[Tensor]:
        maps = [one.clone() for one in real(shown)]
        maps[1][2, 0, 1, 1] = torch.nan
        return maps

    monkeypatch.setattr(encoder, "layers", broken)
    if layers == [0]:
        assert sum(len(batch.index) for batch in passes.maps_of(encoder, images.test, HOW, layers)) == 40
        return
    with pytest.raises(UserError, match="small_cnn gives NaN or infinite features") as refused:
        next(passes.maps_of(encoder, images.test, HOW, layers))
    assert refused.value.problems == (f"layer 1, cells: 1 of 8 images, first {images.test.images.where(2)}",)


def test_held_out_images_decide_and_are_split_by_class() -> None:
    present = torch.rand(300, 3, generator=torch.Generator().manual_seed(0)) < torch.tensor([0.9, 0.5, 0.05])
    parts = build_parts(present, Search(), 0)
    assert (parts.number, parts.held, parts.how) == (5, (0, 1, 2, 3, 4), "5-fold cross-validation")
    for number in range(5):
        assert present[parts.of == number].any(0).all()  # the rare class, too
        assert 55 <= int((parts.of == number).sum()) <= 65
    held = build_parts(present, Search(folds=0), 0)
    assert (held.number, held.held, held.how) == (2, (1,), "held-out 10%")
    assert 25 <= int((held.of == 1).sum()) <= 35
    assert not torch.equal(parts.of, build_parts(present, Search(), 1).of)
    with pytest.raises(UserError, match="1 training images are too few for a validation split"):
        build_parts(present[:1], Search(), 0)


def test_the_tested_classifier_is_fitted_on_every_training_image(here: Path) -> None:
    images = loaded(here)
    sums = passes.gather(Patches(SIZE), (1,), images.train, build_parts(images.present, Search(), 0), 3, HOW)
    truth = images.train.truth(torch.arange(60))
    whole, center = sums.whole(1), sums.centers[1]
    assert whole.pixels.tolist() == [int((truth == number).sum()) for number in range(3)]
    choice = passes.choose(Patches(SIZE), sums, images.train, build_parts(images.present, Search(), 0), [0.1], HOW)
    assert choice.images == 60
    choice = choice._replace(layer=1)
    found = passes.test_once(Patches(SIZE), choice, passes.fit_all(choice, sums), images.test, HOW)
    fit = discriminant(whole, center, [0.1])
    maps = Patches(SIZE).layers(to_float(images.test.images.rows(torch.arange(40))))[1]
    scores = enlarge(fit.scores(maps)[0], SIZE) + fit.shares(choice.prior)[:, None, None]
    assert torch.equal(found, overlaps(scores.argmax(1), images.test.truth(torch.arange(40)), 3))


def test_held_masks_of_a_part_do_not_reach_its_classifier(here: Path) -> None:
    """Each image has a class of its own, which no other shows: held out, it cannot be known."""
    images = loaded(here)
    own = images.train._replace(
        classes=images.train.classes._replace(numbers=tuple(range(200, 220)), names=tuple(map(str, range(20)))),
        masks=_OneEach(images.train.masks),  # type: ignore[arg-type]
    ).only(torch.arange(20))
    parts = passes.Parts(torch.arange(20) % 5, (0, 1, 2, 3, 4), "")
    encoder = Patches(SIZE)
    sums = passes.gather(encoder, (1,), own, parts, 20, HOW)
    choice = passes.choose(encoder, sums, own, parts, [1e-3], HOW)
    assert (choice.images, choice.facts.val_accuracy) == (20, 0)
    known = passes.test_once(encoder, choice, passes.fit_all(choice, sums), own, HOW)
    assert float(mean_iou(known.sum(0))) > 0.05  # of images that were fitted, something is


class _OneEach:
    """Masks of one number each: 200 plus their row."""

    def __init__(self, masks: Any, kept: Tensor | None = None) -> None:
        self.masks, self.kept = masks, torch.arange(len(masks)) if kept is None else kept

    def rows(self, index: Tensor) -> Tensor:
        return (200 + self.kept[index])[:, None, None].expand(-1, SIZE, SIZE).to(torch.uint8)

    def only(self, rows: Tensor) -> _OneEach:
        return _OneEach(self.masks, self.kept[rows])


def test_raw_pixels_are_patches_with_their_place() -> None:
    images = torch.rand(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    maps = Patches(48).layers(images)
    assert [tuple(one.shape[1:]) for one in maps] == [(8, 32, 32), (17, 16, 16), (53, 8, 8), (197, 4, 4)]
    small = Patches(32).layers(images[..., :32, :32])
    assert torch.equal(small[2][0, :48, 1, 2].sort().values, images[0, :, 4:8, 8:12].flatten().sort().values)
    x, y, xx, yy, xy = small[3][1, -5:]
    assert x[0].tolist() == [-0.75, -0.25, 0.25, 0.75]
    assert torch.equal(x.T, y)
    assert torch.equal(torch.stack([x * x, y * y, x * y]), torch.stack([xx, yy, xy]))
