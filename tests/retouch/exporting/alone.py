"""Runs exports without Retouch: with timm, ONNX Runtime and torch alone.

    python -I alone.py FOLDER

Each folder below FOLDER is an export, next to ``images-S.npy``, float32 ``[N 3 S S]``; its outputs go to ``NAME.npz``.
"""

from __future__ import annotations

import importlib.abc
import json
import sys
from pathlib import Path
from typing import Any

OURS = {"common", "finetune", "pretrain", "retouch", "configs"}


class Absent(importlib.abc.MetaPathFinder):
    """Retouch is not installed here."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name.partition(".")[0] in OURS:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def main() -> None:
    sys.meta_path.insert(0, Absent())
    import numpy as np
    import torch

    torch.set_num_threads(1)
    home = Path(sys.argv[1])
    for folder in sorted(path for path in home.iterdir() if path.is_dir()):
        record = json.loads((folder / "export.json").read_text())
        if record["format"] not in WAYS:
            continue
        images = np.load(home / f"images-{record['facts']['image_size']}.npy")
        with torch.no_grad():
            found = WAYS[record["format"]](folder, images)
        np.savez(home / f"{folder.name}.npz", **found)
    assert not OURS & {name.partition(".")[0] for name in sys.modules}


def onnx(folder: Path, images: Any) -> dict[str, Any]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
    names = [one.name for one in session.get_outputs()]
    return dict(zip(names, session.run(names, {"images": images}), strict=True))


def program(folder: Path, images: Any) -> dict[str, Any]:
    import torch

    found = torch.export.load(folder / "model.pt2").module()(torch.from_numpy(images))
    return {name: values.numpy() for name, values in found.items()}


def timm(folder: Path, images: Any) -> dict[str, Any]:
    """As the note says."""
    import timm
    import torch

    config = json.loads((folder / "config.json").read_text())
    note = config["retouch"]["note"]
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    described = timm.data.resolve_data_config(model=model)
    shown = torch.from_numpy(images)
    if "set all three channels to 0.299 R + 0.587 G + 0.114 B" in note:
        shown = (shown * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True).expand(-1, 3, -1, -1)
    mean, std = (torch.tensor(described[key]).view(3, 1, 1) for key in ("mean", "std"))
    shown = (shown - mean) / std
    if "repeat every pixel 4x4 times" in note:
        shown = shown.repeat_interleave(4, 2).repeat_interleave(4, 3)
    if config["num_classes"]:
        return {"logits": model(shown).numpy()}
    [last] = model.forward_intermediates(shown, indices=1, norm=True, intermediates_only=True)
    return {"features": last.mean((2, 3)).numpy()}


WAYS = {"onnx": onnx, "torch": program, "timm": timm}

if __name__ == "__main__":
    main()
