"""Weights & Biases, as a guest: it is told everything and can break nothing.

Every call is guarded. Whatever W&B does (no network, bad key, full disk), training goes on and the same numbers
stand in ``metrics.jsonl``; and no call that waits for a server waits for ever.
"""

from __future__ import annotations

import configparser
import contextlib
import logging
import netrc
import os
import secrets
import shlex
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field

from common.config import Config
from common.files import write_text
from common.runs.console import program

log = logging.getLogger("retouch")

Mode = Literal["auto", "online", "offline", "disabled"]

ANSWER_SECONDS = 30.0  # for a server to answer at the start, or about an artifact
FINISH_SECONDS = 600.0  # for what is still to be uploaded at the end
FAILED_SECONDS = 15.0  # for closing a run that has failed already


class WandbConfig(Config):
    """How a stage reports to W&B. ``auto``: online with an account (WANDB_API_KEY or a login), else offline."""

    mode: Mode = "auto"
    project: str = Field(default="retouch", min_length=1)
    group: str | None = None  # stages of one experiment stand together; by default the pretraining run's folder name
    name: str | None = None


class Tracker:
    """One W&B run, or none. Never raises; after its first failure it says so once, logs no more, and is still finished.

    What is missing of an input (``use_encoder``) is no failure: it is said once, and logging goes on.
    """

    def __init__(self, config: WandbConfig, folder: Path, *, job_type: str, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.mode = _resolve_mode(config.mode)
        self.run_id: str | None = None
        self._run: Any = None
        self._failed: Any = None  # a run that takes nothing more, but is not closed yet
        if self.mode == "disabled":
            return
        try:
            self.run_id = self._stored_id()
            self._start(config, job_type, settings)
        except BaseException as error:
            self._fail("could not start", error)

    @property
    def active(self) -> bool:
        return self._run is not None

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Numbers at a step."""
        self._guarded("log", lambda: self._run.log(dict(metrics), step=step))

    def image(self, name: str, path: Path, step: int, caption: str = "") -> None:
        """A picture file at a step."""

        def send() -> None:
            import wandb

            self._run.log({name: wandb.Image(str(path), caption=caption or None)}, step=step)

        self._guarded("log an image", send)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A table of results."""

        def send() -> None:
            import wandb

            self._run.log({name: wandb.Table(columns=list(columns), data=[list(row) for row in rows])})

        self._guarded("log a table", send)

    def summary(self, values: Mapping[str, Any]) -> None:
        """Final values of the run."""
        self._guarded("write the summary", lambda: self._run.summary.update(dict(values)))

    def artifact(self, name: str, folder: Path, kind: str, metadata: Mapping[str, Any]) -> None:
        """A folder as an output of this run."""

        def send() -> None:
            import wandb

            artifact = wandb.Artifact(name, type=kind, metadata=dict(metadata))
            for file in sorted(path for path in folder.rglob("*") if path.is_file()):
                artifact.add_file(str(file), name=file.relative_to(folder).as_posix())  # add_dir would print
            self._run.log_artifact(artifact)

        self._guarded("save an artifact", send)

    def use_encoder(self, folder: Path, sha256: str, artifact: str | None) -> None:
        """Name the encoder this run read: by hash and path, and online as the input artifact of that hash too.

        Args:
            artifact: what its own run called it, if it had one; a server that lacks it costs a warning and no more.
        """
        values = {"encoder_sha256": sha256, "encoder_path": str(folder)}
        self._guarded("note the input encoder", lambda: self._run.config.update(values, allow_val_change=True))
        if self._run is None or self.mode != "online" or artifact is None:
            return
        try:
            _within(ANSWER_SECONDS, lambda: _use_version(self._run, artifact, sha256))
        except Exception as error:
            log.warning(
                "W&B could not name the input artifact (%s); the encoder's sha256 and path stand in the run's config",
                _reason(error),
            )

    def finish(self, exit_code: int = 0) -> None:
        """Close the run, also one that failed; offline, say how to send it later."""
        if self._run is not None:
            self._guarded("finish", lambda: self._run.finish(exit_code=exit_code))
        elif self._failed is not None:
            # said already that it failed: how this ends changes nothing, and is not worth a long wait
            failed = self._failed
            with contextlib.suppress(Exception):
                _within(FAILED_SECONDS, lambda: failed.finish(exit_code=exit_code))
        else:
            return
        self._run = self._failed = None
        command = self.sync_command()
        if self.mode == "offline" and command:
            log.info("W&B ran offline; to send it: %s", command)

    def sync_command(self) -> str | None:
        """The one command that sends every offline part of this run; a resumed run has several parts under one id."""
        parts = sorted(self.folder.glob(f"wandb/offline-run-*-{self.run_id}"))
        return f"{program('wandb')} sync {shlex.join(map(str, parts))}" if self.run_id and parts else None

    def _start(self, config: WandbConfig, job_type: str, settings: Mapping[str, Any]) -> None:
        import wandb

        # A process that W&B started in hands its service down to its children by this variable. If a child is killed,
        # that service still holds its run, and takes nothing more under its id: a resumed run would be lost.
        os.environ.pop("WANDB_SERVICE", None)
        with contextlib.redirect_stdout(None):
            self._run = wandb.init(
                project=config.project,
                group=config.group,
                name=config.name or self.folder.name,
                job_type=job_type,
                dir=str(self.folder),
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

    def _stored_id(self) -> str:
        """A resumed run continues under its old id, so it is never doubled."""
        path = self.folder / "wandb" / "run-id"
        if not path.is_file():
            write_text(path, secrets.token_hex(4) + "\n")
        return path.read_text(encoding="utf-8").strip()

    def _guarded(self, what: str, call: Callable[[], object]) -> None:
        if self._run is None:
            return
        try:
            call()
        except Exception as error:
            self._fail(f"could not {what}", error)

    def _fail(self, what: str, error: BaseException) -> None:
        if isinstance(error, KeyboardInterrupt):
            raise error
        self._run, self._failed = None, self._run
        log.warning("W&B %s (%s); going on without it, the numbers stand in metrics.jsonl", what, _reason(error))


def _use_version(run: Any, artifact: str, sha256: str) -> None:
    """Of the versions of an artifact, the one that holds this very encoder becomes an input of ``run``."""
    import wandb

    versions = wandb.Api().artifacts("encoder", f"{run.entity}/{run.project}/{artifact}")
    same = next((version for version in versions if version.metadata.get("sha256") == sha256), None)
    if same is None:
        raise LookupError(f"no version of {artifact} has its sha256")
    run.use_artifact(same)


def _within(seconds: float, call: Callable[[], object]) -> None:
    """Call, but wait so long only: what takes longer is left to a thread that ends with the program.

    Raises:
        TimeoutError: it was not done in time. What ``call`` raises in time is raised here.
    """
    raised: list[Exception] = []

    def work() -> None:
        try:
            call()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=work, name="retouch-wandb", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError(f"no answer in {seconds:g} s")
    if raised:
        raise raised[0]


def _reason(error: BaseException) -> str:
    """The first line of what an error says."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _resolve_mode(mode: Mode) -> Literal["online", "offline", "disabled"]:
    """A mode given in the config wins; then WANDB_MODE; then online if there is an account.

    Without one it is offline, also where online was asked for: in a terminal W&B would ask for a key and wait for ever.
    """
    asked = os.environ.get("WANDB_MODE", "").lower() if mode == "auto" else mode
    if asked == "disabled":
        return "disabled"
    if asked in ("dryrun", "offline"):
        return "offline"
    try:
        if _logged_in():
            return "online"
        reason = "no API key was found: set WANDB_API_KEY or type `wandb login`" if asked == "online" else ""
    except Exception as error:  # whatever a file of the user's or W&B's own settings hold
        reason = f"its login cannot be read: {_reason(error)}"
    if reason:
        log.warning("W&B runs offline (%s)", reason)
    return "offline"


def _logged_in() -> bool:
    """Whether W&B would find a key: in the environment, or in the netrc file where ``wandb login`` puts it."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    home = Path.home()
    places = [Path(os.environ["NETRC"]).expanduser()] if os.environ.get("NETRC") else [home / ".netrc", home / "_netrc"]
    file = next((path for path in places if path.is_file()), None)
    if file is None:
        return False
    found = netrc.netrc(file)
    return any((found.authenticators(host) or ("", "", ""))[2] for host in _hosts())


def _hosts() -> list[str]:
    """Whose key W&B would take: that of WANDB_BASE_URL, or of ``wandb login --host``, or of its own servers."""
    import wandb

    own: str = wandb.Settings().base_url
    stored = configparser.ConfigParser(interpolation=None)
    folder = Path(os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb").expanduser()
    stored.read([folder / "settings", Path("wandb") / "settings"], encoding="utf-8")  # passes over those not there
    asked = os.environ.get("WANDB_BASE_URL") or stored.get("default", "base_url", fallback=own)
    server: str = wandb.Settings(base_url=asked).base_url
    # a login from before W&B's own servers were renamed is still good there
    return [urlsplit(server).netloc, *(["api.wandb.ai"] if server == own else [])]
