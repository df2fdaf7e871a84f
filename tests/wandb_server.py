"""A server on this machine that answers as W&B's does: to agents of sweeps, and to the runs that they start."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

KEY = "0" * 40  # the API key of the only account
NAMED = re.compile(r"\s*(?:query|mutation)\s+(\w+)")


@dataclass
class Run:
    """What a run has sent."""

    sweep: str | None = None
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    exit_code: int | None = None


@dataclass
class Server:
    """The sweeps, and their runs by id."""

    address: str = ""
    sweeps: dict[str, str] = field(default_factory=dict)  # the text of each, as `wandb sweep` would send it
    waiting: dict[str, dict[str, Mapping[str, float]]] = field(default_factory=dict)  # values by run, by sweep
    runs: dict[str, Run] = field(default_factory=dict)

    def add(self, sweep: str, text: str, values: dict[str, Mapping[str, float]]) -> None:
        """A sweep whose runs get these values, one run after another."""
        self.sweeps[sweep], self.waiting[sweep] = text, values

    def answer(self, name: str, given: dict[str, Any]) -> Any:
        """The data of one operation of GraphQL; None where it is refused."""
        match name:
            case "Viewer":
                return {"viewer": {"id": "1", "entity": "me", "username": "me", "teams": {"edges": []}}}
            case "SweepWithRuns":
                sweep = given["sweep"]
                return {"project": {"sweep": {"id": sweep, "config": self.sweeps[sweep], "runs": {"edges": []}}}}
            case "CreateAgent":
                return {"createAgent": {"agent": {"id": given["sweep"]}}}
            case "Heartbeat":
                busy = any(json.loads(given["runState"]).values())
                return {"agentHeartbeat": {"commands": json.dumps([] if busy else self._next(given["id"]))}}
            case "UpsertBucket":
                return {"upsertBucket": {"inserted": True, "bucket": self._run(given)}}
            case "CreateRunFiles":
                files = [{"name": one, "uploadUrl": f"{self.address}/files"} for one in given["files"]]
                return {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": files}}
            case "ArtifactType":
                return {"project": {"artifact": None}}
            case "CreateArtifact":
                return None
        return {}

    def _next(self, sweep: str) -> list[dict[str, Any]]:
        """What the agent is to do."""
        if not self.waiting[sweep]:
            return [{"type": "exit"}]
        run = next(iter(self.waiting[sweep]))
        values = self.waiting[sweep].pop(run)
        return [
            {"type": "run", "run_id": run, "program": "", "args": {key: {"value": one} for key, one in values.items()}}
        ]

    def _run(self, given: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.setdefault(given["name"], Run())
        run.sweep = given["sweep"] or run.sweep
        run.config |= {key: one["value"] for key, one in json.loads(given["config"] or "{}").items()}
        project = {"id": "1", "name": given["project"], "entity": {"id": "1", "name": given["entity"]}}
        return {"id": "1", "name": given["name"], "config": "{}", "sweepName": run.sweep, "project": project}

    def stream(self, name: str, given: dict[str, Any]) -> None:
        """A piece of the files of a run, or its end."""
        lines = given.get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
        self.runs[name].history += [json.loads(line) for line in lines]
        if given.get("complete"):
            self.runs[name].exit_code = given["exitcode"]


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: ClassVar[Server]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answer: dict[str, Any] = {}
        if self.path == "/graphql":
            asked = json.loads(body)
            found = NAMED.match(asked["query"])
            assert found is not None
            data = self.state.answer(found[1], asked.get("variables") or {})
            answer = {"errors": [{"message": f"no {found[1]} here"}]} if data is None else {"data": data}
        elif self.path.endswith("/file_stream"):
            self.state.stream(self.path.split("/")[-2], json.loads(body))
        sent = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    do_GET = do_PUT = do_POST  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


class _Http(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """W&B's process ends without closing its connections."""


@contextmanager
def serving() -> Iterator[Server]:
    """The server; programs find it with WANDB_BASE_URL."""
    found = Server()
    http = _Http(("127.0.0.1", 0), type("Answers", (_Answers,), {"state": found}))
    found.address = f"http://127.0.0.1:{http.server_port}"
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield found
    finally:
        http.shutdown()
        http.server_close()
