"""A plain script works where processes are spawned, as on macOS and Windows: workers do not import it again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import multiprocessing
multiprocessing.set_start_method({method!r}, force=True)
import retouch

print("started")
settings = {{"steps": 1, "batch_size": 4, "encoder": {{"model_args": {{"width": 4, "depth": 1}}}}}}
data = {{"source": "folder:photos", "image_size": 16, "workers": 2, "cache": "none"}}
run = retouch.pretrain({{**settings, "out": "run", "data": data}})
data = {{"source": "folder:photos", "workers": 2}}
table = retouch.embed({{"encoder": run.encoder, "out": "features", "data": data}})
print(table.rows, "rows")
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_script_without_a_main_guard_runs_once(method: str, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(4):
        Image.new("RGB", (16, 16), (60 * number, 0, 0)).save(tmp_path / "photos" / f"{number}.png")
    (tmp_path / "script.py").write_text(SCRIPT.format(method=method))
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "WANDB_MODE": "disabled"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["started", "4 rows"]
