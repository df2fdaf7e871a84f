"""``python -m pretrain RECIPE [key.sub=value ...]``, also under ``torchrun -m pretrain``."""

from __future__ import annotations

import retouch  # noqa: F401 - first of all: it names a package of the user's that hides one of ours
from common.runs.console import Flag, Stage, run_stages

STAGES = (
    Stage(
        "pretrain",
        "learn an encoder from unlabeled images",
        "pretrain.seeds",
        "pretrain.config:PretrainConfig",
        lossless=True,
    ),
)

# commands of `retouch` alone: `python -m pretrain` is pretraining
RESTORING = (
    Stage(
        "restore",
        "denoise, colorize or fill pictures at their own resolution, with the decoder of a run",
        "pretrain.restoring.restore",
        "pretrain.restoring.config:RestoreConfig",
        takes="a finished run of retouch pretrain, or its decoder/ folder",
    ),
    Stage(
        "strange",
        "rank pictures by how much worse a run restores them than others that are as hard",
        "pretrain.restoring.strange",
        "pretrain.restoring.config:StrangeConfig",
        takes="a finished run of retouch pretrain, or its decoder/ folder",
        flags=(Flag("top", "N", "pictures on the sheet (default: 20)"),),
    ),
)

if __name__ == "__main__":
    raise SystemExit(run_stages("python -m pretrain", STAGES))
