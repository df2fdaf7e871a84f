"""A plain script works where processes are spawned, as on macOS and Windows: workers do not import it again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
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

IN_MEMORY = """
import multiprocessing
import numpy as np
import retouch

class Photos:
    def __init__(self):
        self.transform = lambda image: 255 - image
    def __len__(self):
        return 8
    def __getitem__(self, row):
        return self.transform(np.full((16, 16, 3), 20 * row, np.uint8)), row % 2

if __name__ == "__main__":
    given = retouch.images(Photos(), "photos")
    for method in ("spawn", "forkserver"):
        multiprocessing.set_start_method(method, force=True)
        for number, spec in enumerate((given, f"patches:{given}")):
            settings = {"source": spec, "workers": 2, "image_size": 16, "limit": 20}
            table = retouch.embed({"encoder": "encoder", "out": f"{method}{number}", "data": settings})
            print(method, table.rows)
"""


def run(script: str, folder: Path) -> list[str]:
    """The output of a script that finds a small encoder in its folder."""
    small = EncoderConfig(model_args={"width": 4, "depth": 1})
    export_encoder(build_encoder(small, image_size=16), folder / "encoder")
    (folder / "script.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "WANDB_MODE": "disabled"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_script_without_a_main_guard_runs_once(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(4):
        Image.new("RGB", (16, 16), (60 * number, 0, 0)).save(tmp_path / "photos" / f"{number}.png")
    assert run(SCRIPT, tmp_path) == ["started", "spawn 4", "forkserver 4"]


def test_images_of_a_class_in_the_script_are_used_where_processes_are_spawned(tmp_path: Path) -> None:
    said = [line for line in run(IN_MEMORY, tmp_path) if line.startswith(("spawn", "forkserver"))]
    assert said == ["spawn 8", "spawn 20", "forkserver 8", "forkserver 20"]
