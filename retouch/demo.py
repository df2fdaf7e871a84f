"""The main use case on generated images: two encoders trained without labels, three tasks, one table."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from rich.console import Console

from common.errors import UserError
from common.files import write_text
from common.machine.cores import leave_busy_cores
from common.recipes import stage_config
from common.runs.console import program
from common.runs.folder import check_run_folder
from finetune.config import ProbeConfig
from finetune.probe import probe
from finetune.results import ProbeResult
from finetune.table import probe_lines, results_markdown, results_table
from pretrain.config import PretrainConfig
from pretrain.run import pretrain

log = logging.getLogger("retouch")

COLORS = ["pretext.bins=96", "pretext.stride=4"]
# Changes to the shipped recipes, to keep the demo short.
RECIPES = {"denoise": ["augment.crop=[0.6, 1.0]"], "colorize": ["augment.crop=[0.6, 1.0]", *COLORS]}
UNLABELED, LABELLED = 20_000, 2_000  # images
STEPS = 500  # about a minute per encoder on two cores
STRENGTHS = [1e-4, 1e-3, 1e-2, 1e-1]
TASKS = ["shape", "color", "texture"]


def demo(out: str | Path = "runs/demo") -> list[ProbeResult]:
    """Pretrain a denoiser and a colorizer on ``shapes``, and probe both on its three tasks, next to their baselines.

    Writes one run folder per stage under ``out`` and, last, the table as ``out/table.md``. An earlier demo there is
    replaced, or continued if it was stopped.

    Returns:
        The results of both probes, as in their ``results.json``.
    """
    started, out = time.monotonic(), Path(out)
    leave_busy_cores()
    unfinished = not (out / "table.md").exists()
    (out / "table.md").unlink(missing_ok=True)  # until the new one is written, this demo can be continued
    results: list[ProbeResult] = []
    for name, changes in RECIPES.items():
        log.info("\n%s: training on %s unlabeled images", name, f"{UNLABELED:,}")
        short = [f"steps={STEPS}", f"data.limit={UNLABELED}", f"wandb.group={out.name}", f"wandb.name={name}"]
        config = stage_config(PretrainConfig, name, [*short, *changes, f"out={out / name}"])
        pretrained = pretrain(_continued(config) if unfinished else _restarted(config))
        if pretrained.encoder is None:  # stopped by a signal, which has been logged
            log.info("to continue the demo, run it again")
            return results
        log.info("\n%s: probing the frozen encoder", name)
        report = probe(
            ProbeConfig.model_validate(
                {
                    "out": out / f"{name}-probe",
                    "overwrite": True,
                    "encoder": pretrained.encoder,
                    "data": {"train": "shapes", "limit": LABELLED, "test_limit": LABELLED, "task": TASKS},
                    # a short search to keep the demo short; the recipe linear has the full one
                    "probe": {"layers": ["each", "all"], "poolings": ["avg+avg2+max"], "l2": STRENGTHS, "finalists": 1},
                    "knn": {"k": [20, 100]},
                    "damage": [],
                    # raw pixels are the same for every encoder
                    "baselines": {"pixels": name == next(iter(RECIPES))},
                    "wandb": {"group": out.name, "name": f"{name}-probe"},
                }
            ),
            show=False,
        )
        results += report.results

    console = Console(width=None if Console().is_terminal else 100)
    console.print(results_table(probe_lines(results)))
    write_text(out / "table.md", results_markdown(probe_lines(results)))
    for line in (
        f"done in {time.monotonic() - started:.0f} s",
        f"  restored pictures: {out}/denoise/panels, {out}/colorize/panels",
        f"  encoders, for retouch.load_encoder: {out}/denoise/encoder, {out}/colorize/encoder",
        f"  all numbers: {out}/*/results.json; W&B runs: {out}/*/wandb",
        "next, try a folder of your own pictures:",
        f"  {program('retouch')} pretrain denoise data=PATH out=runs/mine",
    ):
        console.print(line, highlight=False, soft_wrap=True)
    return results


def _restarted(config: PretrainConfig) -> PretrainConfig:
    return config.model_copy(update={"overwrite": True})


def _continued(config: PretrainConfig) -> PretrainConfig:
    """Resume a stopped run that has the same settings, or start over."""
    resumed = config.model_copy(update={"resume": True})
    try:
        check_run_folder(resumed)
    except UserError:  # left by another version of the demo
        return _restarted(config)
    return resumed
