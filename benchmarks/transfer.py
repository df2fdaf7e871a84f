"""Transfer component analysis between Imagenette in color and in gray: does one code serve both?

    python benchmarks/transfer.py --data PATH/TO/imagenette128

Codes are fitted on unlabeled training images, in color and in gray. A ridge classifier is then trained on labeled color
images and tested on color and on gray ones (``damage: gray`` of the probe). Three codes are compared: TCA, the same
kernel code, ignoring the domains (a large μ: kernel PCA), and PCA of the color images. Strengths are chosen on 10% of
the training set; the test set is used once. Results are written to ``benchmarks/results/transfer.json``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from record import record

from common.config import validate
from common.runs.logs import setup_console
from finetune.config import ProbeConfig
from finetune.probe import probe
from pretrain.config import PretrainConfig
from pretrain.run import pretrain

SIZE, COMPONENTS, LANDMARKS, SAMPLE = 32, 32, 1000, 4000
TCA = {"kind": "tca", "components": COMPONENTS, "landmarks": LANDMARKS, "sample": SAMPLE, "damage": {"kind": "gray"}}
FITS: dict[str, dict[str, Any]] = {
    "tca": TCA,
    "kernel_pca": {**TCA, "mu": 1e6},
    "pca": {"kind": "pca", "components": COMPONENTS, "whiten": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/transfer"))
    given = parser.parse_args()
    setup_console()
    entries: dict[str, Any] = {}
    for name, fit in FITS.items():
        source = {"source": f"parquet:{given.data}/train-*.parquet", "image_size": SIZE}
        pretrained = pretrain(
            validate(PretrainConfig, {"out": given.out / name, "overwrite": True, "data": source, "fit": fit})
        )
        probing = {
            "out": given.out / f"{name}-probe",
            "overwrite": True,
            "encoder": pretrained.encoder,
            "data": {
                "train": f"parquet:{given.data}/train-*.parquet",
                "test": f"parquet:{given.data}/test-*.parquet",
            },
            "probe": {"kind": "ridge", "layers": [-1], "poolings": ["flatten"]},
            "knn": None,
            "baselines": {"random_init": False, "pixels": name == "pca"},
            "damage": [{"kind": "gray"}],
        }
        [result] = probe(ProbeConfig.model_validate(probing)).results
        linear = result.linear
        fitted = json.loads((given.out / name / "results.json").read_text(encoding="utf-8"))
        entries[name] = {
            "maximum_mean_discrepancy": fitted.get("maximum_mean_discrepancy"),
            "test_accuracy_color": linear.test.accuracy,
            "test_accuracy_gray": linear.damaged["gray"].accuracy,
            "ci95_gray": linear.damaged["gray"].ci95,
            "baselines": {name: one.probes["linear"].test.accuracy for name, one in result.baselines.items()},
            "fit": fit,
            "image_size": SIZE,
        }
    record("transfer", entries, seed=0)


if __name__ == "__main__":
    main()
