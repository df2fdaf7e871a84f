"""``python -m pretrain RECIPE [key.sub=value ...]``, also under ``torchrun -m pretrain``."""

from __future__ import annotations

import retouch  # noqa: F401 - first of all: it names a package of the user's that hides one of ours
from common.runs.console import Stage, run_stages

STAGES = (
    Stage(
        "pretrain",
        "learn an encoder from unlabeled images",
        "pretrain.seeds",
        "pretrain.config:PretrainConfig",
        lossless=True,
    ),
)

if __name__ == "__main__":
    raise SystemExit(run_stages("python -m pretrain", STAGES))
