"""The pretraining stage: unlabeled images in, an encoder folder out."""

from __future__ import annotations

from common.data import Images, Loader
from common.encoders.load import ENCODER
from common.engine.checkpoint import keep_final
from common.engine.loop import Periodic, Trained, learn
from common.machine.distributed import world
from common.runs.continuing import say_how_to_continue, say_paused
from common.runs.folder import Run, numbered, open_run
from common.runs.logs import early_log
from pretrain.config import PretrainConfig
from pretrain.export import export, report
from pretrain.opening import Opened, prepare
from pretrain.report.panels import Panels
from pretrain.results import Pretrained
from pretrain.ruler.measured import Measured
from pretrain.ruler.ruler import Ruler
from pretrain.ruler.watch import Watch


def pretrain(config: PretrainConfig, images: Images | None = None) -> Pretrained:
    """Fit an encoder on unlabeled images; write ``config.out`` with checkpoints, panels and ``encoder/``.

    Args:
        images: decoded images to learn from, in place of those that ``config.data`` names.

    Raises:
        UserError: the data, the encoder or the run folder cannot be used; nothing has been written.
    """
    with world() as here, numbered(config, here) as config, early_log() as early:
        # everything the user can get wrong is checked before anything is written
        opened = prepare(config, here, images)
        opened.load()
        with open_run(opened.config, here, early) as run:
            opened.describe(run)
            training, shown = _learn(opened, run)
            if not training.finished or not here.is_main:
                return Pretrained(training)
            measured = shown.last(training.step)
            sha256 = export(opened, run, training, measured)
            if (final := opened.learner.final_tensors()) is not None:
                keep_final(run.checkpoints, final)
            results = report(opened, run, training, measured, sha256)
            if training.step < training.steps and not shown.flat:
                stop = opened.learner.stop
                at = stop.at is not None and training.step >= stop.at
                setting = f"stop.at={stop.at}" if at else f"stop.after={stop.after:g}"
                say_paused(config.out, training.step, training.steps, setting)
            return Pretrained(training, opened.config.out / ENCODER, results)


def _learn(opened: Opened, run: Run) -> tuple[Trained, _Shown]:
    config, learner = opened.config, opened.learner
    loader = Loader(
        learner.images,
        batch_size=config.batch_size,
        seed=config.seed,
        rank=run.world.rank,
        world=run.world.size,
        workers=config.data.workers,
    )
    # images from one panel to the next
    learned = config.batch_size * min(config.panels_every, config.total_steps(loader.steps_per_epoch))
    shown = _Shown(opened, run, learned)
    training = learn(
        learner,
        loader,
        config,
        run,
        title=f"pretrain {config.method.title}",
        periodic=shown.tasks,
        until=learner.stop.at,
        seconds=learner.stop.after,
    )
    if not training.finished:
        say_how_to_continue(config.out)
    return training, shown


class _Shown:
    """What is drawn and measured at every panel, and once more at the end.

    Args:
        learned: images that are learned from between two panels.
    """

    def __init__(self, opened: Opened, run: Run, learned: int) -> None:
        config, self.learner = opened.config, opened.learner
        self.panels = Panels(self.learner, config.method.title, run)
        self.ruler = Ruler(self.learner, learned) if self.learner.restorers else None
        self.tasks = [Periodic(config.panels_every, self.panels.show, at_end=False)]
        if (ruler := self.ruler) is not None:
            self.tasks.append(Periodic(config.panels_every, ruler.show, curve=ruler.curve, enough=ruler.flat))
        if opened.watched is not None:
            watch = Watch(
                self.learner.encoder,
                opened.watched,
                learned=learned,
                workers=config.data.workers,
                seed=config.seed,
                levels=self.learner.images.levels,
            )
            self.tasks.append(Periodic(config.panels_every, watch.show))

    @property
    def flat(self) -> bool:
        """Whether training has ended because its loss made no more progress."""
        return self.ruler is not None and self.ruler.flat()

    def last(self, step: int) -> Measured | None:
        """Draw the trained learner, and leave it in eval mode; returns its last measurement if it restores images."""
        self.learner.model.eval()
        self.panels.show(step)
        return None if self.ruler is None else self.ruler.result(step)
