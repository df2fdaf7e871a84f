"""Weights & Biases, as a guest: it is told everything and can break nothing.

Every call is guarded. Whatever W&B does (no network, bad key, full disk), training goes on and the same numbers
stand in ``metrics.jsonl``.
"""

from __future__ import annotations

import contextlib
import logging
import netrc
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from common.config import Config
from common.files import write_text

log = logging.getLogger("retouch")

Mode = Literal["auto", "online", "offline", "disabled"]


class WandbConfig(Config):
    """How a stage reports to W&B. ``auto``: online with an account (WANDB_API_KEY or a login), else offline."""

    mode: Mode = "auto"
    project: str = Field(default="retouch", min_length=1)
    group: str | None = None  # stages of one experiment stand together under one group
    name: str | None = None


class Tracker:
    """One W&B run, or none. Never raises; after its first failure it says so once and stays silent."""

    def __init__(self, config: WandbConfig, folder: Path, *, job_type: str, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.mode = _resolve_mode(config.mode)
        self.run_id: str | None = None
        self._run: Any = None
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
            artifact.add_dir(str(folder))
            self._run.log_artifact(artifact)

        self._guarded("save an artifact", send)

    def use_encoder(self, folder: Path, sha256: str) -> None:
        """Name the encoder this run read: as an input artifact online, by hash and path offline."""
        artifact = f"encoder-{folder.absolute().parent.name}"  # what the stage that wrote this folder called it

        def send() -> None:
            self._run.config.update({"encoder_sha256": sha256, "encoder_path": str(folder)}, allow_val_change=True)
            if self.mode == "online":
                self._run.use_artifact(f"{artifact}:latest")

        self._guarded("name the input encoder", send)

    def finish(self, exit_code: int = 0) -> None:
        """Close the run; offline, say how to send it later."""
        if self._run is None:
            return
        self._guarded("finish", lambda: self._run.finish(exit_code=exit_code))
        self._run = None
        command = self.sync_command()
        if self.mode == "offline" and command:
            log.info("W&B ran offline; to send it: %s", command)

    def sync_command(self) -> str | None:
        """The one command that sends every offline part of this run; a resumed run has several parts under one id."""
        parts = sorted(self.folder.glob(f"wandb/offline-run-*-{self.run_id}"))
        return f"wandb sync {' '.join(str(part) for part in parts)}" if self.run_id and parts else None

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
                    silent=True, console="off", init_timeout=30, disable_git=True, disable_code=True
                ),
            )

    def _stored_id(self) -> str:
        """A resumed run continues under its old id, so it is never doubled."""
        path = self.folder / "wandb" / "run-id"
        if not path.is_file():
            write_text(path, secrets.token_hex(4) + "\n")
        return path.read_text(encoding="utf-8").strip()

    def _guarded(self, what: str, call: Any) -> None:
        if self._run is None:
            return
        try:
            call()
        except Exception as error:
            self._fail(f"could not {what}", error)

    def _fail(self, what: str, error: BaseException) -> None:
        if isinstance(error, KeyboardInterrupt):
            raise error
        self._run = None
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        log.warning("W&B %s (%s); going on without it, the numbers stand in metrics.jsonl", what, reason)


def _resolve_mode(mode: Mode) -> Literal["online", "offline", "disabled"]:
    """A mode given in the config wins; then WANDB_MODE; then online if there is an account, else offline."""
    if mode != "auto":
        return mode
    asked = os.environ.get("WANDB_MODE", "").lower()
    if asked in ("disabled", "dryrun", "offline", "online"):
        return {"disabled": "disabled", "online": "online"}.get(asked, "offline")  # type: ignore[return-value]
    return "online" if os.environ.get("WANDB_API_KEY") or _logged_in() else "offline"


def _logged_in() -> bool:
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (OSError, netrc.NetrcParseError):
        return False
