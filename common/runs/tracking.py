"""Weights & Biases, as a guest: it receives everything and can break nothing.

Every call is guarded. Whatever W&B does (no network, bad key, full disk), training continues and the same numbers
are in ``metrics.jsonl``. Every call that waits for a server has a time limit.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import secrets
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from PIL.Image import Image
from pydantic import Field

from common.config import Config
from common.errors import one_line
from common.files import write_text
from common.runs.console import program
from common.waiting import within

log = logging.getLogger("retouch")

Mode = Literal["auto", "online", "offline", "disabled"]
Cell = str | int | float | Image | None  # of a table

ANSWER_SECONDS = 30.0  # time limit for a server's answer, at the start or about an artifact
FINISH_SECONDS = 600.0  # time limit for the remaining uploads at the end
FAILED_SECONDS = 15.0  # time limit for closing a run that has already failed
LONGEST_REASON = 300  # characters of a warning about what W&B could not do

_used_ids: set[str] = set()  # by this process


class WandbConfig(Config):
    """How a stage reports to W&B. ``auto``: online with an account (WANDB_API_KEY or a login), offline without.

    What is not set here follows W&B's own environment, such as WANDB_PROJECT or WANDB_TAGS.
    """

    mode: Mode = "auto"
    """auto: WANDB_MODE or WANDB_DISABLED, or online with an account and offline without."""
    entity: str | None = Field(default=None, min_length=1)
    """Team or user; by default WANDB_ENTITY, or W&B's own default."""
    project: str | None = Field(default=None, min_length=1)
    """By default WANDB_PROJECT, or retouch."""
    group: str | None = None
    """Shared by the stages of one experiment; by default WANDB_RUN_GROUP, or the pretraining run's folder name."""
    name: str | None = None
    """By default WANDB_NAME, or the name of the run folder."""
    tags: tuple[str, ...] | None = None
    """By default WANDB_TAGS."""
    notes: str | None = None
    """By default WANDB_NOTES."""

    def name_of(self, folder: Path) -> str:
        """The name of the run in ``folder``."""
        return self.name or os.environ.get("WANDB_NAME") or folder.name


class Tracker:
    """One W&B run, or with ``mode: disabled`` none: then every call does nothing.

    Never raises. After its first failure it warns once and logs nothing more; its run is still finished. An input that
    W&B does not know (``use_encoder``) is not a failure: it costs one warning, and logging continues.
    """

    def __init__(self, config: WandbConfig, folder: Path, *, job_type: str, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.files = Path(os.environ.get("WANDB_DIR") or folder)  # W&B makes a folder `wandb` in it
        self.parts = self.files / "wandb"  # of offline runs
        self.mode = _resolve_mode(config.mode)
        self.run_id: str | None = None
        self._run: Any = None
        self._failed: Any = None  # a failed run: it receives nothing more, but is not closed yet
        if self.mode == "disabled":
            return
        try:
            self.run_id = self._id()
            self._start(config, job_type, settings)
            if self.mode == "offline" and self.active:
                self.parts = _parts_of(self._run)
        except Exception as error:
            self._fail("could not start", error)

    @classmethod
    def disabled(cls, folder: Path) -> Self:
        """A tracker that does nothing, for example for ranks other than 0."""
        return cls(WandbConfig(mode="disabled"), folder, job_type="none", settings={})

    @property
    def active(self) -> bool:
        """Whether there is a run that still receives what is logged."""
        return self._run is not None

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Numbers at a step."""
        self._guarded("log", lambda: self._run.log(dict(metrics), step=step))

    def image(self, name: str, path: Path, step: int, caption: str = "") -> None:
        """An image file at a step."""

        def send() -> None:
            import wandb

            self._run.log({name: wandb.Image(str(path), caption=caption or None)}, step=step)

        self._guarded("log an image", send)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """A table of results."""

        def send() -> None:
            import wandb

            cells = [[wandb.Image(cell) if isinstance(cell, Image) else cell for cell in row] for row in rows]
            self._run.log({name: wandb.Table(columns=list(columns), data=cells)})

        self._guarded("log a table", send)

    def curves(self, name: str, axis: str, lines: Mapping[str, Sequence[tuple[float, float]]]) -> None:
        """Lines by name, as points ``(x, y)``, in one chart."""

        def send() -> None:
            from wandb.plot import line_series

            xs, ys = ([[point[place] for point in line] for line in lines.values()] for place in (0, 1))
            self._run.log({_chart(name): line_series(xs, ys, keys=list(lines), title=name, xname=axis)})

        self._guarded("log curves", send)

    def confusion(self, name: str, classes: Sequence[str], counts: Sequence[Sequence[int]]) -> None:
        """A confusion matrix: counts ``[true answer]``."""

        def send() -> None:
            import wandb
            from wandb.plot import plot_table

            rows = [
                [true, answer, count]
                for true, row in zip(classes, counts, strict=True)
                for answer, count in zip(classes, row, strict=True)
            ]
            fields = ("Actual", "Predicted", "nPredictions")  # those of W&B's own chart
            table = wandb.Table(columns=list(fields), data=rows)
            named = {field: field for field in fields}
            self._run.log({_chart(name): plot_table("wandb/confusion_matrix/v1", table, named, {"title": name})})

        self._guarded("log a confusion matrix", send)

    def summary(self, values: Mapping[str, Any]) -> None:
        """The run's final values."""
        self._guarded("write the summary", lambda: self._run.summary.update(dict(values)))

    def artifact(self, name: str, folder: Path, kind: str, metadata: Mapping[str, Any]) -> None:
        """A folder, as an output artifact of this run."""

        def send() -> None:
            import wandb

            artifact = wandb.Artifact(name, type=kind, metadata=dict(metadata))
            for file in sorted(path for path in folder.rglob("*") if path.is_file()):
                artifact.add_file(str(file), name=file.relative_to(folder).as_posix())  # add_dir prints
            self._run.log_artifact(artifact)

        self._guarded("save an artifact", send)

    def use_encoder(self, folder: Path, sha256: str, artifact: str | None) -> None:
        """Record the encoder this run reads: its hash and path, and online also the input artifact with that hash.

        Args:
            artifact: the artifact name its own run gave it, if any; one warning says so if the server lacks it.
        """
        values = {"encoder_sha256": sha256, "encoder_path": str(folder)}
        self._guarded("record the input encoder", lambda: self._run.config.update(values, allow_val_change=True))
        if self._run is None or self.mode != "online" or artifact is None:
            return
        try:
            within(ANSWER_SECONDS, lambda: _use_version(self._run, artifact, sha256))
        except Exception as error:
            log.warning(
                "W&B could not link the input artifact (%s); the encoder's sha256 and path are in the run's config",
                one_line(error, LONGEST_REASON),
            )

    def finish(self, exit_code: int = 0) -> None:
        """Close the run, even a failed one; offline, log the command that uploads it later."""
        if self._run is not None:
            self._guarded("finish", lambda: self._run.finish(exit_code=exit_code))
        elif self._failed is not None:
            # the failure has been reported: whether closing works changes nothing and is not worth a long wait
            failed = self._failed
            with contextlib.suppress(Exception):
                within(FAILED_SECONDS, lambda: failed.finish(exit_code=exit_code))
        else:
            return
        self._run = self._failed = None
        command = self.sync_command()
        if self.mode == "offline" and command:
            log.info("W&B ran offline; to upload the run: %s", command)

    def sync_command(self) -> str | None:
        """The command that uploads every offline part of this run; a resumed run has several parts under one id."""
        parts = sorted(self.parts.glob(f"offline-run-*-{self.run_id}"))
        return f"{program('wandb')} sync {shlex.join(map(str, parts))}" if self.run_id and parts else None

    def _start(self, config: WandbConfig, job_type: str, settings: Mapping[str, Any]) -> None:
        import wandb

        # A process that uses W&B passes its service on to its children through this variable. If a child is killed, the
        # service still holds the child's run and accepts nothing more under its id: a resumed run would be lost.
        os.environ.pop("WANDB_SERVICE", None)
        self._run = wandb.init(
            entity=config.entity,
            project=config.project or os.environ.get("WANDB_PROJECT") or "retouch",
            group=config.group,
            name=config.name_of(self.folder),
            tags=config.tags,
            notes=config.notes,
            job_type=job_type,
            dir=str(self.files),
            id=self.run_id,
            resume="allow" if self.mode == "online" else None,
            mode="online" if self.mode == "online" else "offline",
            config=dict(settings),
            reinit="create_new",
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                disable_code=True,
                init_timeout=ANSWER_SECONDS,
                finish_timeout=FINISH_SECONDS,
                finish_timeout_raises=True,
            ),
        )

    def _id(self) -> str:
        """The run's id, kept in the folder: a resumed run continues under it instead of becoming a second run.

        WANDB_RUN_ID, which a sweep sets, is the id of the first run of this process; other runs, such as baselines, get
        one of their own.
        """
        path = self.folder / "wandb" / "run-id"
        if not path.is_file():
            asked = os.environ.get("WANDB_RUN_ID", "")
            chosen = asked if asked and asked not in _used_ids else secrets.token_hex(4)
            write_text(path, chosen + "\n")
        found = path.read_text(encoding="utf-8").strip()
        _used_ids.add(found)
        return found

    def _guarded(self, what: str, call: Callable[[], object]) -> None:
        if self._run is None:
            return
        try:
            call()
        except Exception as error:
            self._fail(f"could not {what}", error)

    def _fail(self, what: str, error: Exception) -> None:
        self._run, self._failed = None, self._run
        log.warning(
            "W&B %s (%s); continuing without it, the numbers are in metrics.jsonl",
            what,
            one_line(error, LONGEST_REASON),
        )


def _parts_of(run: Any) -> Path:
    """The folder of the parts of an offline run: W&B takes another one if it cannot write to the one it is given."""
    return Path(run.dir).parents[1]


def _chart(name: str) -> str:
    """A name that W&B may use as the path of a file: users choose the names of tasks."""
    return re.sub(r"[^\w ./()+-]|\.\.", "_", name)


def _use_version(run: Any, artifact: str, sha256: str) -> None:
    """Make the version of ``artifact`` that holds exactly this encoder an input of ``run``."""
    import wandb

    versions = wandb.Api().artifacts("encoder", f"{run.entity}/{run.project}/{artifact}")
    same = next((version for version in versions if version.metadata.get("sha256") == sha256), None)
    if same is None:
        raise LookupError(f"no version of {artifact} has this sha256")
    run.use_artifact(same)


def _resolve_mode(mode: Mode) -> Literal["online", "offline", "disabled"]:
    """A mode set in the config wins, then WANDB_MODE; otherwise online if there is an account.

    Without an account the run is offline even where online was asked for: on a terminal, W&B would prompt for a key
    and wait indefinitely.
    """
    asked = _asked_by_environment() if mode == "auto" else mode
    if asked == "disabled":
        return "disabled"
    if asked in ("dryrun", "offline"):
        return "offline"
    try:
        found, complaint = _find_login()
    except Exception as error:  # whatever the user's or W&B's own files contain
        found, complaint = False, one_line(error, LONGEST_REASON)
    if found:
        return "online"
    if complaint:
        log.warning("W&B runs offline (its login cannot be read: %s)", complaint)
    elif asked == "online":
        log.warning("W&B runs offline (no API key was found: set WANDB_API_KEY or run `wandb login`)")
    return "offline"


def _asked_by_environment() -> str:
    """WANDB_MODE; or WANDB_DISABLED, which W&B has forgotten, but people still set, as transformers obeys it."""
    off = os.environ.get("WANDB_DISABLED", "").strip().lower() in ("1", "true", "yes", "on")
    return os.environ.get("WANDB_MODE", "").lower() or ("disabled" if off else "")


def _find_login() -> tuple[bool, str]:
    """Whether W&B finds an account to log in with, and its last warning about that. Never prompts, prints nothing."""
    import wandb

    if wandb.run is not None:  # the caller has an open run, during which `wandb.login` always returns False
        return not wandb.run.offline, ""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        found = within(ANSWER_SECONDS, _login)
    complaints = re.findall(r"WARNING (.+)", printed.getvalue())
    return found, complaints[-1] if complaints else ""


def _login() -> bool:
    """``wandb.login`` for an online run, without a prompt and without the network."""
    import wandb
    from wandb.sdk import wandb_setup

    settings = wandb_setup.singleton().settings  # `wandb.setup` would start a service
    silent, mode = settings.silent, settings.mode
    settings.silent, settings.mode = True, "online"  # not silent, it would ask its server for the name of the account
    try:
        return bool(wandb.login(prompt=False, verify=False))
    finally:
        settings.silent, settings.mode = silent, mode
