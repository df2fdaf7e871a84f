"""``python -m finetune probe|finetune|embed [RECIPE] [key.sub=value ...]``: the transfer stages."""

from __future__ import annotations

import retouch  # noqa: F401 - first of all: it names a package of the user's that hides one of ours
from common.runs.console import Stage, run_stages

STAGES = (
    Stage(
        "probe",
        "evaluate a frozen encoder with a linear probe and k-NN, next to baselines",
        "finetune.seeds",
        "finetune.config:ProbeConfig",
    ),
    Stage(
        "finetune",
        "fine-tune the whole encoder with a new head on labeled images",
        "finetune.full",
        "finetune.config:FinetuneConfig",
        lossless=True,
    ),
    Stage(
        "embed",
        "write a frozen encoder's features to a parquet file",
        "finetune.embed",
        "finetune.config:EmbedConfig",
    ),
)

if __name__ == "__main__":
    raise SystemExit(run_stages("python -m finetune", STAGES))
