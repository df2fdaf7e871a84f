"""MAE on Imagenette at 128 px with a small vision transformer: does the loss fall, does the probe beat its baselines?

    python benchmarks/imagenette.py --data PATH/TO/imagenette128

Uses the recipe ``mask_imagenette``; the result is written to ``benchmarks/results/imagenette.json``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from record import record

from common.recipes import stage_config
from common.runs.logs import setup_console
from finetune.config import ProbeConfig
from finetune.probe import probe
from pretrain.config import PretrainConfig
from pretrain.run import pretrain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/imagenette"))
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the pretraining config")
    given = parser.parse_args()
    setup_console()
    source = f"data.source=parquet:{given.data}/train-*.parquet"
    pretraining = stage_config(
        PretrainConfig,
        "mask_imagenette",
        [f"out={given.out}/mask", source, "overwrite=true", *given.overrides],
    )
    pretrained = pretrain(pretraining)
    losses = [json.loads(line)["loss"] for line in (given.out / "mask" / "metrics.jsonl").read_text().splitlines()]
    probing = ProbeConfig.model_validate(
        {
            "out": given.out / "probe",
            "overwrite": True,
            "encoder": pretrained.encoder,
            "data": {
                "train": f"parquet:{given.data}/train-*.parquet",
                "test": f"parquet:{given.data}/test-*.parquet",
            },
            "probe": {"layers": ["each", "all"]},
        }
    )
    [result] = probe(probing).results
    linear = result.linear
    entry = {
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "test_accuracy": linear.test.accuracy,
        "ci95": linear.test.ci95,
        **{
            f"{name}_test_accuracy": baseline.probes["linear"].test.accuracy
            for name, baseline in result.baselines.items()
        },
        "knn_test_accuracy": result.subjects["encoder"].probes["knn"].test.accuracy,
        "layer": linear.choice.layer,
        "pooling": linear.choice.pooling,
        "steps": pretrained.training.steps,
        "pretraining_seconds": round(pretrained.training.seconds, 1),
        "config": pretraining.model_dump(mode="json", exclude={"out", "data", "wandb", "overwrite", "resume"}),
    }
    record("imagenette", {"mask": entry}, seed=pretraining.seed)


if __name__ == "__main__":
    main()
