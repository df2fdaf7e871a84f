"""``retouch runs``: every kind of run with its state, headline and size."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import retouch
from common.encoders import EncoderConfig, build_encoder
from common.encoders.export import export_encoder
from common.errors import UserError
from common.files import write_json
from common.machine.distributed import World
from common.recipes import Settings, stage_config
from common.runs.folder import open_run
from common.runs.lock import locked
from finetune.results import read_results as read_probe
from pretrain.config import PretrainConfig
from pretrain.results import read_results as read_pretraining
from retouch.cli import main
from retouch.listing.found import RunFacts, find_runs
from retouch.listing.headlines import DAMAGED
from retouch.listing.table import runs_json, runs_text
from tests.common.data.samples import picture
from tests.retouch.reporting.runs import probe_result, start, write_pretraining, write_probe

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    write_pretraining(folder / "noisy", method="denoise")
    (folder / "noisy" / "config.yaml").write_text("# retouch pretrain\npretext: {kind: denoise}\nsteps: 300\n")
    write_probe(folder / "deep" / "probe", probe_result(), probe_result(task="size"), config="encoder: runs/noisy\n")
    start(folder / "half", "pretrain pca", "fit: {kind: pca}\nsteps: 900\n")
    (folder / "half" / "checkpoints" / "step-400").mkdir(parents=True)
    (folder / "half" / "checkpoints" / "step-1000.tmp").mkdir()
    start(folder / "features", "embed", "encoder: runs/noisy\n")
    (folder / "features" / "features.parquet").write_bytes(b"0" * 5000)
    (folder / "pictures").mkdir()
    (folder / ".hidden").mkdir()
    start(folder / ".hidden" / "run", "probe", "")
    return folder


def by_name(folder: Path) -> dict[str, RunFacts]:
    return {run.path.relative_to(folder).as_posix(): run for run in find_runs(folder)}


def test_every_run_is_found_with_what_came_out(home: Path) -> None:
    found = by_name(home)
    assert sorted(found) == ["deep/probe", "features", "half", "noisy"]
    assert {name: (run.stage, run.recipe, run.subject, run.state_text) for name, run in found.items()} == {
        "noisy": ("pretrain", "", "denoise", "finished"),
        "deep/probe": ("probe", "", "runs/noisy", "finished"),
        "half": ("pretrain", "pca", "pca", "stopped at step 400 of 900"),
        "features": ("embed", "", "runs/noisy", "finished"),
    }
    ruler = read_pretraining(home / "noisy").ruler
    assert ruler is not None
    assert found["noisy"].value == ruler.psnr
    assert found[
        "noisy"
    ].result == f"PSNR {ruler.psnr:.1f}, {max(ruler.restorers, key=ruler.restorers.__getitem__)} " + (
        f"{max(ruler.restorers.values()):.1f}"
    )
    whole = read_probe(home / "deep" / "probe")
    assert whole.stage == "probe"
    assert found["deep/probe"].value == pytest.approx(whole.results[0].linear.test.accuracy)
    assert found["deep/probe"].result == "animal 80.0%, size 80.0%"
    assert (found["half"].result, found["half"].value) == ("", None)
    config = (home / "features" / "config.yaml").stat().st_size
    assert found["features"].bytes == 5000 + config


def test_a_run_is_running_while_a_process_uses_its_folder(home: Path) -> None:
    with locked(home / "half"):
        assert by_name(home)["half"].state_text == "running at step 400 of 900"
    assert by_name(home)["half"].state == "stopped"


def test_parts_of_a_study_and_runs_of_a_group_are_one_line(tmp_path: Path) -> None:
    start(tmp_path / "study", "study", "labels: my/labeled\n")
    start(tmp_path / "study" / "contestants" / "mask", "pretrain", "")
    write_json(tmp_path / "study" / "results.json", {"verdict": ["Yes: mask beats it."], "winner": "mask", "new": 1})
    start(tmp_path / "five", "pretrain_seeds", "pretext: {kind: mask}\n")
    start(tmp_path / "five" / "seed-0", "pretrain", "")
    spreads = {"psnr/network": {"mean": 21.04, "deviation": 0.31, "values": [1]}}
    write_json(tmp_path / "five" / "results.json", {"seeds": [0, 1], "spreads": spreads})
    start(tmp_path / "probes", "probe_seeds", "")
    spread = {"task": "animal", "subject": "encoder", "probe": "linear", "spread": {"mean": 0.712, "deviation": 0.004}}
    other = spread | {"probe": "knn"}
    write_json(tmp_path / "probes" / "results.json", {"seeds": {"seeds": [0, 1, 2], "spreads": [spread, other]}})
    found = by_name(tmp_path)
    assert {name: run.result for name, run in found.items()} == {
        "study": "Yes; mask is best on validation",
        "five": "PSNR 21.0 ± 0.3 (2 seeds)",
        "probes": "animal 71.2 ± 0.4% (3 seeds)",
    }
    assert find_runs(tmp_path / "five" / "seed-0")[0].stage == "pretrain"
    with locked(tmp_path / "five" / "seed-0"):
        assert by_name(tmp_path)["five"].state == "running"


@pytest.mark.parametrize("config", ["encoder: 2024-13-45\n", f"encoder: {'[' * 3000}\n", "encoder: \x00\n"])
def test_settings_that_cannot_be_read_do_not_hide_a_run(tmp_path: Path, config: str) -> None:
    start(tmp_path / "run", "probe", config)
    (tmp_path / "run" / "results.json").write_text("[" * 100_000)
    [found] = find_runs(tmp_path)
    assert (found.result, found.subject) == (DAMAGED, "")


@pytest.mark.parametrize("text", ["{", '{"results": 3}', '{"results": [{"task": "a", "subjects": {}}]}', "[]"])
def test_damaged_results_are_a_line_that_says_so(tmp_path: Path, text: str) -> None:
    start(tmp_path / "run", "probe", "encoder: [\n")
    (tmp_path / "run" / "results.json").write_text(text)
    [found] = find_runs(tmp_path)
    assert found.result == ("" if text == "[]" else DAMAGED)
    assert (found.recipe, found.subject) == ("", "")


@pytest.mark.parametrize(
    ("settings", "recipe", "text"),
    [
        ("denoise_cifar10", "denoise_cifar10", "denoise_cifar10 (denoise)"),
        ("denoise", "denoise", "denoise"),
        ("my first.yaml", "my first", "my first (denoise)"),
        ({"pretext": {"kind": "denoise"}, "steps": 3}, "", "denoise"),
    ],
)
def test_a_run_is_listed_with_the_recipe_or_file_that_it_was_started_with(
    settings: Settings, recipe: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "my first.yaml").write_text("pretext: {kind: denoise}\nsteps: 3\n")
    config = stage_config(PretrainConfig, settings, ["out=runs/one", "data=shapes", "wandb.mode=disabled"])
    with open_run(config, World(0, 1, torch.device("cpu"))):
        pass
    [found] = retouch.runs(tmp_path / "runs")
    assert (found.stage, found.recipe, found.recipe_text) == ("pretrain", recipe, text)
    assert text in runs_text([found])


@pytest.mark.parametrize(("rows", "text"), [(1, "1 image"), (2000, "2,000 images")])
def test_images_are_counted_in_the_singular_and_the_plural(rows: int, text: str, tmp_path: Path) -> None:
    start(tmp_path / "run", "predict", "")
    write_json(tmp_path / "run" / "results.json", {"rows": rows, "unreadable": 0})
    [found] = find_runs(tmp_path)
    assert found.result == text
    assert runs_text([found]).splitlines()[0].strip() == "1 run"


def test_a_measure_that_is_not_known_is_no_result(tmp_path: Path) -> None:
    run = write_probe(tmp_path / "run", probe_result())
    text = (run / "results.json").read_text().replace('"accuracy"', '"exactness"')
    (run / "results.json").write_text(text)
    [found] = find_runs(tmp_path)
    assert (found.result, found.value) == (DAMAGED, None)


def test_an_unknown_order_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="sort=best: give name, started, stage, state, result or size"):
        retouch.runs(tmp_path, "best")  # type: ignore[arg-type]


def test_runs_are_sorted_as_asked(home: Path) -> None:
    def names(order: str) -> list[str]:
        return [run.path.name for run in retouch.runs(home, order)]  # type: ignore[arg-type]

    write_probe(home / "better", probe_result({"encoder": 0.9, "random_init": 0.5}))
    for name, day in (("noisy", 3), ("probe", 2), ("half", 1)):
        folder = home / "deep" / name if name == "probe" else home / name
        (folder / "train.log").write_text(f"2026-01-0{day} 12:00:00 INFO    hello\n")
    assert names("started")[:3] == ["noisy", "probe", "half"]
    assert names("name") == ["better", "probe", "features", "half", "noisy"]
    assert names("state")[0] == "half"
    assert sorted(names("size"), key=lambda name: -{run.path.name: run.bytes for run in find_runs(home)}[name]) == (
        names("size")
    )


def test_results_are_sorted_by_what_they_measure_and_runs_without_a_number_are_last(tmp_path: Path) -> None:
    def write(name: str, stage: str, results: dict[str, object]) -> None:
        start(tmp_path / name, stage, "")
        write_json(tmp_path / name / "results.json", results)

    def labels(measure: str, value: float) -> list[object]:
        return [{"task": "tags", "subjects": {"encoder": {"test": {measure: value}}}}]

    def psnr(value: float) -> dict[str, object]:
        return {"psnr": value, "restorers": {"a median filter": 24.04}}

    write("a_restored", "restore", {"restored": 3, "before": {"psnr": 15}, "after": {"psnr": 28}})
    write("b_counted", "predict", {"rows": 5, "unreadable": 0})
    write("c_psnr", "pretrain", {"ruler": psnr(31.2)})
    write("d_error", "pretrain", {"relative_reconstruction_error": 0.4})
    write("e_error", "pretrain", {"relative_reconstruction_error": 0.3})
    write("f_iou", "probe", {"dense": labels("mean_iou", 0.99)})
    write("g_map", "probe", {"multilabel": labels("mean_average_precision", 0.98)})
    spread = {"task": "tags", "subject": "encoder", "probe": "linear", "measure": "mean_average_precision"}
    spread["spread"] = {"mean": 0.99, "deviation": 0.004}  # type: ignore[assignment]
    write("h_seeds", "probe_seeds", {"seeds": {"seeds": [0, 1], "spreads": [spread]}})
    write("i_tuned", "finetune", {"task": "label", "tuned": {"test": {"accuracy": 0.5}}})
    write_probe(tmp_path / "j_probe", probe_result({"encoder": 0.9, "random_init": 0.5}))
    write("k_study", "study", {"verdict": ["Yes: mask beats it."], "winner": "mask"})
    start(tmp_path / "l_stopped", "probe", "")
    found = find_runs(tmp_path, "result")
    assert [(run.path.name, run.measure) for run in found] == [
        ("j_probe", "accuracy"),
        ("i_tuned", "accuracy"),
        ("h_seeds", "mean_average_precision"),
        ("g_map", "mean_average_precision"),
        ("f_iou", "mean_iou"),
        ("c_psnr", "psnr"),
        ("a_restored", "psnr"),
        ("e_error", "reconstruction_error"),
        ("d_error", "reconstruction_error"),
        ("b_counted", None),
        ("k_study", None),
        ("l_stopped", None),
    ]
    said = {run.path.name: run.result for run in found}
    assert (said["c_psnr"], said["h_seeds"]) == ("PSNR 31.2, a median filter 24.0", "tags 99.0 ± 0.4% mAP (2 seeds)")


def test_a_psnr_of_images_that_were_learned_from_is_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pretraining(tmp_path / "few", held_out=False)
    write_pretraining(tmp_path / "many")
    start(tmp_path / "seeds", "pretrain_seeds", "")
    spreads = {"psnr/network": {"mean": 21.04, "deviation": 0.31}}
    ruler = {"psnr": 21, "restorers": {}, "held_out": False}
    write_json(tmp_path / "seeds" / "results.json", {"seeds": [0, 1], "spreads": spreads, "runs": [{"ruler": ruler}]})
    found = by_name(tmp_path)
    number = "PSNR 27.1, non-local means 25.9"
    assert {name: (run.result, run.result_text) for name, run in found.items()} == {
        "few": (number, f"{number}, on training images"),
        "many": (number, number),
        "seeds": ("PSNR 21.0 ± 0.3 (2 seeds)", "PSNR 21.0 ± 0.3 (2 seeds), on training images"),
    }
    assert runs_text([found["few"]]).replace("\n", "").count("training") == 1
    assert main(["runs", str(tmp_path), "--json"]) == 0
    listed = {Path(one["path"]).name: one for one in json.loads(capsys.readouterr().out)}
    assert [listed[name]["on_training"] for name in ("few", "many", "seeds")] == [True, False, True]
    assert listed["few"]["result"] == number  # as before: programs read the new field


def test_the_command_prints_a_table_of_at_most_100_columns_or_all_facts(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["runs", str(home), "--sort", "name"]) == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 100
    assert "stopped" in said
    assert main(["runs", str(home), "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [RunFacts.model_validate(one) for one in listed] == list(find_runs(home))


def test_names_are_no_markup(tmp_path: Path) -> None:
    start(tmp_path / "[bold]run[/bold]", "embed", "encoder: '[red]'\n")
    said = runs_text(find_runs(tmp_path))
    assert "[red]" in said
    assert "[bold]run[/bold]" in "".join(said.split("│"))


@pytest.mark.parametrize("name", ["gone", "file"])
def test_a_folder_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="give a folder of runs"):
        find_runs(tmp_path / name)
    assert main(["runs", str(tmp_path / name)]) == 2
    assert find_runs(tmp_path) == ()


def test_listing_does_not_load_torch(home: Path) -> None:
    script = f"import sys; from retouch.cli import main; main(['runs', {str(home)!r}]); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_features_and_searches_are_listed_with_their_numbers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    export_encoder(build_encoder(EncoderConfig(), image_size=16), tmp_path / "encoder")
    few = ["data.source=shapes:test:9", "data.workers=0", "wandb.mode=disabled"]
    retouch.embed(None, f"encoder={tmp_path / 'encoder'}", *few, f"out={tmp_path / 'embed'}")
    (tmp_path / "queries").mkdir()
    for row in range(2):
        picture(row).save(tmp_path / "queries" / f"{row}.png")
    wanted = [f"query={tmp_path / 'queries'}", f"out={tmp_path / 'search'}"]
    retouch.search(str(tmp_path / "encoder"), *few, *wanted)
    listed = {run.path.name: run for run in find_runs(tmp_path)}
    assert {name: (run.result, run.state) for name, run in listed.items()} == {
        "embed": ("9 images, 256 features", "finished"),
        "search": ("2 queries, 9 images", "finished"),
    }


def test_a_finished_search_is_finished(tmp_path: Path) -> None:
    start(tmp_path / "found", "search", "run: runs/noisy\n")
    assert find_runs(tmp_path)[0].state == "stopped"
    (tmp_path / "found" / "neighbors.png").touch()
    assert find_runs(tmp_path)[0].state == "finished"


def test_awkward_names_and_results_do_not_hide_the_other_runs(tmp_path: Path) -> None:
    start(tmp_path / "odd", "strange", "run: runs/noisy\n")
    write_json(tmp_path / "odd" / "results.json", {"ranked": 0, "top": []})
    start(Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")), "study", "data: shapes:train:500\n")
    found = find_runs(tmp_path, "name")
    assert [run.result for run in found] == ["", DAMAGED]
    text = runs_text(found)
    text.encode()
    assert "train" in text  # and no emoji of that name
    runs_json(found).encode()
