"""Several processes (gloo) order the same rows, whatever each of them could read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Literal

import pytest

from common.data import build_source, load_images
from common.machine.distributed import world
from tests.common.data.samples import picture
from tests.processes import in_two_processes

ROWS = 32  # that a process decodes before it is the turn of the next
CACHES: tuple[Literal["ram", "none"], ...] = ("ram", "none")


def one_of_two(rank: int, folder: Path) -> None:
    os.environ["RETOUCH_CACHE"] = str(folder / f"cache-{rank}")
    with pytest.MonkeyPatch.context() as patch, world():
        patch.setattr("common.data.images.FILL_ROWS", ROWS)
        source = build_source(f"folder:{folder / 'pictures'}")
        read, tried, found = source.image, [], {}

        def image(index: int) -> object:
            tried.append(index)
            if rank == 1 and index == ROWS + 3:
                raise OSError("only this process cannot read it")
            return read(index)

        assert source.levels is None  # looks at a sample
        source.image = image  # type: ignore[method-assign, assignment]
        for cache in CACHES:
            tried.clear()
            loaded = load_images(source, 4, cache=cache)
            found[cache] = {"kept": loaded.kept.tolist(), "tried": len(tried) // ROWS}
    (folder / f"rank-{rank}.json").write_text(json.dumps(found))


def test_processes_leave_out_the_same_rows(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    count, broken = 2 * ROWS, (5, ROWS + 1)
    for number in range(count):
        picture(number, 4, 4).save(tmp_path / "pictures" / f"{number:04}.png")
    for number in broken:
        (tmp_path / "pictures" / f"{number:04}.png").write_bytes(b"")
    in_two_processes(one_of_two, tmp_path)
    first, second = (json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2))
    kept = [row for row in range(count) if row not in (*broken, ROWS + 3)]
    # without a cache, each takes its share
    assert first == second == {"ram": {"kept": kept, "tried": 2}, "none": {"kept": kept, "tried": 1}}
