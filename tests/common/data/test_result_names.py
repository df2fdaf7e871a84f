"""The names of images that are made of others."""

from __future__ import annotations

from pathlib import Path

import torch

from common.data import build_source
from common.data.result_names import result_names
from common.pixels import save_png, to_pil


def test_every_result_has_a_name_of_its_own_inside_its_folder(tmp_path: Path) -> None:
    names = ["one.jpg", "one.png", "One.PNG", "one.jpg.png", "sub/one.png", "two.tiff", "six.jpg", "six.png/a/b.png"]
    for name in names:
        (tmp_path / "all" / name).parent.mkdir(parents=True, exist_ok=True)
        save_png(to_pil(torch.zeros(3, 4, 4, dtype=torch.uint8)), tmp_path / "all" / name)
    source = build_source(str(tmp_path / "all"))
    found = result_names(source, list(range(len(source))))
    assert len({one.casefold() for one in found}) == len(names)
    assert not any(one.startswith(f"{other}/") for one in found for other in found)  # a file is not a folder
    assert {"sub/one.png", "two.png"} <= set(found)
    # a list may name files anywhere
    (tmp_path / "list.txt").write_text(f"all/two.tiff\n{tmp_path}/all/one.png\n../{tmp_path.name}/all/one.jpg\n")
    source = build_source(str(tmp_path / "list.txt"))
    assert result_names(source, [0, 1, 2]) == ["all/two.png", "00000001.png", "00000002.png"]
    assert result_names(build_source("shapes:test:3"), [0, 2]) == ["00000000.png", "00000002.png"]
