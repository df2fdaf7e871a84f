from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data import load_images
from common.data.shapes import COMBINED, SHAPES, ShapesSource, draw

ROWS = st.lists(st.integers(0, 2**31), min_size=1, max_size=70)


@settings(max_examples=15, deadline=None)
@given(rows=ROWS, seed=st.integers(0, 2**31), split=st.sampled_from(["train", "test"]), data=st.data())
def test_an_image_does_not_depend_on_its_batch(rows: list[int], seed: int, split: str, data: st.DataObject) -> None:
    together = draw(seed, split, np.array(rows))
    cut = data.draw(st.integers(0, len(rows)))
    apart = [draw(seed, split, np.array(part)) for part in (rows[:cut], rows[cut:]) if part]
    assert np.array_equal(together, np.concatenate(apart))
    last = ShapesSource(split, 1, seed).image(rows[-1])
    assert np.array_equal(together[-1], last.numpy())


@settings(max_examples=15, deadline=None)
@given(rows=ROWS, seed=st.integers(0, 2**31))
def test_labels_do_not_depend_on_their_batch(rows: list[int], seed: int) -> None:
    source = ShapesSource("train", 1, seed)
    for task in source.tasks:
        together = source.labels(task, torch.tensor(rows)).values
        alone = [int(source.labels(task, torch.tensor([row])).values) for row in rows]
        assert together.tolist() == alone


def test_seeds_and_splits_give_other_images() -> None:
    rows = np.arange(8)
    sets = [draw(0, "train", rows), draw(0, "test", rows), draw(1, "train", rows), draw(1, "test", rows)]
    different = {image.tobytes() for images in sets for image in images}
    assert len(different) == 32


def test_length_is_any_and_a_longer_set_begins_with_the_shorter() -> None:
    source = ShapesSource("train", 10)
    longer = load_images(source, 32, limit=14)
    assert len(longer) == 14
    assert torch.equal(longer.rows(torch.arange(10)), load_images(source, 32).rows(torch.arange(10)))
    assert len(longer.labels("shape").values) == 14
    assert len(load_images(source, 32, limit=3)) == 3


def test_classes_are_uniform_and_independent() -> None:
    source = ShapesSource("train", 64_000)
    everything = source.labels("all").values
    counts = torch.bincount(everything, minlength=320).double()
    # chi-squared with 319 degrees of freedom: mean 319, standard deviation 25
    statistic = float(((counts - 200) ** 2 / 200).sum())
    assert 319 - 5 * 25 < statistic < 319 + 5 * 25


def test_the_combined_task_names_its_three_parts() -> None:
    source = ShapesSource("test", 50)
    parts = [source.labels(task) for task in ("color", "texture", "shape")]
    combined = source.labels("all")
    assert len(set(COMBINED)) == 320
    for row in range(50):
        expected = " ".join(labels.names[int(labels.values[row])] for labels in parts)
        assert combined.names[int(combined.values[row])] == expected


def test_the_default_task_comes_first() -> None:
    assert ShapesSource().labels(None).names == SHAPES
    assert ShapesSource(default="color").tasks == ("color", "shape", "texture", "all")


def test_the_object_has_the_color_its_label_says() -> None:
    # the most saturated quarter of the pixels, averaged over many images of a class, leans to its hue
    source = ShapesSource("train", 1500)
    pixels = source.bulk(torch.arange(1500)).double()
    colors = source.labels("color")
    vivid = (pixels.amax(1) - pixels.amin(1)).flatten(1)
    cutoff = vivid.quantile(0.8, dim=1, keepdim=True)
    mean = (pixels.flatten(2) * (vivid >= cutoff)[:, None]).sum(2) / (vivid >= cutoff).sum(1)[:, None]
    for name, strongest in (("red", 0), ("green", 1), ("blue", 2)):
        chosen = mean[colors.values == colors.names.index(name)].mean(0)
        assert int(chosen.argmax()) == strongest
