"""Reads W&B's offline files, so that tests look at what a later ``wandb sync`` would send.

A ``.wandb`` file is a 7-byte header and then LevelDB's log format: blocks of 32 KiB holding pieces of records, each
behind CRC-32 of kind and piece (4 bytes), length (2) and kind (1: whole, 2: first, 3: middle, 4: last).
"""

from __future__ import annotations

import json
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

BLOCK, HEADER = 32768, 7


def raw_records(path: Path) -> Iterator[bytes]:
    """The whole records of a file that W&B's own process may still be writing: they end at the first partial one."""
    data = path.read_bytes()
    assert b":W&B".startswith(data[:4])
    position, pieces = HEADER, b""
    while position + HEADER <= len(data):
        left = BLOCK - position % BLOCK
        if left < HEADER:
            position += left
            continue
        checksum, length, kind = struct.unpack("<IHB", data[position : position + HEADER])
        piece = data[position + HEADER : position + HEADER + length]
        if kind == 0 or zlib.crc32(bytes([kind]) + piece) != checksum:
            return
        pieces += piece
        position += HEADER + length
        if kind in (1, 4):
            yield pieces
            pieces = b""


def offline_records(folder: Path, kind: str, seconds: float = 20) -> list[Any]:
    """Every record of one kind (``run``, ``history``, ...) of all offline parts under ``folder``, in order.

    W&B's own process writes a little later than the run ends: the last part is waited for until it is closed.
    """
    patience = time.monotonic() + seconds
    while not _closed(parts := _parts(folder)) and time.monotonic() < patience:
        time.sleep(0.05)
    return [getattr(record, kind) for part in parts for record in part if record.WhichOneof("record_type") == kind]


def _parts(folder: Path) -> list[list[wandb_internal_pb2.Record]]:
    paths = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
    return [[wandb_internal_pb2.Record.FromString(data) for data in raw_records(path)] for path in paths]


def _closed(parts: list[list[wandb_internal_pb2.Record]]) -> bool:
    return bool(parts) and any(record.WhichOneof("record_type") == "exit" for record in parts[-1])


def history(folder: Path) -> list[dict[str, Any]]:
    """Logged rows, as ``{name: value}``."""
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
