"""A plain script works where processes are spawned, as on macOS and Windows: workers do not import it again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from PIL import Image

from common.encoders import EncoderConfig, build_encoder
from common.encoders.export import export_encoder

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import multiprocessing
import retouch

print("started")
for method in ("spawn", "forkserver"):
    multiprocessing.set_start_method(method, force=True)
    table = retouch.embed({"encoder": "encoder", "out": method, "data": {"source": "folder:photos", "workers": 1}})
    print(method, table.rows)
"""


def test_script_without_a_main_guard_runs_once(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(4):
        Image.new("RGB", (16, 16), (60 * number, 0, 0)).save(tmp_path / "photos" / f"{number}.png")
    small = EncoderConfig(model_args={"width": 4, "depth": 1})
    export_encoder(build_encoder(small, image_size=16), tmp_path / "encoder")
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
    assert done.stdout.splitlines() == ["started", "spawn 4", "forkserver 4"]
