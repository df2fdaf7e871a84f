"""Charts: well-formed, inside their frame, and true to the numbers."""

from __future__ import annotations

import itertools
import re
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from finetune.metrics import Bin, score
from retouch.reporting.charts import Strip, curves_chart, interval_mark, labels_chart, reliability_chart, span_of
from retouch.reporting.maps import confusion_chart
from retouch.reporting.runs import Curve
from retouch.reporting.sentences import LABELS_RULE, labels_rules
from tests.retouch.reporting.reading import inside
from tests.retouch.reporting.runs import EVIL, LABELS

finite = st.floats(-1e6, 1e6, allow_nan=False)


@given(st.lists(finite, min_size=2, max_size=30), st.booleans(), st.none() | finite)
def test_any_curve_fits_its_frame_with_a_level_beside_it(values: list[float], wide: bool, beside: float | None) -> None:
    curve = Curve(tuple(range(10, 10 * len(values) + 10, 10)), tuple(values))
    root = inside(curves_chart("run", [Strip("loss", curve, 150, wide, beside)]))
    assert [one.attrib["class"] for one in root.iter("line")].count("beside") == (beside is not None)
    [line] = [one for one in root.iter() if one.tag == "polyline"]
    assert len(line.attrib["points"].split()) == len(values)


def test_a_falling_loss_goes_down_and_short_curves_are_left_out() -> None:
    falling = Curve((1, 2, 3), (4.0, 2.0, 1.0))
    root = inside(curves_chart("run", [Strip("loss", falling, 150), Strip("accuracy", Curve((1,), (0.5,)), 90)]))
    heights = [float(point.split(",")[1]) for point in root.find("polyline").attrib["points"].split()]  # type: ignore[union-attr]
    assert heights == sorted(heights)
    assert "accuracy" not in ElementTree.tostring(root, "unicode")


def test_an_axis_spans_at_least_what_can_be_seen() -> None:
    near = Strip("PSNR", Curve((1, 2), (23.95, 24.05)), 110, beside=24.0)
    ticks = [one.text for one in inside(curves_chart("run", [near])).iter("text") if one.attrib["class"] == "label"]
    assert "24" in ticks
    assert "23.9" in ticks
    root = inside(curves_chart("run", [near._replace(least=1.0)]))
    first, last = (float(place.split(",")[1]) for place in root.find("polyline").attrib["points"].split())  # type: ignore[union-attr]
    assert 0 < first - last < 0.15 * 84  # a tenth of a decibel, of at least one, on 84 pixels


def test_a_logarithmic_axis_is_named() -> None:
    falling, level = Curve((1, 2, 3), (4.0, 0.4, 0.04)), Curve((1, 2, 3), (1.0, 0.9, 0.8))
    assert "loss, logarithmic" in curves_chart("run", [Strip("loss", falling, 80, wide=True)])
    assert "logarithmic" not in curves_chart("run", [Strip("loss", level, 80, wide=True)])


def test_a_long_curve_is_thinned_but_keeps_its_end() -> None:
    curve = Curve(tuple(range(10_001)), tuple(float(value) for value in range(10_001)))
    chart = curves_chart("run", [Strip("loss", curve, 150)])
    assert len(re.findall(r"\d,", chart)) < 1000
    assert 'points="46.0,144.0' in chart
    assert '330.0,20.0"' in chart


def test_curves_over_labels_keep_to_their_frame_and_bars_are_intervals() -> None:
    root = inside(labels_chart("labels", LABELS))
    lines = [one.attrib["points"].split() for one in root.iter() if one.tag == "polyline"]
    assert [len(points) for points in lines] == [2, 2, 2]
    bars = [one.attrib for one in root.iter() if one.tag == "line" and one.attrib["class"] == "line"]
    assert float(bars[0]["y1"]) - float(bars[0]["y2"]) == pytest.approx(
        180 * 0.1 / 0.35, abs=0.1
    )  # 30 to 40 of 15 to 50%
    assert bars[1]["y1"] == bars[1]["y2"]  # results without intervals have the draws
    curve = [point.model_copy(update={"ci95": (0.2, 0.45)}) for point in LABELS.curves["encoder"]]
    root = inside(labels_chart("labels", LABELS.model_copy(update={"curves": {"encoder": tuple(curve)}})))
    bars = [one.attrib for one in root.iter() if one.tag == "line" and one.attrib["class"] == "line"]
    assert float(bars[0]["y1"]) - float(bars[0]["y2"]) == pytest.approx(180, abs=0.1)  # all of 20 to 45%
    root = inside(labels_chart("labels", LABELS))
    names = [one for one in root.iter() if one.attrib.get("class") == "name"]
    heights = [float(one.attrib["y"]) for one in names]
    assert [one.text for one in names] == ["encoder", "untrained", "raw pixels"]
    once = [point.model_copy(update={"draws": point.draws[:1]}) for point in LABELS.curves["pixels"]]
    marked = LABELS.model_copy(update={"curves": {**LABELS.curves, "from_scratch": tuple(once)}})
    names = [one for one in inside(labels_chart("labels", marked)).iter() if one.attrib.get("class") == "name"]
    assert sorted(one.text or "" for one in names) == ["encoder", "from scratch*", "raw pixels", "untrained"]
    assert labels_rules([LABELS]) == [LABELS_RULE]
    [_, mark] = labels_rules([marked])
    assert mark.startswith("* Measured once for each number of labels: training it from scratch.")
    assert min(b - a for a, b in itertools.pairwise(heights)) > 12


def test_an_interval_is_drawn_to_scale() -> None:
    labels = torch.arange(100) % 2
    half = score(torch.zeros(100, dtype=torch.int64), labels, 2)
    root = inside(interval_mark(half, (0.0, 1.0), half, 0.5))
    places = {one.attrib["class"]: float(one.attrib["cx"]) for one in root.iter() if "cx" in one.attrib}
    assert places == {"dot": 90.0, "ring": 90.0}
    assert span_of([0.12, 0.31]) == pytest.approx((0.1, 0.35))
    assert span_of([1.0, 1.0]) == pytest.approx((0.95, 1.0))


@pytest.mark.parametrize("count", [2, 12, 30])
def test_a_confusion_matrix_has_a_cell_for_every_pair_and_numbers_if_there_is_room(count: int) -> None:
    labels = torch.arange(10 * count) % count
    found = score((labels + (torch.arange(10 * count) < count)) % count, labels, count)
    root = inside(confusion_chart(found, [f"class {number}" for number in range(count)]))
    assert len([one for one in root.iter() if one.tag == "rect"]) == count**2
    numbers = [one.text for one in root.iter() if one.attrib.get("class", "").startswith("cell")]
    assert numbers.count("90") == (count if count <= 12 else 0)


def test_cells_of_a_confusion_matrix_below_one_percent_have_no_number() -> None:
    labels = torch.zeros(1000, dtype=torch.int64)
    labels[0] = 1
    said = labels.clone()
    said[1:10], said[10:20] = 1, 2  # 9 and 10 of 999
    root = inside(confusion_chart(score(said, labels, 3), ["a", "b", "c"]))
    assert [one.text for one in root.iter() if one.attrib.get("class", "").startswith("cell")] == ["98", "1", "100"]


def test_long_class_names_are_drawn_and_very_long_ones_are_cut_with_a_tooltip() -> None:
    labels = torch.tensor([0, 1])
    name = "a name that is much too long to be drawn"
    root = inside(confusion_chart(score(labels, labels, 2), ["english_springer_spaniel", name]))
    texts = ["".join(one.itertext()) for one in root.iter("text")]
    assert texts.count("english_springer_spaniel" * 2) == 2  # the tooltip, and the name
    assert texts.count(f"{name}{name[:23]}…") == 2


def test_names_in_charts_are_harmless() -> None:
    labels = torch.tensor([0, 1, 1])
    chart = confusion_chart(score(labels, labels, 2), [EVIL, "dog"])
    assert "<img" not in chart
    assert f"{EVIL} → dog: 0 of 1" in [one.text for one in ElementTree.fromstring(chart).iter("title")]


def test_confidence_that_is_right_lies_on_the_line() -> None:
    root = inside(reliability_chart([Bin(10, 0.25, 0.25), Bin(30, 0.5, 0.5), Bin(60, 1.0, 0.9)]))
    [line] = [one for one in root.iter("line") if one.attrib["class"] == "chance"]
    slope = float(line.attrib["y1"]) - float(line.attrib["y2"])
    dots = list(root.iter("circle"))
    for share, dot in zip((0.25, 0.5), dots, strict=False):
        assert float(line.attrib["y1"]) - float(dot.attrib["cy"]) == pytest.approx(share * slope, abs=0.02)
    sizes = [float(dot.attrib["r"]) for dot in dots]
    assert sizes == sorted(sizes)
