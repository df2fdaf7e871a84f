"""A plain script works where processes are spawned, as on macOS and Windows: workers do not import it again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import multiprocessing
import retouch

print("started")
multiprocessing.set_start_method("spawn", force=True)
settings = {"steps": 1, "batch_size": 4, "encoder": {"model_args": {"width": 4, "depth": 1}}}
data = {"source": "folder:photos", "image_size": 16, "workers": 1, "cache": "none"}
run = retouch.pretrain({**settings, "out": "run", "data": data})
multiprocessing.set_start_method("forkserver", force=True)
data = {"source": "folder:photos", "workers": 1}
table = retouch.embed({"encoder": run.encoder, "out": "features", "data": data})
print(table.rows, "rows")
"""


def test_script_without_a_main_guard_runs_once(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(4):
        Image.new("RGB", (16, 16), (60 * number, 0, 0)).save(tmp_path / "photos" / f"{number}.png")
    (tmp_path / "script.py").write_text(SCRIPT)
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
