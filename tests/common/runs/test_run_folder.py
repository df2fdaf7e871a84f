"""Run folders: nothing is lost or overwritten, and a resumed run must be the same run."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from common.config import HomePath, dump_config, load_config
from common.encoders.tensors import read_tensors
from common.engine.checkpoint import Checkpoint, list_checkpoints, save_checkpoint
from common.errors import UserError
from common.machine.distributed import World
from common.runs.folder import Run, StageConfig, check_run_folder, open_run
from common.runs.logs import early_log
from common.runs.tracking import Tracker
from retouch.reporting.page import check_out
from tests.toys import state_at

HERE = World(0, 1, torch.device("cpu"))
QUIET = {"mode": "disabled"}


class Paint(StageConfig):
    """A stage that writes a folder of its own."""

    stage: ClassVar[str] = "paint"
    writes: ClassVar[tuple[str, ...]] = ("checkpoints", "panels", "encoder", *StageConfig.writes)
    trees: ClassVar[tuple[str, ...]] = ("panels",)
    free_keys: ClassVar[frozenset[str]] = StageConfig.free_keys | {"workers"}

    workers: int = 0


class Sculpt(StageConfig):
    stage: ClassVar[str] = "sculpt"
    writes: ClassVar[tuple[str, ...]] = ("statue", *StageConfig.writes)

    clay: str = "red"


def config(out: Path, **changes: object) -> Paint:
    return Paint.model_validate({"out": out, "wandb": QUIET, **changes})


class Copy(StageConfig):
    stage: ClassVar[str] = "copy"

    run: HomePath


def started(out: Path) -> None:
    with open_run(config(out), HERE) as run:
        run.log({"loss": 1.0}, 1)
        (out / "checkpoints").mkdir()


def started_anew(out: Path) -> None:
    with open_run(config(out, overwrite=True), HERE):
        pass


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_new_run_writes_a_complete_config_that_reads_back(tmp_path: Path) -> None:
    started(tmp_path / "run")
    assert load_config(Paint, tmp_path / "run" / "config.yaml") == config(tmp_path / "run")


def test_metrics_go_to_metrics_jsonl_and_messages_to_train_log(tmp_path: Path) -> None:
    with open_run(config(tmp_path / "run"), HERE) as run:
        run.log({"loss": 0.5}, 3)
        logging.getLogger("retouch").info("hello")
    assert [json.loads(line) for line in run.metrics_path.read_text().splitlines()] == [{"step": 3, "loss": 0.5}]
    assert "hello" in (run.folder / "train.log").read_text()


@pytest.mark.parametrize("level", [logging.NOTSET, logging.WARNING, logging.DEBUG])
def test_a_run_writes_all_messages_to_its_log_and_shows_no_more_than_the_program_asked_for(
    tmp_path: Path, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("retouch")
    logger.setLevel(level)
    with early_log() as early:
        logger.debug("early")
        with open_run(config(tmp_path / "run"), HERE, early):
            logger.info("hello")
            with open_run(config(tmp_path / "inner"), HERE):
                logger.debug("inside")
            logger.warning("mind")
    assert logger.level == level
    logger.info("after")
    said = {name: (tmp_path / name / "train.log").read_text() for name in ("run", "inner")}
    assert [word for word in ("early", "hello", "inside", "mind", "after") if word in said["run"]] == (
        ["early", "hello", "inside", "mind"]
    )
    assert [word for word in ("early", "hello", "inside", "mind", "after") if word in said["inner"]] == ["inside"]
    shown = ["mind"] if level != logging.DEBUG else ["early", "hello", "inside", "mind", "after"]
    assert [one for one in caplog.messages if one in ("early", "hello", "inside", "mind", "after")] == shown


def test_a_level_that_is_set_while_a_run_is_open_stays(tmp_path: Path) -> None:
    logger = logging.getLogger("retouch")
    with open_run(config(tmp_path / "run"), HERE):
        logger.setLevel(logging.ERROR)
    assert logger.level == logging.ERROR


def test_metric_that_is_not_finite_is_named_and_not_written(tmp_path: Path) -> None:
    run = Run(tmp_path, HERE, Tracker.disabled(tmp_path), False)
    with pytest.raises(UserError, match=r"val/error is nan at step 3"):
        run.log({"loss": 0.5, "val/error": float("nan")}, 3)
    assert not run.metrics_path.exists()


def test_non_empty_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "run"
    started(out)
    before = contents(out)
    with pytest.raises(UserError, match=r"is not empty; use resume=true to continue, overwrite=true to start over"):
        started(out)
    assert contents(out) == before


def test_overwrite_removes_only_what_a_stage_wrote(tmp_path: Path) -> None:
    out = tmp_path / "run"
    started(out)
    (out / "notes.txt").write_text("mine")
    with open_run(config(out, overwrite=True), HERE):
        pass
    assert (out / "notes.txt").read_text() == "mine"
    assert not (out / "metrics.jsonl").exists()
    assert not (out / "checkpoints").exists()


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "by its keys"])
@pytest.mark.parametrize("asked", ["resume", "overwrite"])
def test_a_run_of_another_stage_is_neither_overwritten_nor_resumed(tmp_path: Path, asked: str, recorded: bool) -> None:
    out = tmp_path / "run"
    with open_run(Sculpt.model_validate({"out": out, "wandb": QUIET}), HERE):
        (out / "statue").mkdir()
        (out / "statue" / "david").write_text("precious")
    if not recorded:  # a config.yaml that an earlier version wrote
        lines = (out / "config.yaml").read_text().splitlines(keepends=True)
        (out / "config.yaml").write_text("".join(lines[1:]))
    before = contents(out)
    writer = "retouch sculpt" if recorded else "another stage or version (its config.yaml has clay)"
    with pytest.raises(UserError) as caught:
        check_run_folder(config(out, **{asked: True}))
    assert str(caught.value) == (
        f"out: {out} holds a run of {writer}, and {asked}=true of retouch paint applies to its own runs only; "
        "choose another out"
    )
    assert contents(out) == before


def test_a_run_of_an_earlier_version_that_has_only_known_keys_can_be_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "config.yaml").write_text(dump_config(config(out, seed=7)))
    started_anew(out)
    assert load_config(Paint, out / "config.yaml") == config(out, overwrite=True)


@pytest.mark.parametrize("text", ["", "seed: 7\n", "# mine\nout: here\n"])
def test_a_folder_with_settings_of_the_users_own_is_not_overwritten(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "mine.pt").write_text("precious")
    before = contents(tmp_path)
    with pytest.raises(UserError, match=r"has a config\.yaml that no stage wrote, so it cannot be overwritten"):
        started_anew(tmp_path)
    assert contents(tmp_path) == before


def test_overwrite_leaves_what_only_another_stage_writes(tmp_path: Path) -> None:
    out = tmp_path / "run"
    started(out)
    (out / "statue").mkdir()
    started_anew(out)
    assert (out / "statue").is_dir()


def test_overwrite_refuses_a_folder_that_is_not_a_run(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("precious")
    with (
        pytest.raises(UserError, match="holds files that no stage wrote"),
        open_run(config(tmp_path, overwrite=True), HERE),
    ):
        pass
    assert contents(tmp_path) == {"photo.jpg": b"precious"}


@pytest.mark.parametrize("kills", range(1, 4))
def test_a_kill_while_overwriting_leaves_a_folder_to_resume_or_overwrite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kills: int
) -> None:
    out, calls, remove = tmp_path / "run", iter(range(10**6)), shutil.rmtree
    started(out)
    (out / "panels").mkdir()
    (out / "notes.txt").write_text("mine")
    for step in (1, 2):
        save_checkpoint(out / "checkpoints", Checkpoint(state_at(step), {}), keep=2)

    def killed(path: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors and next(calls) + 1 == kills:
            raise KeyboardInterrupt
        remove(path, ignore_errors=ignore_errors)

    with monkeypatch.context() as patched, contextlib.suppress(KeyboardInterrupt):
        patched.setattr(shutil, "rmtree", killed)
        started_anew(out)
    assert not list_checkpoints(out / "checkpoints")
    assert check_run_folder(config(out, resume=True))
    started_anew(out)
    assert sorted(path.name for path in out.iterdir()) == ["config.yaml", "notes.txt", "train.log"]


def test_leftovers_of_a_killed_run_are_removed_and_do_not_make_a_folder_non_empty(tmp_path: Path) -> None:
    out = tmp_path / "run"
    (out / ".encoder.123.tmp").mkdir(parents=True)
    (out / ".config.yaml.123.tmp").write_text("half")
    started(out)
    (out / "checkpoints" / ".step-0000004.123.old").mkdir()
    (out / "panels" / "deep" / "er").mkdir(parents=True)
    (out / "panels" / ".atoms.png.123.tmp").write_text("half")
    (out / "panels" / "deep" / "er" / ".a.png.123.tmp").write_text("half")
    (out / ".metrics.jsonl.123.tmp").write_text("half")
    (out / ".theirs.123.tmp").write_text("not ours")
    with open_run(config(out, resume=True), HERE) as run:
        assert run.resumed
    assert sorted(path.name for path in out.rglob(".*")) == [".theirs.123.tmp"]


def test_a_kill_while_leftovers_are_removed_leaves_them_known_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    (out / ".encoder.123.tmp").mkdir(parents=True)

    def killed(path: Path, ignore_errors: bool = False) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(shutil, "rmtree", killed)
        started(out)
    started(out)
    assert not list(out.glob(".*"))


def test_resume_with_another_config_names_every_difference(tmp_path: Path) -> None:
    out = tmp_path / "run"
    started(out)
    before = contents(out)
    with (
        pytest.raises(UserError) as caught,
        open_run(config(out, resume=True, seed=1, batch_size=8), HERE),
    ):
        pass
    assert caught.value.problems == ("batch_size: was 256, now 8", "seed: was 0, now 1")
    assert contents(out) == before


def test_resume_allows_changes_that_change_no_number(tmp_path: Path) -> None:
    out = tmp_path / "run"
    started(out)
    with open_run(config(out, resume=True, wandb={"mode": "offline"}, workers=3), HERE) as run:
        assert run.resumed


def test_resume_and_overwrite_together_are_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match="exclude each other"),
        open_run(config(tmp_path / "run", resume=True, overwrite=True), HERE),
    ):
        pass


def test_resume_of_nothing_starts_a_new_run(tmp_path: Path) -> None:
    with open_run(config(tmp_path / "run", resume=True), HERE) as run:
        assert not run.resumed


def test_metrics_are_cut_back_to_the_checkpoint_and_a_torn_line_is_dropped(tmp_path: Path) -> None:
    run = Run(tmp_path, HERE, Tracker.disabled(tmp_path), True)
    for step in (1, 2, 3):
        run.log({"loss": 1.0 / step}, step)
    with run.metrics_path.open("a") as file:
        file.write('{"step": 4, "lo')
    with run.metrics_path.open("ab") as file:
        file.write(b"\xff\xfe\0")  # what a power failure may leave
    run.cut_back(2)
    assert [json.loads(line)["step"] for line in run.metrics_path.read_text().splitlines()] == [1, 2]


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path, World(1, 2, torch.device("cpu")), Tracker.disabled(tmp_path), False)
    run.log({"loss": 1.0}, 1)
    run.cut_back(0)
    assert list(tmp_path.iterdir()) == []


def test_the_home_folder_may_be_written_short_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    copy = load_config(Copy, {"run": "~/first"}, ["out=~/runs/a", "resume=true"])
    assert (copy.out, copy.run) == (tmp_path / "runs" / "a", tmp_path / "first")
    copy.out.mkdir(parents=True)
    (copy.out / "config.yaml").write_text("# retouch copy\n" + dump_config(copy).replace(f"run: {tmp_path}", "run: ~"))
    assert check_run_folder(copy)  # as an earlier version wrote it
    with pytest.raises(UserError, match="run: was '~/first', now "):
        check_run_folder(copy.model_copy(update={"run": tmp_path / "second"}))


@pytest.mark.parametrize("out", ["s3://bucket/run", "gs://bucket/run-{n}", "hf://me/run", "http://x"])
def test_an_address_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="out: this is an address, but files are written to this machine only: give a"):
        load_config(Copy, {"run": "a", "out": out})
    with pytest.raises(UserError, match="this is an address"):
        check_out(Path(f"{out}.html"))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="no path has a zero byte in it"):
        check_out(Path("a\0.html"))
    (tmp_path / "s3:").mkdir()
    assert load_config(Copy, {"run": "a", "out": "s3:/a"}).out == Path("s3:/a")  # there is such a folder


def test_a_name_that_is_not_utf8_is_refused_before_a_run_and_not_after_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"out: '.*run\\udcff' is not UTF-8, which names of files of weights must be"):
        check_run_folder(config(tmp_path / "run\udcff"))
    with pytest.raises(UserError, match=r"is not UTF-8, which safetensors requires: rename the folder"):
        read_tensors(tmp_path / "run\udcff" / "model.safetensors")


def test_a_number_belongs_into_the_last_part(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\{n\} is replaced by a number in the last part alone; write it there"):
        check_run_folder(config(tmp_path / "a-{n}" / "b"))


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"cannot be created: .*file is a file; choose another out"):
        check_run_folder(config(tmp_path / "file" / "run"))


def test_a_folder_that_may_not_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "theirs").mkdir()
    monkeypatch.setattr("os.access", lambda path, mode: Path(path).name != "theirs")  # root may write anywhere
    with pytest.raises(UserError, match=r"no permission to write to .*theirs; choose another out"):
        check_run_folder(config(tmp_path / "theirs"))
    with pytest.raises(UserError, match=r"cannot be created: no permission to write to .*theirs; choose another out"):
        check_run_folder(config(tmp_path / "theirs" / "run"))


def test_folder_with_too_long_a_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="choose a shorter out"):
        check_run_folder(config(tmp_path / ("a" * 300)))


def test_folder_with_a_zero_byte_in_its_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no path has a zero byte in it"):
        check_run_folder(config(tmp_path / "a\0b"))
