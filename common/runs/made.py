"""What a result was made with: versions, machine, images and encoder.

It is kept in ``results.json``, so that a repetition can say what differs before it starts.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch

from common.machine.distributed import place
from common.runs.logs import versions
from common.runs.results import Record

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("common", "finetune", "pretrain", "retouch")
ENCODER_INPUT = "encoder"  # the key of an encoder among the inputs


class Made(Record):
    """What the digits of a result depend on, besides its settings."""

    versions: dict[str, str]  # of Python and packages
    code: str  # sha256 of the source of Retouch
    processor: str  # its model
    device: str  # cpu, or the model of the GPU
    threads: int
    processes: int
    # by setting: the fingerprint of the images that data.source names, the sha256 of the encoder, ...
    inputs: dict[str, str]


def made(inputs: Mapping[str, str]) -> Made:
    """What this process makes a result with, from these inputs."""
    return Made(
        versions=versions(),
        code=_code(),
        processor=_processor(),
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        threads=torch.get_num_threads(),
        processes=place()[1],
        inputs=dict(inputs),
    )


@cache
def _code() -> str:
    """sha256 of all our Python files: versions alone do not distinguish two states of a checkout."""
    total = hashlib.sha256()
    for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        total.update(f"{path.relative_to(ROOT).as_posix()}\0".encode())
        total.update(path.read_bytes())
    return total.hexdigest()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
