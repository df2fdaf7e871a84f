"""The main use case on generated images: two encoders trained without labels, three tasks, one table."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path

from common.encoders.load import ENCODER
from common.encoders.readme import README
from common.errors import UserError
from common.files import in_full, write_text
from common.machine.cores import leave_busy_cores
from common.recipes import stage_config
from common.runs.console import program
from common.runs.folder import check_run_folder
from common.runs.screen import screen
from finetune.config import ProbeConfig
from finetune.lines import probe_lines
from finetune.probe import probe
from finetune.results import ProbeResult
from finetune.table import results_markdown, results_table
from pretrain.config import PretrainConfig
from pretrain.run import pretrain
from retouch.reporting.card import write_card
from retouch.reporting.page import check_out, write_report

log = logging.getLogger("retouch")

PRETRAINING = {"denoise": "denoise_demo", "colorize": "colorize_demo"}  # shipped recipes, by run
PROBE = "demo"
REPORT = "report.html"


def demo(
    out: str | Path = "runs/demo", *, pretraining: Sequence[str] = (), probing: Sequence[str] = ()
) -> list[ProbeResult]:
    """Pretrain a denoiser and a colorizer on ``shapes``, and probe both on its three tasks, next to their baselines.

    Writes one run folder per stage under ``out`` and, last, ``table.md`` and ``report.html``. An earlier demo there is
    replaced, or continued if it was stopped.

    Args:
        pretraining, probing: changes to the recipes, as on the command line: ``"steps=100"``.

    Returns:
        The results of both probes, as in their ``results.json``.
    """
    started, out = time.monotonic(), in_full(out)
    configs = {
        name: stage_config(PretrainConfig, source, [*_named(out, name), *pretraining])
        for name, source in PRETRAINING.items()
    }
    stage_config(ProbeConfig, PROBE, ["encoder=later", *probing])  # find mistakes before anything is trained
    check_out(out / REPORT)
    leave_busy_cores()
    unfinished = not (out / "table.md").exists()
    (out / "table.md").unlink(missing_ok=True)  # until the new one is written, this demo can be continued
    results: list[ProbeResult] = []
    for name, config in configs.items():
        log.info("\n%s: training without labels", name)
        pretrained = pretrain(_continued(config) if unfinished else _restarted(config))
        if pretrained.encoder is None:  # stopped by a signal, which has been logged
            log.info("to continue the demo, run it again")
            return results
        log.info("\n%s: probing the frozen encoder", name)
        # raw pixels are the same for every encoder
        pixels = str(name == next(iter(PRETRAINING))).lower()
        changes = [*_named(out, f"{name}-probe"), "overwrite=true"]
        changes += [f"encoder={pretrained.encoder}", f"baselines.pixels={pixels}", *probing]
        results += probe(stage_config(ProbeConfig, PROBE, changes), show=False).results

    console = screen()
    console.print(results_table(probe_lines(results)))
    write_text(out / "table.md", results_markdown(probe_lines(results)))
    report = write_report([out], out / REPORT)
    for name in PRETRAINING:  # replaces the cards that pretraining wrote, which have no probe
        write_card([out / name, out / f"{name}-probe"], out / name / ENCODER / README)
    for line in (
        "colorize saw only gray images, so it can know little about color",
        f"done in {time.monotonic() - started:.0f} s",
        f"  everything on one page, for a browser: {report}",
        f"  restored pictures: {out}/denoise/panels, {out}/colorize/panels",
        f"  encoders, for retouch.load_encoder: {out}/denoise/encoder, {out}/colorize/encoder",
        f"  all numbers: {out}/*/results.json; W&B runs: {out}/*/wandb",
        "next, with your own pictures, and labeled ones in a folder per class (about ten minutes on two CPU cores;",
        "mask in place of colorize if the pictures are gray):",
        f"  {program('retouch')} pretrain colorize data=my/pictures out=runs/mine",
        f"  {program('retouch')} probe linear encoder=runs/mine data=my/labeled out=runs/mine-probe",
        f"  {program('retouch')} report runs/mine runs/mine-probe -o report.html",
    ):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return results


def _named(out: Path, name: str) -> list[str]:
    return [f"wandb.group={out.name}", f"wandb.name={name}", f"out={out / name}"]


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
