"""``python -m finetune probe|finetune|embed CONFIG [key.sub=value ...]``: the transfer stages."""

from __future__ import annotations

from common.runs.console import Stage, run_stages

STAGES = (
    Stage("probe", "measure a frozen encoder by linear probes and k-NN, with baselines", "finetune.probe"),
    Stage("finetune", "train the whole encoder with a new head on labelled images", "finetune.full", lossless=True),
    Stage("embed", "write features of a frozen encoder to parquet", "finetune.embed"),
)

if __name__ == "__main__":
    raise SystemExit(run_stages("python -m finetune", STAGES))
