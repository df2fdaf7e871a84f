"""Tables of the Hugging Face hub, from a server on this machine that answers as the hub does."""

from __future__ import annotations

import io
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import datasets
import huggingface_hub
import pytest

from common.data import build_source
from common.errors import UserError
from tests.common.data.samples import png

REVISION = "a" * 40
URL = "/{repo_id}/resolve/{revision}/{filename}"


def shard(names: list[str]) -> bytes:
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=names))
    pictures = [{"bytes": png(number), "path": None} for number in range(2)]
    written = io.BytesIO()
    datasets.Dataset.from_dict({"image": pictures, "label": [0, 1]}, features=features).to_parquet(written)
    return written.getvalue()


class Hub(BaseHTTPRequestHandler):
    """Two sets of two shards each: those of one number their classes alike, those of the other do not."""

    protocol_version = "HTTP/1.1"
    files = {  # noqa: RUF012
        "me/same": {"data/train-0.parquet": shard(["a", "b"]), "data/train-1.parquet": shard(["a", "b"])},
        "me/other": {"data/train-0.parquet": shard(["a", "b"]), "data/train-1.parquet": shard(["b", "a"])},
    }

    def do_GET(self) -> None:
        found = re.match(r"/(api/)?datasets/(me/\w+)(?:/(tree|resolve|revision)/\w+/?)?([^?]*)", self.path)
        if found is None or found[2] not in self.files:
            self._answer(b"{}", 404)
            return
        files, _, part, inside = self.files[found[2]], *found.groups()[1:]
        if part == "resolve":
            self._answer(files.get(inside, b""), 200 if inside in files else 404)
        elif part == "tree":
            tree = [{"type": "file", "oid": name, "size": len(data), "path": name} for name, data in files.items()]
            self._answer(json.dumps(tree if inside else [{"type": "directory", "oid": "0", "path": "data"}]).encode())
        else:
            siblings = [{"rfilename": name} for name in files]
            self._answer(json.dumps({"id": found[2], "sha": REVISION, "siblings": siblings}).encode())

    do_HEAD = do_GET  # noqa: N815

    def _answer(self, body: bytes, code: int = 200) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": len(body), "ETag": f'"{hash(body)}"', "X-Repo-Commit": REVISION}.items():
            self.send_header(name, str(value))
        if code == 404:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    for library in (datasets.config, huggingface_hub.constants):
        monkeypatch.setattr(library, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", address)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + URL)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    yield
    server.shutdown()
    server.server_close()


def test_shards_of_the_hub_are_read(hub: None, tmp_path: Path) -> None:
    labels = build_source("hf:me/same", root=str(tmp_path)).labels()
    assert [labels.names[value] for value in labels.values] == ["a", "b", "a", "b"]


def test_shards_of_the_hub_that_number_their_classes_differently_are_refused(hub: None, tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"^hf:me/other: \S+/train-0.parquet and \S+/train-1.parquet number the classes of 'label' differently "
        r"\(a, b; b, a\): use one as data.test, or write both with the same list of classes$",
    ):
        build_source("hf:me/other", root=str(tmp_path))
