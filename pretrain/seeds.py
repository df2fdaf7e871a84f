"""Pretraining with one seed or several: each seed has an ordinary run, and the group of them a summary."""

from __future__ import annotations

import logging

from common.engine.loop import Trained
from common.errors import check_all
from common.files import write_json
from common.machine.distributed import gather, world
from common.runs.continuing import say_how_to_continue
from common.runs.folder import numbered
from common.runs.results import RESULTS
from common.runs.screen import screen
from common.runs.seeds import check_group, has_finished, open_group, with_each_seed
from common.runs.spread import spread_table
from pretrain import run
from pretrain.config import PretrainConfig
from pretrain.opening import check_folder, prepare, started
from pretrain.results import Pretrained, PretrainSeeds, read_results

log = logging.getLogger("retouch")


def pretrain(config: PretrainConfig) -> Pretrained:
    """``retouch pretrain``: one run, or with ``seeds`` one for each seed and a summary of them.

    Raises:
        UserError: the data, the encoder or a run folder cannot be used; nothing has been written.
    """
    if config.seeds == 1:
        return run.pretrain(config)
    # once for all runs: a process group cannot be rejoined after leaving it
    with world() as here, numbered(config, here) as config:
        config, _ = started(config)
        runs = with_each_seed(config)
        # whatever can be wrong with the images and the network is the same for all seeds, so one run stands for all
        check_all(
            lambda: check_group(config, runs),
            lambda: prepare(runs[0], here),
            *(lambda one=one: check_folder(one) for one in runs[1:]),
        )
        finished = gather([has_finished(one) for one in runs])[0]
        with open_group(config, here):
            for number, (one, there) in enumerate(zip(runs, finished, strict=True), 1):
                log.info("seed %d, %d of %d%s", one.seed, number, len(runs), ": finished before" if there else "")
                training = _before(one) if there else run.pretrain(one).training
                if not training.finished:
                    say_how_to_continue(config.out)
                    return Pretrained(training)
            return _summarized(config, runs, training) if here.is_main else Pretrained(training)


def _before(config: PretrainConfig) -> Trained:
    """How a finished run ended."""
    found = read_results(config.out)
    return Trained(found.steps, found.steps, finished=True, seconds=found.seconds, best=None, best_step=None)


def _summarized(config: PretrainConfig, runs: list[PretrainConfig], training: Trained) -> Pretrained:
    """Write the summary of the runs, and show it."""
    found = PretrainSeeds.of([one.seed for one in runs], [read_results(one.out) for one in runs])
    write_json(config.out / RESULTS, found.model_dump(mode="json"))
    console = screen()
    console.print(spread_table(f"{found.runs[0].method} over {len(runs)} seeds", found.spreads))
    log.info("all of these runs: %s", config.out)
    return Pretrained(training, config.out, seeds=found)
