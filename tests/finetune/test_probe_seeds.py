"""Probes with several seeds, or of several encoders that differ in their seed: ordinary runs, and a summary."""

from __future__ import annotations

from pathlib import Path
from statistics import stdev
from typing import Any

import pytest

import retouch
from common.errors import UserError
from finetune.results import ProbeReport, read_results
from tests.finetune.probing import ALONE, probing
from tests.recipe import pretraining


def probed(out: Path, encoder: Path, **changes: Any) -> ProbeReport:
    return retouch.probe(probing(out, encoder, **{"knn": {"k": [5]}, **changes}))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pretraining runs, with the seeds 3 and 4."""
    found = retouch.pretrain(pretraining(tmp_path_factory.mktemp("runs") / "mine", seeds=2, steps=3))
    assert found.encoder is not None
    return found.encoder


@pytest.fixture(scope="module")
def over_pretraining(trained: Path) -> Path:
    out = trained.parent / "probes"
    probed(out, trained)
    return out


def untimed(report: Any) -> str:
    """Results without what depends on the clock, or on the place."""
    text: dict[str, Any] = report.model_dump(mode="json")
    for result in text["results"]:
        result["encoder"].pop("path")
        for subject in result["subjects"].values():
            for probe in subject["probes"].values():
                probe.pop("seconds")
    return str(text["results"])


def test_probing_seeds_repeat_the_probe_of_one_encoder(encoder: Path, tmp_path: Path) -> None:
    report = probed(tmp_path / "out", encoder, seeds=3, seed=5)
    assert report == read_results(tmp_path / "out")
    assert report.seeds is not None
    assert (report.seeds.over, report.seeds.seeds) == ("probing", (5, 6, 7))
    assert report.seeds.runs == ("seed-5", "seed-6", "seed-7")
    alone = probed(tmp_path / "alone", encoder, seed=6)
    assert untimed(read_results(tmp_path / "out" / "seed-6")) == untimed(alone)
    # another untrained network with each seed, the same encoder
    twins = [result.subjects["random_init"].probes["linear"].test.confusion for result in report.results]
    assert len(set(twins)) == 3
    assert {result.encoder.sha256 for result in report.results} == {alone.results[0].encoder.sha256}


def test_pretraining_seeds_measure_each_encoder_of_a_group_with_the_same_probe(
    trained: Path, over_pretraining: Path
) -> None:
    report = read_results(over_pretraining)
    assert isinstance(report, ProbeReport)
    assert report.seeds is not None
    assert (report.seeds.over, report.seeds.seeds) == ("pretraining", (3, 4))
    shas = [retouch.load_encoder(trained / f"seed-{seed}") for seed in (3, 4)]
    assert len(shas) == len({result.encoder.sha256 for result in report.results}) == 2
    for seed, result in zip((3, 4), report.results, strict=True):
        assert result.encoder.path == str(trained / f"seed-{seed}")
        assert "seed: 0\n" in (over_pretraining / f"seed-{seed}" / "config.yaml").read_text()
    pixels = next(one for one in report.seeds.spreads if (one.subject, one.probe) == ("pixels", "linear"))
    assert pixels.spread.deviation == 0  # nothing of it is pretrained, or drawn again


def test_spread_is_that_of_the_single_results(over_pretraining: Path) -> None:
    report = read_results(over_pretraining)
    assert isinstance(report, ProbeReport)
    assert report.seeds is not None
    names = [(one.task, one.subject, one.probe, one.measure) for one in report.seeds.spreads]
    subjects = [(s, p) for s in ("encoder", "random_init", "pixels") for p in ("linear", "knn")]
    assert names == [("color", *one, "accuracy") for one in subjects]
    for one in report.seeds.spreads:
        values = [result.subjects[one.subject].probes[one.probe].test.accuracy for result in report.results]
        assert one.spread.values == tuple(values)
        assert one.spread.deviation == pytest.approx(stdev(values))


def test_table_says_over_which_seeds(
    encoder: Path, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = probed(tmp_path / "one", trained)
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("±") == 1 + len(report.seeds.spreads if report.seeds else ())  # no tables of single runs
    assert "standard deviation over pretraining seeds" in said
    assert "(2 seeds)" in said
    one = report.seeds.spreads[0].spread if report.seeds else None
    assert one is not None
    assert f"{100 * one.mean:.1f} ± {100 * one.deviation:.1f} (2 seeds)" in said
    probed(tmp_path / "other", encoder, seeds=2)
    assert "seeds of the probe; the encoder is the same" in " ".join(capsys.readouterr().out.split())


def test_interrupted_probes_go_on_but_not_with_results_of_another_encoder(trained: Path, tmp_path: Path) -> None:
    out, alone = tmp_path / "out", {"seeds": 2, "baselines": ALONE}
    probed(out, trained / "seed-3", **alone)
    stamps = {run: (out / run / "results.json").stat().st_mtime_ns for run in ("seed-0", "seed-1")}
    (out / "seed-1" / "results.json").unlink()
    (out / "results.json").unlink()
    probed(out, trained / "seed-3", **alone, resume=True)
    assert (out / "seed-0" / "results.json").stat().st_mtime_ns == stamps["seed-0"]
    assert (out / "results.json").is_file()
    # the same path holds another encoder now
    stored = (out / "seed-0" / "results.json").read_text()
    wanted = read_results(out)
    assert wanted.made is not None
    (out / "seed-0" / "results.json").write_text(stored.replace(wanted.made.inputs["encoder"], "0" * 64))
    probed(out, trained / "seed-3", **alone, resume=True)
    assert "0" * 64 not in (out / "seed-0" / "results.json").read_text()


def test_every_problem_of_all_probes_is_said_before_the_first(trained: Path, tmp_path: Path) -> None:
    weights = trained / "seed-4" / "encoder" / "model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[:-8])
    try:
        with pytest.raises(UserError) as found:
            probed(tmp_path / "out", trained, data={"train": str(tmp_path / "nowhere")})
    finally:
        weights.write_bytes(kept)
    assert "nowhere" in str(found.value)
    assert "seed-4" in str(found.value)
    assert not (tmp_path / "out").exists()


def test_a_group_has_as_many_seeds_as_it_has_and_must_have_finished(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds 2 pretraining runs"):
        probed(tmp_path / "out", trained, seeds=5)
    summary = (trained / "results.json").rename(tmp_path / "results.json")
    try:
        with pytest.raises(UserError, match="have not all finished"):
            probed(tmp_path / "out", trained)
    finally:
        summary.rename(trained / "results.json")
