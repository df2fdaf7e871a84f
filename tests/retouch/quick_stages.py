"""Shared by the tests of all stages: their inputs, the settings with which each takes a moment, and their command."""

from __future__ import annotations

from pathlib import Path

import torch

from common.corruptions import Gaussian
from common.encoders import EncoderConfig, build_encoder
from common.encoders.export import export_classifier, export_encoder
from common.encoders.head import Classifier
from pretrain.gradient.decoders import DecoderConfig
from pretrain.gradient.kept import keep_decoder
from pretrain.gradient.objective import Objective
from pretrain.gradient.pretexts import Denoise
from retouch.cli import main

STEPS = 3
ALL = ["seed=1", "data.workers=0", "precision=float32", "wandb.mode=disabled"]
TRAINED = [f"steps={STEPS}", "batch_size=8", "base_lr=0.01"]
LABELED = ["data.train=shapes", "data.task=color", "data.limit=60", "data.test_limit=30"]
SETTINGS = {
    "pretrain": [*TRAINED, "data.limit=40", "data.image_size=16", "encoder.model_args={width: 4, depth: 1}"],
    "finetune": [*TRAINED, *LABELED, "evaluate_every=1", "compare.linear_probe=false"],
    "probe": [
        *(*LABELED, "knn=null", "damage=[]", "properties=false", "null_check=false", "baselines.pixels=false"),
        *("probe.layers=[-1]", "probe.poolings=[avg]", "probe.l2=[0.01]", "probe.folds=2"),
    ],
    "embed": ["data.source=shapes", "data.limit=20"],
    "predict": ["data.source=memory:pictures"],
    "search": ["data.source=memory:pictures", "query=memory:pictures", "top=3", "feature_cache=false"],
    "restore": ["data.source=memory:pictures", "damage=recipe"],
    "strange": ["data.source=memory:pictures", "draws=2", "top=3"],
}
STARTS = {  # the inputs of a stage, besides its run folder
    **dict.fromkeys(("finetune", "probe", "embed"), "encoder=encoder"),
    "predict": "run=classifier",
    "search": "run=encoder",
    "restore": "run=decoder",
    "strange": "run=decoder",
}
PICTURES = torch.randint(0, 256, (20, 3, 20, 24), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def run(stage: str, out: Path, *overrides: str) -> int:
    """Run a stage from the command line; returns its exit code."""
    config = out.parent / f"{stage}.yaml"
    config.write_text("")
    key, _, name = STARTS.get(stage, "").partition("=")
    start = [f"{key}={out.parent / name}"] if key else []
    shared = [setting for setting in ALL if stage != "restore" or "workers" not in setting]  # it has none
    return main([stage, str(config), f"out={out}", *start, *shared, *SETTINGS[stage], *overrides])


def export(folder: Path) -> None:
    """The inputs of stages: an encoder, a classifier, and a decoder."""
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig(model_args={"width": 4, "depth": 1}), image_size=16)
    sha256 = export_encoder(encoder, folder / "encoder")
    config = DecoderConfig(kind="upsampler", width=32)
    objective = Objective(encoder, config, Denoise(corruption=Gaussian(sigma=0.1)))
    keep_decoder(objective, config, folder / "decoder", source="memory:pictures", encoder_sha256=sha256)
    export_classifier(Classifier(encoder, ("even", "odd")), folder / "classifier")  # it adds to the encoder
