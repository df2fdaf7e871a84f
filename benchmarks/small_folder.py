"""A folder of photographs and nothing else: which recipe helps, at which size, with how many pictures and steps?

    python benchmarks/small_folder.py --data PATH/TO/imagenette128
    python benchmarks/small_folder.py --data PATH/TO/imagenette128 --only colorize-32-400-1500

Encoders are pretrained on the first pictures of the first of two training shards, and probed: the classifier is fitted
on the whole shard and scored on the second one. The test set is not opened. Each entry is a recipe, px, steps and
pictures; results are added to ``benchmarks/results/small_folder.json``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from record import record

from common.recipes import stage_config
from common.runs.logs import setup_console
from finetune.config import ProbeConfig
from finetune.probe import probe
from pretrain.config import PretrainConfig
from pretrain.run import pretrain

RUNS = (
    *((recipe, size, 1500, 1500) for size in (32, 64) for recipe in ("denoise", "colorize", "mask", "mixed")),
    *(("colorize", 32, steps, 1500) for steps in (400, 6000)),
    *(("colorize", 32, 400, pictures) for pictures in (150, 500)),
    ("colorize", 64, 4000, 1500),
    ("colorize", 128, 1500, 1500),
)
NAMES = {"-".join(map(str, run)): run for run in RUNS}


def run(name: str, data: Path, out: Path) -> dict[str, Any]:
    """Pretrain and probe one entry; returns what is recorded."""
    recipe, size, steps, pictures = NAMES[name]
    fitted, scored = (f"parquet:{data}/train-0{shard}-of-02.parquet" for shard in (0, 1))
    settings = [f"data.source={fitted}", f"data.limit={pictures}", f"data.image_size={size}", f"steps={steps}"]
    shared = ["overwrite=true", "wandb.mode=disabled"]
    pretrained = pretrain(stage_config(PretrainConfig, recipe, [f"out={out}/{name}", *settings, *shared]))
    if pretrained.encoder is None:
        raise SystemExit("stopped before pretraining was done; nothing recorded")
    probing = [f"encoder={pretrained.encoder}", f"data.train={fitted}", f"data.test={scored}"]
    [result] = probe(stage_config(ProbeConfig, "linear", [f"out={out}/{name}-probe", *probing, *shared])).results
    linear = result.linear
    gain = linear.compared["random_init"]
    return {
        "accuracy": linear.test.accuracy,
        "ci95": linear.test.ci95,
        "gain": gain.difference,
        "gain_ci95": gain.ci95,
        **{name: baseline.probes["linear"].test.accuracy for name, baseline in result.baselines.items()},
        "labeled": linear.n_train,
        "scored": linear.test.n,
        "pretraining_seconds": round(pretrained.training.seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES), metavar="NAME")
    parser.add_argument("--out", type=Path, default=Path("runs/small_folder"))
    given = parser.parse_args()
    setup_console()
    for name in given.only:
        record("small_folder", {name: run(name, given.data, given.out)}, seed=0, add=True)


if __name__ == "__main__":
    main()
