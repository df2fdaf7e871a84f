"""A server on this machine that answers as the Hugging Face Hub does: models are read, and files are uploaded."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import huggingface_hub
import pytest

from common.encoders.hub import forget_revisions

URL = "/{repo_id}/resolve/{revision}/{filename}"
TOKEN = "hf_of_me"


@dataclass
class Repo:
    """The revisions of one repository, each a commit with its files; the last one is ``main``."""

    revisions: dict[str, dict[str, bytes]] = field(default_factory=dict)
    visibility: str = "public"

    def commit(self, files: dict[str, bytes]) -> str:
        """Add files to those of the last revision; returns the commit."""
        kept = next(reversed(self.revisions.values()), {})
        commit = hashlib.sha1(f"{len(self.revisions)}".encode()).hexdigest()
        self.revisions[commit] = kept | files
        return commit

    def files(self, revision: str) -> dict[str, bytes] | None:
        if revision == "main":
            return next(reversed(self.revisions.values()), {})
        return self.revisions.get(revision)

    def sha(self, revision: str) -> str:
        return next(reversed(self.revisions), "0" * 40) if revision == "main" else revision


@dataclass
class Hub:
    """The content of the server, and the requests that it received."""

    repos: dict[str, Repo] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    full: bool = False  # it takes no commit
    token: dict[str, Any] = field(default_factory=lambda: {"displayName": "mine", "role": "write"})

    def add(self, name: str, folder: Path) -> str:
        """A commit with the files of a folder."""
        found = [path for path in folder.rglob("*") if path.is_file()]
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}
        return self.repos.setdefault(name, Repo()).commit(files)


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: ClassVar[Hub]

    def do_GET(self) -> None:
        self.hub.asked.append(f"{self.command} {self.path}")
        if self.path == "/api/whoami-v2":
            self._who()
            return
        found = re.match(r"/(?:api/models/)?(\w+/[\w-]+)(?:/(revision|tree|resolve)/([^/?]+))?/?([^?]*)", self.path)
        if found is None or found[1] not in self.hub.repos:
            self._answer({}, 404, "RepoNotFound")
            return
        repo, part, revision, name = self.hub.repos[found[1]], found[2], found[3] or "main", found[4]
        files = repo.files(revision)
        if files is None:
            self._answer({}, 404, "RevisionNotFound")
        elif part == "resolve" and name not in files:
            self._answer({}, 404, "EntryNotFound")
        elif part == "resolve":
            self._send(files[name], commit=repo.sha(revision))
        elif part == "tree":
            self._answer([{"type": "file", "oid": key, "size": len(data), "path": key} for key, data in files.items()])
        else:
            self._answer({"id": found[1], "sha": repo.sha(revision), "siblings": [{"rfilename": key} for key in files]})

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        self.hub.asked.append(f"{self.command} {self.path}")
        given = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer({}, 401)
        elif self.path == "/api/repos/create":
            self._create(json.loads(given))
        elif "/preupload/" in self.path:
            files = [one["path"] for one in json.loads(given)["files"]]
            modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in files]
            self._answer({"files": modes})
        elif found := re.match(r"/api/models/(\w+/[\w-]+)/commit/main", self.path):
            self._commit(found[1], [json.loads(line) for line in given.splitlines()])
        else:
            self._answer({})  # the front matter of the card is valid

    def _who(self) -> None:
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            auth = {"type": "access_token", "accessToken": self.hub.token}
            self._answer({"name": "me", "type": "user", "orgs": [{"name": "us"}], "auth": auth})
        else:
            self._answer({"error": "Invalid credentials"}, 401)

    def _create(self, given: dict[str, Any]) -> None:
        name = f"{given['organization'] or 'me'}/{given['name']}"
        if name in self.hub.repos:
            self._answer({"url": f"https://huggingface.co/{name}"}, 409)
            return
        self.hub.repos[name] = Repo(visibility=given.get("visibility", "public"))
        self.hub.repos[name].commit({".gitattributes": b""})
        self._answer({"url": f"https://huggingface.co/{name}"})

    def _commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        if self.hub.full:
            self._answer({"error": "no space left for you"}, 413)
            return
        added = [line["value"] for line in lines if line["key"] == "file"]
        commit = self.hub.repos[name].commit({one["path"]: base64.b64decode(one["content"]) for one in added})
        self._answer(
            {"commitUrl": f"https://huggingface.co/{name}/commit/{commit}", "commitOid": commit, "success": True}
        )

    def _answer(self, value: Any, code: int = 200, error: str = "") -> None:
        self._send(json.dumps(value).encode(), code, error)

    def _send(self, body: bytes, code: int = 200, error: str = "", commit: str = "") -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
        for name, value in {"X-Error-Code": error, "X-Repo-Commit": commit}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[Hub]:
    """A hub that huggingface_hub uses in place of the real one; nobody is logged in, and nothing is in the cache."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answers", (_Answers,), {"hub": hub}))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    constants = huggingface_hub.constants
    values = {
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "ENDPOINT": address,
        "HUGGINGFACE_CO_URL_TEMPLATE": address + URL,
        "HF_HUB_CACHE": str(cache),
        "HF_TOKEN_PATH": str(cache / "token"),
    }
    for name, value in values.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    forget_revisions()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        forget_revisions()
