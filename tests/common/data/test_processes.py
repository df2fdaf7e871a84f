"""Several processes (gloo) order the same rows, whatever each of them could read."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
import torch
from torch.multiprocessing.spawn import spawn

from common.data import build_source, load_images
from common.data.images import FILL_ROWS
from common.machine.distributed import world
from tests.common.data.samples import picture


def one_of_two(rank: int, port: int, folder: Path, cache: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    os.environ["RETOUCH_CACHE"] = str(folder / f"cache-{rank}")
    with world():
        source = build_source(f"folder:{folder / 'pictures'}")
        read, tried = source.image, []

        def image(index: int) -> object:
            tried.append(index)
            if rank == 1 and index == FILL_ROWS + 3:
                raise OSError("only this process cannot read it")
            return read(index)

        assert source.levels is None  # looks at a sample
        source.image = image  # type: ignore[method-assign, assignment]
        loaded = load_images(source, 4, cache=cache)  # type: ignore[arg-type]
        found = {"kept": loaded.kept.tolist(), "tried": len(tried) // FILL_ROWS}
    (folder / f"rank-{rank}.json").write_text(json.dumps(found))


@pytest.mark.parametrize("cache", ["ram", "none"])
def test_processes_leave_out_the_same_rows(tmp_path: Path, cache: str) -> None:
    (tmp_path / "pictures").mkdir()
    count, broken = 2 * FILL_ROWS, (5, FILL_ROWS + 1)
    for number in range(count):
        picture(number, 4, 4).save(tmp_path / "pictures" / f"{number:04}.png")
    for number in broken:
        (tmp_path / "pictures" / f"{number:04}.png").write_bytes(b"")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn(one_of_two, args=(port, tmp_path, cache), nprocs=2)
    first, second = (json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2))
    assert first["kept"] == second["kept"] == [row for row in range(count) if row not in (*broken, FILL_ROWS + 3)]
    assert first["tried"] == second["tried"] == (1 if cache == "none" else 2)  # without a cache, each takes its share
