"""``retouch repeat``: a result run again is identical on the same machine; what differs is named, and judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import retouch
from common.encoders import EncoderConfig, build_encoder
from common.encoders.export import export_encoder
from common.errors import UserError
from common.runs.made import made
from finetune.metrics import score
from finetune.predictions import Predictions, write_predictions
from finetune.results import ProbeReport, ProbeResult, SubjectResult
from retouch.cli import main
from retouch.comparison import NOT_COMPARED, compared, headline, leaves, sentences
from retouch.repetition import differences, read_any, repeat, result_folder
from retouch.studies.plan import Rung
from retouch.studies.results import StudyReport
from tests.finetune.probing import ALONE, probing
from tests.processes import in_two_processes
from tests.recipe import near_means, pretraining
from tests.retouch.studies.studies import NAMES, plan, recipes, settings


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretraining run of folder images."""
    home = tmp_path_factory.mktemp("home")
    (home / "pictures").mkdir()
    generator = torch.Generator().manual_seed(0)
    for number in range(20):
        pixels = torch.randint(256, (16, 16, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(home / "pictures" / f"{number}.png")
    data = {"source": str(home / "pictures"), "image_size": 16, "workers": 0}
    retouch.pretrain(pretraining(home / "run", data=data, steps=3))
    return home / "run"


@pytest.fixture(scope="module")
def probes(run: Path) -> Path:
    cached = {"feature_cache": True, "cache_folder": str(run.parent / "cache")}
    retouch.probe(probing(run.parent / "probe", run, knn={"k": [5]}, **cached))
    return run.parent / "probe"


def changed(folder: Path, copy: Path, **changes: Any) -> Path:
    """A copy of a run's settings and results, with other results."""
    copy.mkdir()
    (copy / "config.yaml").write_text((folder / "config.yaml").read_text())
    found = json.loads((folder / "results.json").read_text())
    for key, value in changes.items():
        here, *path, last = [found, *key.split("__")]
        for part in path:
            here = here[int(part) if part.isdecimal() else part]
        here[last] = value(here[last]) if callable(value) else value
    (copy / "results.json").write_text(json.dumps(found))
    return copy


def test_pretraining_run_again_is_identical(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["repeat", str(run)]) == 0
    assert "identical: all" in capsys.readouterr().out
    again = Path(f"{run}-repeat-1")
    assert (again / "encoder/model.safetensors").read_bytes() == (run / "encoder/model.safetensors").read_bytes()
    found = retouch.repeat(run / "results.json")
    assert found is not None
    assert (found.verdict, found.folder, found.changed) == ("identical", Path(f"{run}-repeat-2"), ())
    assert {one.state for one in found.numbers} == {"identical"}


def test_probe_run_again_is_identical_and_takes_nothing_from_the_cache(probes: Path, tmp_path: Path) -> None:
    found = repeat(probes, tmp_path / "again")
    assert found is not None
    assert found.verdict == "identical"
    assert "color, encoder, linear" in [one.name for one in found.numbers]
    assert "feature_cache: false" in (tmp_path / "again" / "config.yaml").read_text()


def test_fine_tuning_run_again_is_identical(run: Path, tmp_path: Path) -> None:
    data = {"train": "shapes", "task": "color", "limit": 60, "test_limit": 40, "workers": 0}
    compare = {"linear_probe": False, "from_scratch": False}
    quick = {"steps": 2, "batch_size": 8, "precision": "float32", "wandb": {"mode": "disabled"}, "compare": compare}
    retouch.finetune({**quick, "out": str(tmp_path / "tuned"), "encoder": str(run), "data": data})
    found = repeat(tmp_path / "tuned")
    assert found is not None
    assert (found.verdict, [one.name for one in found.numbers]) == ("identical", ["fine-tuned"])


def test_groups_run_again_are_identical(tmp_path: Path) -> None:
    retouch.pretrain(pretraining(tmp_path / "mine", seeds=2, steps=2))
    found = repeat(tmp_path / "mine")
    assert found is not None
    assert (found.verdict, found.folder.name) == ("identical", "mine-repeat-1")
    assert (found.folder / "seed-4" / "encoder").is_dir()
    retouch.probe(probing(tmp_path / "probes", tmp_path / "mine", knn={"k": [5]}))
    found = repeat(tmp_path / "probes")
    assert found is not None
    assert (found.verdict, len(found.numbers)) == ("identical", 6)


@pytest.mark.usefixtures("few_strengths")
def test_a_study_run_again_makes_the_same_choices_and_is_identical(tmp_path: Path) -> None:
    [denoise, *_] = recipes(tmp_path)
    values = settings(tmp_path, "mine", contestants=[denoise])
    steps, more = {NAMES[0]: 2}, {NAMES[0]: 4}
    # the first study had more time for its last rung than it had planned
    rungs = (Rung(seconds=1.0, steps=steps), Rung(seconds=2.0, steps=more, whole=more))
    short = plan(tmp_path, simple=(), steps=steps, rungs=rungs, scratch=0)
    labels = {**values["labels"], "train": str(colored(tmp_path)), "test": None, "task": None}
    retouch.study({**values, "labels": labels})
    Path(short).unlink()  # what it needs is in the folder of the study
    found = repeat(tmp_path / "mine")
    assert found is not None
    assert (found.verdict, found.folder.name, found.changed) == ("identical", "mine-repeat-1", ())
    assert {one.name for one in found.decisions} == {"winner", "judged", "in the last rung"}
    assert all(one.then == one.now for one in found.decisions)
    assert "label, pixels" in [one.name for one in found.numbers]
    then = read_any(tmp_path / "mine")
    assert isinstance(then, StudyReport)
    assert [one.steps for one in then.named(NAMES[0]).validations] == [2, 4]
    written = (tmp_path / "mine" / "contestants" / NAMES[0] / "config.yaml").read_text(encoding="utf-8")
    assert "\nsteps: 4\n" in written
    assert then.made is not None
    assert set(then.made.inputs) == {"labels.train", "labels.test"}
    # another winner is another result, whatever the numbers
    [loser] = [one.name for one in then.contenders if one.name != then.winner][:1]
    now = then.model_copy(update={"winner": loser})
    other = compared(tmp_path, tmp_path, then, now)
    assert other.verdict == "different"
    assert {one.state for one in other.numbers} == {"identical"}
    assert f"winner: {loser} now, {then.winner} then" in sentences(other)
    near = then.model_copy(update={"unlabeled_images": 1})
    assert compared(tmp_path, tmp_path, then, near).verdict == "within the interval"


def colored(folder: Path) -> Path:
    """Four classes of images, from dark to light: with fewer, labels at random are tried more than once."""
    for number in range(60):
        here = folder / "colored" / str(number % 4)
        here.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 64, (16, 16, 3)) + 60 * (number % 4)
        Image.fromarray(pixels.astype(np.uint8)).save(here / f"{number}.png")
    return folder / "colored"


def test_a_study_without_its_plan_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "config.yaml").write_text("# retouch study\nlabels: shapes\n")
    (folder / "results.json").write_text("{}")
    monkeypatch.setattr("retouch.repetition.read_any", lambda folder: StudyReport.model_construct())  # type: ignore[call-arg]
    with pytest.raises(UserError, match=r"plan: no such file: .*plan\.json"):
        repeat(folder)


def test_a_run_that_was_paused_and_went_on_is_repeated_to_where_it_ended(run: Path, tmp_path: Path) -> None:
    retouch.pretrain(pretraining(tmp_path / "run", stop={"after": 1e-6}, steps=4))  # by the clock, after one step
    retouch.pretrain(pretraining(tmp_path / "run", resume=True, stop={"at": 3}, steps=4))
    found = repeat(tmp_path / "run")
    assert found is not None
    assert found.verdict == "identical"


def test_number_inside_its_interval_is_no_difference_and_one_outside_is(
    probes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accuracy = "results__0__subjects__encoder__probes__linear__test__accuracy"
    near = changed(probes, tmp_path / "near", **{accuracy: lambda value: value + 0.001})
    found = repeat(near)
    assert found is not None
    assert found.verdict == "within the interval"
    assert found.differing == ("results.0.subjects.encoder.probes.linear.test.accuracy",)
    far = changed(probes, tmp_path / "far", **{accuracy: 0.999, accuracy.replace("accuracy", "ci95"): [0.998, 1.0]})
    assert main(["repeat", str(far)]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "different: 3 of" in said
    assert "please report it" in said


def test_answers_to_the_same_images_decide_what_an_interval_over_images_would_let_pass(
    probes: Path, tmp_path: Path
) -> None:
    """Of 1,000 answers, 20 are wrong now that were right then: far inside the interval, and no luck of the images."""
    then = read_any(probes)
    assert isinstance(then, ProbeReport)
    labels = torch.arange(1000) % 4
    classes = tuple("abcd")
    right = torch.where(torch.arange(1000) < 700, labels, (labels + 1) % 4)

    def written(name: str, answers: torch.Tensor, paths: str = "image") -> tuple[Path, ProbeReport]:
        linear = then.results[0].linear.model_copy(update={"test": score(answers, labels, 4)})
        encoder = SubjectResult(view="rgb", probes={"linear": linear})
        result = _with(then, {"encoder": encoder})
        files = tuple(f"{paths}-{row}.png" for row in range(1000))
        one = Predictions(result.task, classes, torch.arange(1000), files, labels, {"encoder.linear": answers})
        (tmp_path / name).mkdir()
        write_predictions(tmp_path / name, [one])
        return tmp_path / name, then.model_copy(update={"results": (result,)})

    worse, swapped = right.clone(), right.clone()
    worse[:20] = (labels[:20] + 1) % 4
    swapped[:20], swapped[700:718] = (labels[:20] + 1) % 4, labels[700:718]  # 20 lost, 18 won
    old, before = written("then", right)
    for name, answers, verdict in (("worse", worse, "different"), ("swapped", swapped, "within the interval")):
        new, now = written(name, answers)
        found = compared(old, new, before, now)
        [number] = found.numbers
        assert (found.verdict, number.state) == (verdict, verdict)
        assert number.paired is not None
        assert number.ci95 is not None
        assert number.ci95[0] < (number.now or 0) < number.ci95[1]
    # of other images, or where answers are missing or damaged, the interval is all there is
    new, now = written("other images", worse, "other")
    assert [one.paired for one in compared(old, new, before, now).numbers] == [None]
    (old / "predictions.parquet").write_bytes(b"no parquet")
    assert [one.state for one in compared(old, new, before, now).numbers] == ["within the interval"]


def test_pretraining_alone_has_no_interval(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = changed(run, tmp_path / "other", ruler__psnr=lambda value: value + 1e-9)
    assert main(["repeat", str(other)]) == 1
    assert "pretraining with seeds=5 has" in capsys.readouterr().out


def test_what_is_not_compared_is_the_clock_the_machine_and_the_original_sizes(run: Path) -> None:
    assert set(NOT_COMPARED) == {"seconds", "trained", "made", "originals", "test_originals", "verdict", "left_out"}
    keys = {key for key, _ in leaves(read_any(run).model_dump(mode="json"))}
    assert {"steps", "encoder_sha256", "ruler.psnr", "ruler.health.effective_rank"} <= keys
    assert not any("seconds" in key or "made" in key for key in keys)
    assert list(leaves({"a": [1, {"seconds": 2, "b": None}]})) == [("a.0", 1), ("a.1.b", None)]


def test_changed_images_are_named_before_the_run_starts(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pictures = run.parent / "pictures"
    Image.new("RGB", (16, 16)).save(pictures / "new.png")
    try:
        with caplog.at_level("INFO", "retouch"):
            found = repeat(run, tmp_path / "again")
    finally:
        (pictures / "new.png").unlink()
    assert found is not None
    assert found.verdict == "different"
    assert any(line.startswith("data.source: the images have changed") for line in found.changed)
    warned = [record.message for record in caplog.records]
    started = next(place for place, line in enumerate(warned) if "unlabeled images" in line)
    assert any("the images have changed" in line for line in warned[:started])


def test_another_encoder_in_the_same_place_is_refused(probes: Path, tmp_path: Path) -> None:
    other = changed(probes, tmp_path / "other", made__inputs__encoder="0" * 64)
    with pytest.raises(UserError, match="not the one that was measured"):
        repeat(other)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other"]


def test_versions_and_machine_are_compared_with_a_remedy() -> None:
    now = made({"data.train": "a"})
    assert differences(Path("runs/mine"), now, now) == []
    old = now.model_copy(
        update={
            "versions": {**now.versions, "torch": "2.0.0+cpu", "Python": "3.10.1"},
            "processor": "Abacus 3000",
            "threads": now.threads + 6,
            "processes": 2,
            "code": "0",
            "inputs": {"data.train": "b"},
        }
    )
    said = "\n".join(differences(Path("runs/mine"), old, now))
    assert "pip install torch==2.0.0\n" in said  # the default index has no local versions
    assert "use Python 3.10.1" in said
    assert "made on Abacus 3000" in said
    assert f"OMP_NUM_THREADS={now.threads + 6}" in said
    assert "torchrun --nproc-per-node 2 -m retouch repeat runs/mine" in said
    assert "source of Retouch has changed" in said
    assert "data.train: the images have changed" in said
    assert len(differences(Path("runs/mine"), old, now)) == 7


def test_results_of_an_older_version_say_so(run: Path, tmp_path: Path) -> None:
    found = repeat(changed(run, tmp_path / "old", made=None))
    assert found is not None
    assert found.verdict == "identical"
    assert "an older version of Retouch wrote it" in found.changed[0]


def test_what_cannot_be_repeated_is_refused_with_what_would_work(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def folder(name: str, mark: str) -> Path:
        path = tmp_path / name
        path.mkdir(parents=True)
        (path / "config.yaml").write_text(f"# retouch {mark}\n")
        return path

    study = folder("study", "study")
    (study / "results.json").write_text("{}")
    part = folder("study/contestants/denoise", "pretrain")
    wanted = {
        part: f"repeat the study: {study}",
        folder("features", "embed"): "retouch embed",
        folder("found", "search"): "retouch search writes images that were found, but no numbers to compare",
        folder("unfinished", "pretrain"): "has not finished",
        tmp_path / "nothing": "not a run",
    }
    for path, words in wanted.items():
        assert main(["repeat", str(path)]) == 2
        assert words in capsys.readouterr().err
    assert main(["repeat", str(run), "-o", str(run)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main(["repeat", str(run), "--resume"]) == 2
    assert "name its folder" in capsys.readouterr().err


def test_fine_tuning_of_a_bare_encoder_knows_its_encoder(tmp_path: Path) -> None:
    export_encoder(build_encoder(EncoderConfig(model_args={"width": 4, "depth": 1}), image_size=16), tmp_path / "e")
    data = {"train": "shapes", "task": "color", "limit": 60, "test_limit": 40, "workers": 0}
    quick = {"steps": 1, "batch_size": 8, "precision": "float32", "wandb": {"mode": "disabled"}}
    compare = {"linear_probe": False, "from_scratch": False}
    result = retouch.finetune(
        {**quick, "out": str(tmp_path / "tuned"), "encoder": str(tmp_path / "e"), "data": data, "compare": compare}
    )
    assert result is not None
    assert result.made is not None
    assert set(result.made.inputs) == {"encoder", "data.train", "data.test"}


def test_every_process_has_the_verdict(run: Path, tmp_path: Path) -> None:
    (tmp_path / "run").symlink_to(run)
    in_two_processes(repeated, tmp_path)
    first, second = ((tmp_path / f"rank-{rank}.txt").read_text() for rank in range(2))
    assert first == second != "None"  # two processes draw other noise than the one that made it


def repeated(rank: int, folder: Path) -> None:
    with near_means():
        found = repeat(folder / "run", folder / "again")
    (folder / f"rank-{rank}.txt").write_text(str(found and found.verdict))


def test_a_run_is_named_by_the_folder_one_is_in(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run)
    assert result_folder(Path()) == result_folder(Path("results.json")) == result_folder(run)
    monkeypatch.chdir(run / "encoder")
    assert result_folder(Path("..")) == run


def test_a_number_that_is_missing_now_is_different(probes: Path, tmp_path: Path) -> None:
    then = read_any(probes)
    assert isinstance(then, ProbeReport)
    now = then.model_copy(update={"results": ()})
    found = compared(probes, tmp_path, then, now)
    assert found.verdict == "different"
    assert {(one.now, one.state) for one in found.numbers} == {(None, "different")}
    less = {**then.results[0].subjects}
    del less["pixels"]
    found = compared(probes, tmp_path, then, now.model_copy(update={"results": (_with(then, less),)}))
    assert found.verdict == "different"


def _with(report: ProbeReport, subjects: dict[str, SubjectResult]) -> ProbeResult:
    return report.results[0].model_copy(update={"subjects": subjects})


def test_data_of_one_task_have_names_of_their_own(probes: Path) -> None:
    report = read_any(probes)
    assert isinstance(report, ProbeReport)
    [one] = report.results
    other = one.model_copy(update={"data": one.data.model_copy(update={"train": "elsewhere"})})
    names = [name for name, *_ in headline(report.model_copy(update={"results": (one, other)}))]
    assert len(set(names)) == len(names) == 2 * len(headline(report))


def test_a_group_is_repeated_with_the_seeds_that_it_has_now(tmp_path: Path) -> None:
    encoders = tmp_path / "mine"
    retouch.pretrain(pretraining(encoders, seeds=2, steps=1))
    probe = probing(tmp_path / "probes", encoders, baselines=ALONE)
    retouch.probe(probe)
    retouch.pretrain(pretraining(encoders, seeds=3, steps=1, resume=True))
    found = repeat(tmp_path / "probes")  # of the two encoders of then
    assert found is not None
    assert (found.verdict, found.changed) == ("identical", ())
    retouch.probe({**probe, "resume": True})
    found = repeat(tmp_path / "probes")
    assert found is not None
    assert found.verdict == "identical"
    assert len(list(found.folder.glob("seed-*"))) == 3
