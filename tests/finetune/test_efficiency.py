"""Label efficiency: draws that no one has to trust, curves turned around by hand, and what reaches the results."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm, t

import retouch
from common.data import Labels
from common.errors import UserError
from finetune import efficiency
from finetune.config import LabelEfficiencyConfig, ProbeConfig
from finetune.efficiency import draw_rows, label_efficiency, labels_for
from finetune.features import Extraction, extract
from finetune.metrics import wilson_interval
from finetune.pooling import build_spaces
from finetune.probes import Candidates, Fitted
from finetune.results import ProbeReport, read_results
from finetune.summary import notes
from finetune.table import labels_text, point_text, worth_lines
from finetune.worth import LabelEfficiency, LabelPoint, Worth
from tests.finetune.probing import probing
from tests.finetune.toys import HalvingEncoder, bright_images, hits, probe_result

predict = Fitted.predict


def labels_of(*sizes: int) -> Labels:
    values = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return Labels(values, tuple(f"c{k}" for k in range(len(sizes))), "task")


# ---- draws


@given(sizes=st.lists(st.integers(3, 40), min_size=2, max_size=5), seed=st.integers(0, 99))
def test_draws_are_nested_and_stratified(sizes: list[int], seed: int) -> None:
    labels, config = labels_of(*sizes), LabelEfficiencyConfig(shares=(0.3, 0.5, 0.8))
    drawn = draw_rows(labels, config, seed)
    for place, (count, draws) in enumerate(drawn.items()):
        smaller = list(drawn.values())[place - 1] if place else None
        for number, rows in enumerate(draws):
            assert len(rows) == count
            assert torch.equal(rows, rows.unique())  # ascending, none twice
            if smaller is not None:
                assert set(smaller[number].tolist()) <= set(rows.tolist())
            counts = labels.values[rows].bincount(minlength=len(sizes)).double()
            share = count / sum(sizes)
            assert (counts >= 1).all()
            assert (counts <= torch.tensor(sizes) * share + 1 + 1e-9).all()


def test_draws_are_a_function_of_the_seed_and_differ_from_each_other() -> None:
    labels, config = labels_of(50, 50), LabelEfficiencyConfig(shares=(0.2,), draws=2)
    (first, second), again, other = (
        draw_rows(labels, config, 0)[20],
        draw_rows(labels, config, 0),
        draw_rows(labels, config, 1),
    )
    assert torch.equal(first, again[20][0])
    assert not torch.equal(first, second)
    assert not torch.equal(first, other[20][0])


def test_images_per_class_are_so_many_of_each_and_all_of_a_smaller_one() -> None:
    labels = labels_of(40, 40, 4)
    drawn = draw_rows(labels, LabelEfficiencyConfig(per_class=(2, 10), draws=1), 0)
    counts = [labels.values[draws[0]].bincount().tolist() for draws in drawn.values()]
    assert counts == [[2, 2, 2], [10, 10, 4]]


def test_budgets_that_leave_nothing_to_choose_on_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    labels = labels_of(10, 10)
    assert list(draw_rows(labels, LabelEfficiencyConfig(shares=(0.05, 0.1, 0.5, 1.0)), 0)) == [10]
    assert "no budget" not in caplog.text
    assert not draw_rows(labels, LabelEfficiencyConfig(shares=(0.05,)), 0)
    assert "no budget between 4 labels, 2 per class, and all 20" in caplog.text


# ---- what labels are worth


def test_labels_are_read_off_a_curve_on_a_logarithmic_scale() -> None:
    # half way from 100 to 400, ...
    asked, found = (0.3, 0.4, 0.5, 0.2, 0.1, 0.61), (200, 400, 800, 100, 0, math.inf)
    assert read_off((0.2, 0.4, 0.6), *asked) == pytest.approx(found)


def test_a_curve_that_falls_keeps_its_best() -> None:
    assert read_off((0.2, 0.4, 0.3), 0.4, 0.41) == pytest.approx((400, math.inf))
    assert read_off((0.4, 0.2, 0.6), 0.5, 0.4) == pytest.approx((800, 100))


def test_many_curves_are_read_off_at_once() -> None:
    budgets, random = np.array([100, 400, 1600]), np.random.default_rng(0)
    curves, asked = random.random((20, 3)), random.random((20, 4))
    found = labels_for(budgets, curves[:, None], asked)
    alone = [
        [labels_for(budgets, curve, np.array(one)) for one in some] for curve, some in zip(curves, asked, strict=True)
    ]
    assert found.tolist() == np.array(alone).tolist()


def read_off(curve: tuple[float, ...], *asked: float) -> list[float]:
    found: list[float] = labels_for(np.array([100, 400, 1600]), np.array(curve), np.array(asked)).tolist()
    return found


def test_worth_is_the_baselines_curve_at_the_encoders_accuracy_with_an_interval_around_it() -> None:
    found = label_efficiency(
        {
            "encoder": {100: hits(0.5, draws=3), 400: hits(0.6, draws=3), 1600: hits(0.9)},
            "random_init": {100: hits(0.3, draws=3), 400: hits(0.5, draws=3), 1600: hits(0.7)},
        }
    )
    assert [point.accuracy for point in found.curves["random_init"]] == pytest.approx([0.3, 0.5, 0.7])
    assert [len(point.draws) for point in found.curves["encoder"]] == [3, 3, 1]
    few, some, all_ = found.worth["random_init"]
    assert (few.labels, few.equals) == (100, 400)
    assert (some.labels, some.equals) == (400, 800)
    assert (all_.equals, all_.ci95) == (None, (None, None))  # never that accurate
    assert some.ci95[0] is not None
    assert some.ci95[1] is not None
    assert 600 < some.ci95[0] < 800 < some.ci95[1] < 1100


def test_interval_covers_draws_that_differ() -> None:
    def drawn(*shares: float) -> torch.Tensor:
        return torch.cat([hits(share, 20_000) for share in shares])  # so many images that only the draws matter

    theirs = {100: drawn(*[0.3] * 5), 400: drawn(*[0.5] * 5), 1600: hits(0.7, 20_000)}
    apart = (0.47, 0.48, 0.5, 0.52, 0.53)
    still, moved = (
        label_efficiency(
            {"encoder": {100: drawn(*ours), 400: drawn(*[0.6] * 5), 1600: hits(0.9, 20_000)}, "pixels": theirs}
        )
        for ours in ([0.5] * 5, apart)
    )
    assert still.worth["pixels"][0].equals == moved.worth["pixels"][0].equals == 400
    half = t.ppf(0.975, 4) * np.std(apart, ddof=1) / math.sqrt(5)  # of Student's interval
    low, high = moved.worth["pixels"][0].ci95
    assert low == pytest.approx(100 * 4 ** ((0.5 - half - 0.3) / 0.2), rel=0.05)
    assert high == pytest.approx(400 * 4 ** (half / 0.2), rel=0.05)
    assert still.worth["pixels"][0].ci95[0] == pytest.approx(400, rel=0.05)


def test_each_point_has_an_interval_of_test_images_and_of_draws() -> None:
    several = torch.cat([hits(share, 400) for share in (0.2, 0.3, 0.5, 0.6)])
    found = label_efficiency({"encoder": {100: hits(0.4, 400), 400: several, 1600: hits(1.0, 400)}}).curves["encoder"]
    one, some, all_ = (point.ci95 for point in found)
    assert one == wilson_interval(160, 400)  # for a single draw, only that of the test images
    assert all_ == wilson_interval(400, 400)
    assert some is not None
    half = t.ppf(0.975, 3) * np.std([0.2, 0.3, 0.5, 0.6], ddof=1) / math.sqrt(4)  # the images add little
    assert some == pytest.approx((0.4 - half, 0.4 + half), abs=0.02)
    older = found[0].model_dump(mode="json")
    del older["ci95"]
    assert point_text(LabelPoint.model_validate(older)) == "40.0"
    assert point_text(found[0]).startswith("40.0 [3")


@pytest.mark.parametrize(("draws", "apart", "images"), [(3, 0.3, 400), (5, 0.3, 400), (5, 0.15, 2000), (5, 0.0, 400)])
def test_intervals_hold_the_true_accuracy_and_worth_as_often_as_they_say(
    draws: int, apart: float, images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulated probes: images of their own difficulty, draws that are good or bad, and what one does to the other."""
    monkeypatch.setattr(efficiency, "RESAMPLES", 2000)
    random, repeats = np.random.default_rng(images + draws), 300
    budgets, skill = (100, 400), {"encoder": (0.5, 1.0), "pixels": (0.0, 1.0)}
    # the mean over images and draws: a sum of normals with variances 1, apart² and, of the answer, 1
    true = {name: [float(norm.cdf(mean / math.sqrt(2 + apart**2))) for mean in means] for name, means in skill.items()}
    wanted = 100 * 4 ** ((true["encoder"][0] - true["pixels"][0]) / (true["pixels"][1] - true["pixels"][0]))
    held, worth = [], []
    for repeat in range(repeats):
        difficulty, quality = random.standard_normal(images), apart * random.standard_normal((2, draws, 1))
        right = {
            name: {
                count: torch.from_numpy(mean + difficulty + luck + random.standard_normal((draws, images)) > 0)
                for count, mean, luck in zip(budgets, means, quality, strict=True)
            }
            for name, means in skill.items()
        }
        found = label_efficiency(right, repeat)
        for name, curve in found.curves.items():
            for point, accuracy in zip(curve, true[name], strict=True):
                assert point.ci95 is not None
                held.append(point.ci95[0] <= accuracy <= point.ci95[1])
        low, high = (math.inf if end is None else end for end in found.worth["pixels"][0].ci95)
        worth.append(low - 1 <= wanted <= high + 1)
    assert 0.93 <= np.mean(held) <= 0.97
    assert np.mean(worth) >= 0.93


def test_it_is_said_in_plain_words() -> None:
    curve = ({"labels": 20, "draws": [0.3]}, {"labels": 5000, "draws": [0.5]})
    found = LabelEfficiency.model_validate(
        {"protocol": "", "curves": {"encoder": curve, "pixels": curve}, "worth": {"pixels": ()}}
    )

    def said(equals: int | None, *ci95: int | None) -> str:
        return labels_text(found, "pixels", Worth.model_validate({"labels": 20, "equals": equals, "ci95": ci95}))

    assert said(2134, 1561, 2891) == "2,100 [1,600, 2,900]"
    assert said(None, None, None) == "more than all 5,000"
    assert said(4200, 3000, None) == "4,200 [3,000, more than all 5,000]"
    assert said(0, 0, 25) == "fewer than 20 [fewer than 20, 25]"
    worth = [Worth(labels=20, equals=2134, ci95=(1561, 2891)), Worth(labels=5000, equals=None, ci95=(None, None))]
    found = found.model_copy(
        update={
            "curves": {**found.curves, "random_init": found.curves["pixels"]},
            "worth": {"random_init": tuple(worth)},
        }
    )
    assert worth_lines("shape", "denoise", found) == [
        "shape: denoise with 20 labels equals the untrained network with about 2,100 [1,600, 2,900]"
    ]
    unknown = found.model_copy(update={"worth": {"random_init": (Worth(labels=20, equals=25, ci95=(0, None)),)}})
    assert worth_lines("shape", "denoise", unknown) == [
        "shape: denoise with 20 labels may equal the untrained network with any number: too few test images to tell"
    ]


# ---- settings


def test_it_is_off_unless_asked_for_and_has_a_short_form() -> None:
    def given(**values: Any) -> LabelEfficiencyConfig | None:
        return ProbeConfig.model_validate({"out": "o", "encoder": "e", **values}).label_efficiency

    assert given() is None
    assert given(label_efficiency=False) is None
    assert given(label_efficiency=True) == LabelEfficiencyConfig()
    assert given(label_efficiency=[0.1, 0.5]) == LabelEfficiencyConfig(shares=(0.1, 0.5))


# ---- wiring


def test_curves_end_at_the_probe_itself_and_are_in_the_results(
    tmp_path: Path, encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = {"shares": [0.2, 0.5], "draws": 2}
    report = retouch.probe(probing(tmp_path / "out", encoder, limit=200, label_efficiency=asked))
    found = report.results[0].label_efficiency
    assert found is not None
    assert list(found.curves) == ["encoder", "random_init", "pixels"]
    for name, curve in found.curves.items():
        assert [(point.labels, len(point.draws)) for point in curve] == [(40, 2), (100, 2), (200, 1)]
        assert curve[-1].accuracy == report.results[0].subjects[name].probes["linear"].test.accuracy
    assert list(found.worth) == ["random_init", "pixels"]
    assert read_results(tmp_path / "out") == report
    said = capsys.readouterr().out
    assert "Linear probe with fewer labels" in said
    assert "[95% interval]" in said
    assert " labels may equal the untrained network with any number: " in " ".join(said.split())


def test_labels_beyond_the_budget_and_test_labels_change_nothing_that_is_fitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, test = (bright_images(length, seed=length) for length in (90, 60))
    how = Extraction(torch.device("cpu"), torch.float32, batch_size=16, workers=0)
    spaces, _ = build_spaces(HalvingEncoder().layer_shapes, ["each"], ["avg", "flatten"], 1000)
    features = [
        extract(HalvingEncoder(), images, sorted({p for s in spaces for p in s.parts}), how) for images in (train, test)
    ]
    config = ProbeConfig.model_validate({"out": tmp_path, "encoder": "e", "label_efficiency": [0.2]})
    rows = torch.arange(0, 36)
    monkeypatch.setattr(efficiency, "draw_rows", lambda *_: {36: [rows]})
    asked: list[torch.Tensor] = []
    monkeypatch.setattr(Fitted, "predict", lambda self, *rest: asked.append(predict(self, *rest)) or asked[-1])

    def run(labels: Labels, test_labels: torch.Tensor) -> None:
        candidates = Candidates(features[0], spaces, how.device)
        efficiency.measure_efficiency(config, candidates, labels, features[1], test_labels, test_labels)

    labels = train.labels()
    run(labels, test.labels().values)
    run(
        labels._replace(values=torch.cat([labels.values[:36], (labels.values[36:] + 1) % 3])),
        test.labels().values.flip(0),
    )
    assert torch.equal(*asked)
    run(labels._replace(values=labels.values.flip(0)), test.labels().values)
    assert not torch.equal(asked[0], asked[2])  # the drawn ones do


def test_results_without_it_can_be_read(tmp_path: Path) -> None:
    tree = ProbeReport(results=(probe_result("shape", 0.8),)).model_dump(mode="json")
    del tree["results"][0]["label_efficiency"]
    (tmp_path / "results.json").write_text(json.dumps(tree))
    report = read_results(tmp_path)
    assert isinstance(report, ProbeReport)
    assert report.results[0].label_efficiency is None


def test_shares_and_images_per_class_exclude_each_other() -> None:
    with pytest.raises(UserError, match="give shares or per_class, not both"):
        retouch.probe({"encoder": "e", "label_efficiency": {"shares": [0.1], "per_class": [5]}})


def test_fits_with_fewer_labels_that_did_not_converge_are_noted(tmp_path: Path) -> None:
    found = label_efficiency({"encoder": {10: torch.ones(1, 4, dtype=torch.bool)}})
    result = probe_result("shape", 0.8)
    config = ProbeConfig.model_validate({"out": tmp_path, "encoder": "e"})
    for unconverged in ({}, {"encoder": 3}):
        measured = found.model_copy(update={"unconverged": unconverged})
        report = ProbeReport(results=(result.model_copy(update={"label_efficiency": measured}),))
        said = [note for note in notes(config, report) if "label efficiency" in note]
        assert said == [
            f"shape: in the label efficiency of {subject}, {count} fits did not converge: its accuracies may be too low"
            for subject, count in unconverged.items()
        ]
