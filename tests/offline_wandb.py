"""Reads W&B's offline files, so that tests look at what a later ``wandb sync`` would send.

A ``.wandb`` file is a 7-byte header and then LevelDB's log format: blocks of 32 KiB holding pieces of records, each
behind checksum (4 bytes), length (2) and kind (1: whole, 2: first, 3: middle, 4: last).
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

BLOCK, HEADER = 32768, 7


def raw_records(path: Path) -> Iterator[bytes]:
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    position, pieces = HEADER, b""
    while position + HEADER <= len(data):
        left = BLOCK - position % BLOCK
        if left < HEADER:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + HEADER])
        pieces += data[position + HEADER : position + HEADER + length]
        position += HEADER + length
        if kind in (1, 4):
            yield pieces
            pieces = b""


def offline_records(folder: Path, kind: str) -> list[Any]:
    """Every record of one kind (``run``, ``history``, ...) of all offline parts under ``folder``, in order."""
    found = []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for data in raw_records(path):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == kind:
                found.append(getattr(record, kind))
    return found


def history(folder: Path, seconds: float = 20) -> list[dict[str, Any]]:
    """Logged rows, as ``{name: value}``, once the last part is closed: W&B's own process writes a little later."""
    patience = time.monotonic() + seconds
    while not offline_records(folder, "exit") and time.monotonic() < patience:
        time.sleep(0.05)
    return [
        {(item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in row.item}
        for row in offline_records(folder, "history")
    ]


def settings(folder: Path) -> dict[str, Any]:
    """The run's config as a sync would leave it: what it started with, and what was added later."""
    parts = [run.config for run in offline_records(folder, "run")] + offline_records(folder, "config")
    return {
        item.key or "/".join(item.nested_key): json.loads(item.value_json) for part in parts for item in part.update
    }
