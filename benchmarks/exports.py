"""Every format of `retouch export`, opened without Retouch, on real photographs: does it compute the same as torch?

    python benchmarks/exports.py --imagenette PATH/TO/imagenette128 --cifar10 PATH/TO/cifar10

One encoder of each kind. Networks have random weights, since training changes no operation, and what is compared is
arithmetic; classifiers are such networks with a head that is fitted to ten classes of 1,000 training images, so that
their answers vary, or the linear classifier that ``retouch.probe`` has chosen and calibrated on these. The linear
family is fitted on these images.

Each export is written by ``retouch.export`` and then run by plain timm, ONNX Runtime or torch in a process that cannot
import Retouch (``tests/retouch/exporting/alone.py``), on 500 test images that the check of the export has not seen.
``--python OTHER/bin/python`` runs it in an environment in which these three alone are installed.

Recorded are the largest difference of each output, absolute and as a share of its root mean square, and for classifiers
the images with the same top-1. Also recorded: seconds to write, and the file's size. The exit code is 1 if a difference
is above 1e-4 of the size, or an answer differs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from record import record
from torch import Tensor

import retouch
from common.data import build_source, in_order, load_images
from common.encoders import Classifier, EncoderConfig, View, build_encoder
from common.encoders.export import export_classifier, export_encoder
from common.encoders.load import load_classifier, load_encoder
from common.encoders.statistics import settle_norms
from common.errors import UserError
from retouch.exporting.check import TOLERANCE

ALONE = Path(__file__).resolve().parents[1] / "tests" / "retouch" / "exporting" / "alone.py"
FORMATS = ("timm", "onnx", "torch", "hub")
CLASSES = 10


class Kind(NamedTuple):
    """An encoder: a network with random weights, or a fitted method of the linear family."""

    name: str
    encoder: EncoderConfig | dict[str, Any]
    size: int
    view: View = "rgb"
    classes: bool = False
    probe: bool = False


def timm_model(name: str, **args: Any) -> EncoderConfig:
    return EncoderConfig(name=f"timm/{name}", model_args=args)


SMALL = EncoderConfig(name="small_cnn")
VIT = timm_model("vit_tiny_patch16_224", patch_size=8, depth=6)
KINDS = (
    Kind("small_cnn", SMALL, 32),
    Kind("small_cnn, gray", SMALL, 32, view="gray"),
    Kind("small_cnn, classes", SMALL, 32, classes=True),
    Kind("small_cnn, probe", SMALL, 32, probe=True),
    Kind("resnet18, probe", timm_model("resnet18"), 128, probe=True),
    Kind("resnet18, stem for small images", timm_model("resnet18"), 32),
    Kind("resnet18, stem for small images, gray, classes", timm_model("resnet18"), 32, view="gray", classes=True),
    Kind("resnet18", timm_model("resnet18"), 128),
    Kind("convnext_atto", timm_model("convnext_atto"), 64),
    Kind("ViT, patches of 8", VIT, 64),
    Kind("ViT, patches of 8, classes", VIT, 64, classes=True),
    Kind("PCA", {"kind": "pca", "components": 64}, 32),
    Kind("sparse coding", {"kind": "sparse_coding", "atoms": 64, "strength": 0.5}, 32),
    Kind("patch dictionary", {"kind": "patch_dictionary", "network": {"atoms": 256}}, 32),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--imagenette", required=True, help="folder of its parquet files, for sizes above 32 px")
    parser.add_argument("--cifar10", required=True, help="folder of its parquet files, for 32 px")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--python", default=sys.executable, help="of the environment in which exports are opened")
    parser.add_argument("--only", default="", help="kinds with this in their name; nothing is recorded")
    given = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    for kind in (one for one in KINDS if given.only in one.name):
        folder = given.cifar10 if kind.size == 32 else given.imagenette
        results[kind.name] = measured(kind, Path(folder), given.images, given.python)
        print(kind.name, json.dumps(results[kind.name]), flush=True)
    if not given.only:
        record("exports", results, seed=0)
    written = [one for found in results.values() for one in found["formats"].values() if "refused" not in one]
    return int(not all(one.get("relative", 0) <= TOLERANCE and one.get("same_top1", 1) == 1 for one in written))


def photographs(folder: Path, split: str, size: int, count: int) -> tuple[Tensor, Tensor]:
    """Float RGB in [0, 1], ``[N 3 S S]``, and labels ``[N]``."""
    images = load_images(build_source(f"parquet:{folder}/{split}*.parquet"), size, limit=count)
    return torch.cat([batch.images for batch in in_order(images, 256)]).float() / 255, images.labels().values


@torch.no_grad()
def measured(kind: Kind, folder: Path, count: int, python: str) -> dict[str, Any]:
    """Every format of one encoder."""
    images, _ = photographs(folder, "test", kind.size, count)
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        run = home / "run"
        write(kind, run, folder)
        outputs = expected(run, images, kind)
        exports, formats = home / "exports", {}
        exports.mkdir()
        np.save(exports / f"images-{kind.size}.npy", images.numpy())
        for form in FORMATS:
            formats[form] = export(run, exports / form, form, str(folder / "train-00*.parquet"))
        subprocess.run([python, "-I", str(ALONE), str(exports)], cwd=home, check=True)
        for form, found in formats.items():
            if "refused" not in found and form != "hub":  # of Retouch itself
                found |= compared(outputs, np.load(exports / f"{form}.npz"))
        return {"images": len(images), "of": folder.name, "size": kind.size, "formats": formats}


def write(kind: Kind, folder: Path, data: Path) -> None:
    """The folder of the encoder or classifier."""
    torch.manual_seed(0)
    images, labels = photographs(data, "train", kind.size, 1000)
    if isinstance(kind.encoder, dict):
        export_encoder(retouch.fit(kind.encoder, images), folder)
        return
    encoder = build_encoder(kind.encoder, image_size=kind.size, view=kind.view)
    settle_norms(encoder, torch.split(images, 100))
    if kind.probe:
        export_encoder(encoder, folder.with_name("encoder"))
        quiet = ["wandb.mode=disabled", "knn=null", "damage=[]", "properties=false", "null_check=false"]
        quiet += ["baselines={random_init: false, pixels: false}", "feature_cache=false", "precision=float32"]
        labeled = [f"data=parquet:{data}/train-00*.parquet", "data.limit=1000"]
        with torch.enable_grad():
            retouch.probe(f"encoder={folder.with_name('encoder')}", *labeled, *quiet, f"out={folder}")
        return
    if not kind.classes:
        export_encoder(encoder, folder)
        return
    classifier = Classifier(encoder, [str(number) for number in range(CLASSES)]).eval()
    fit_head(classifier, images, labels)
    export_classifier(classifier, folder)


def fit_head(classifier: Classifier, images: Tensor, labels: Tensor) -> None:
    """Set the last linear layer to the least-squares solution for the labels, by a slight ridge."""
    [*_, head] = [module for module in classifier.modules() if isinstance(module, torch.nn.Linear)]
    seen: list[Tensor] = []
    hook = head.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].double()))
    for part in torch.split(images, 100):
        classifier(part)
    hook.remove()
    rows = torch.cat(seen)
    mean, scale = rows.mean(0), rows.std()
    rows = (rows - mean) / scale
    targets = torch.nn.functional.one_hot(labels, CLASSES).double()
    gram = rows.T @ rows + len(rows) * 1e-3 * torch.eye(rows.shape[1])
    weight = torch.linalg.solve(gram, rows.T @ (targets - targets.mean(0))) / scale
    head.weight.copy_(weight.T)
    head.bias.copy_(targets.mean(0) - mean @ weight)


def expected(folder: Path, images: Tensor, kind: Kind) -> dict[str, Tensor]:
    parts = torch.split(images, 100)
    if kind.probe:
        probed = retouch.load_classifier(folder)
        logits = torch.cat([probed(part) for part in parts])
        return {"logits": logits, "probabilities": probed.probabilities(logits)}
    if not kind.classes:
        encoder = load_encoder(folder)
        return {"features": torch.cat([encoder.encode(part) for part in parts])}
    classifier = load_classifier(folder)
    logits = torch.cat([classifier(part) for part in parts])
    return {"logits": logits, "probabilities": logits.softmax(1)}


def export(folder: Path, to: Path, form: str, data: str) -> dict[str, Any]:
    """The seconds to write it and the size of the files; or why it was refused."""
    started = time.monotonic()
    try:
        done = retouch.export(folder, f"to={to}", f"format={form}", f"data={data}")
    except UserError as error:
        return {"refused": str(error)}
    seconds = round(time.monotonic() - started, 1)
    size = sum(path.stat().st_size for path in done.files)
    return {"seconds": seconds, "mb": round(size / 1e6, 2), "checked": done.max_difference}


def compared(outputs: dict[str, Tensor], found: Any) -> dict[str, Any]:
    """The largest difference of any output, and the share of images with the same answer."""
    largest, relative = 0.0, 0.0
    for name in found:
        difference = float((outputs[name] - torch.from_numpy(found[name])).abs().max())
        largest = max(largest, difference)
        relative = max(relative, difference / float(outputs[name].square().mean().sqrt()))
    result: dict[str, Any] = {"largest": largest, "relative": relative}
    if "logits" in found:
        same = outputs["logits"].argmax(1) == torch.from_numpy(found["logits"]).argmax(1)
        result["same_top1"] = float(same.float().mean())
        result["classes_answered"] = len(set(outputs["logits"].argmax(1).tolist()))
    return result


if __name__ == "__main__":
    raise SystemExit(main())
