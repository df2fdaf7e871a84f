"""Benchmark results as committed JSON: the numbers, with the machine, versions, date and seed of their measurement."""

from __future__ import annotations

import datetime
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch

from common.files import write_json
from common.machine.cores import usable_cores

RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = ("torch", "torchvision", "timm", "kornia", "scikit-learn", "numpy")


def record(name: str, results: dict[str, Any], *, seed: int, add: bool = False) -> Path:
    """Write ``results/NAME.json``; with ``add``, entries of an earlier run under other names are kept.

    Each entry records its own circumstances, because entries may come from several runs.
    """
    path = RESULTS / f"{name}.json"
    kept = json.loads(path.read_text(encoding="utf-8")) if add and path.exists() else {}
    entries = {key: {**_circumstances(seed), **value} for key, value in results.items()}
    write_json(path, kept | entries)
    print(f"written to {path}")
    return path


def _circumstances(seed: int) -> dict[str, Any]:
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "machine": {
            "processor": _processor(),
            "cores": usable_cores(),
            "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
            "gpu": gpu,
            "load_average": [round(load, 2) for load in psutil.getloadavg()],
        },
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "threads": torch.get_num_threads(),
        "date": datetime.date.today().isoformat(),
        "seed": seed,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    found = dict(line.split(":", 1) for line in lines if ":" in line)
    values = {key.strip(): value.strip() for key, value in found.items()}
    fast = [flag for flag in ("amx_bf16", "avx512_bf16", "avx2") if flag in values.get("flags", "").split()]
    return f"{values.get('model name', platform.processor())} ({', '.join(fast[:1])})"
