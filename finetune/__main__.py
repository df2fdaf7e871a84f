"""``python -m finetune STAGE ...``: the transfer stages, and commands for new images."""

from __future__ import annotations

import retouch  # noqa: F401 - first of all: it names a package of the user's that hides one of ours
from common.runs.console import Flag, Stage, run_stages

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
    Stage(
        "predict",
        "write class and confidence, labels or masks of new images, and all probabilities, as CSV or parquet",
        "finetune.predict.run",
        "finetune.predict.config:PredictConfig",
        takes="a finished run of probe or finetune, or one of its classifiers",
        flags=(Flag("top", "K", "the K most likely classes, in place of the probabilities of all"),),
    ),
    Stage(
        "search",
        "find the images most like a query, as a table and one contact sheet",
        "finetune.search.run",
        "finetune.search.config:SearchConfig",
        takes="a finished run of pretrain or finetune, or its encoder/ folder",
        flags=(Flag("top", "K", "images found per query"),),
    ),
)

if __name__ == "__main__":
    raise SystemExit(run_stages("python -m finetune", STAGES))
