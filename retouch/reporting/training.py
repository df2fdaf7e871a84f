"""The part of the page about training: curves, what they mean, faults that were found, and restored images."""

from __future__ import annotations

import re

from common.words import counted
from pretrain.report.panels import panel_images
from pretrain.ruler.measured import Measured
from retouch.reporting.blocks import Block, Figure, Figures, Grid, Panel, Points, Prose
from retouch.reporting.charts import Strip, curves_chart
from retouch.reporting.damage import damage_of
from retouch.reporting.facts import Facts
from retouch.reporting.pictures import TILE, picture, read_picture
from retouch.reporting.runs import Curves, FineTuning, Pretraining
from retouch.reporting.sentences import listed, number

INTRODUCED = 5  # kinds of damage that are named at the top of the page
LEAST = 3  # points of a curve of the loss: two are a straight line, which shows nothing
SPAN = 1.0  # dB, the least that an axis of PSNR spans: less would make differences look large that cannot be seen
SOUND = "No training fault was found: the network does not copy its input or collapse, and training does not diverge."
ALL_SOUND = (
    "No training fault was found in {}: the networks do not copy their input or collapse, and training does not "
    "diverge."
)
RULER = (
    "PSNR: how close restored images are to the originals, in decibels; higher is closer, and 10 more means a tenth "
    "of the squared error.",
    "The network is compared with simple restorers that do not learn, such as a filter, the mean of all images, or "
    "leaving the damage as it is.",
    "If it is no better than these, it may still have learned useful features, as colorization often does: the probe "
    "decides.",
    "Effective rank: how many independent directions the channels of the encoder's last map use (a probe may also read "
    "earlier maps). Training often halves it. Below a tenth of the untrained network's rank, the features have "
    "collapsed, and the text says so.",
)
HELD_OUT = (
    "The loss is what training lowers. In the charts it is on training images, cropped and flipped as in training. The "
    "two losses in the text are on images without these changes: compare them with each other, not with the chart."
)


def training_blocks(facts: Facts) -> tuple[Block, ...]:
    """The curves of each run, and what they mean."""
    found = [_trained(run) for run in facts.pretraining]
    found += [_tuned(run) for run in facts.finetuning]
    figures = tuple(figure for figure in found if figure is not None)
    rulers = [run.results.ruler for run in facts.pretraining if run.results.ruler is not None]
    held_out = any(ruler.held_out_loss is not None for ruler in rulers)
    learned, said = learned_sentences(facts), training_sentences(facts)
    return (
        *((Points(tuple(learned)),) if learned else ()),
        *((Prose((*RULER, *((HELD_OUT,) if held_out else ())), small=True),) if rulers else ()),
        *((Figures(figures),) if figures else ()),
        *((Points(tuple(said)),) if said else ()),
    )


def _trained(run: Pretraining) -> Figure | None:
    ruler = run.results.ruler
    best = max(ruler.restorers, key=ruler.restorers.__getitem__) if ruler is not None and ruler.restorers else None
    level = None if ruler is None or best is None else ruler.restorers[best]
    name = "PSNR of restored images, dB" + ("" if best is None else f"; dashed: {best}")
    return _curves(run.origin.name, run.curves, Strip(name, run.curves.psnr, 110, beside=level, least=SPAN))


def _tuned(run: FineTuning) -> Figure | None:
    return _curves(run.origin.name, run.curves, Strip("accuracy on held-out images", run.curves.accuracy, 90))


def _curves(name: str, curves: Curves, goal: Strip) -> Figure | None:
    if len(curves.loss.steps) < LEAST:
        return None
    strips = (
        Strip("loss", curves.loss, 150, wide=True),
        Strip("loss on held-out images", curves.held_out, 110, wide=True),
        goal,
        Strip("learning rate", curves.rate, 80),
    )
    first, last = curves.loss.values[0], curves.loss.values[-1]
    caption = f"{name}: loss {first:.3g} → {last:.3g} in {curves.loss.steps[-1]:,} steps"
    return Figure(curves_chart(f"Training of {name}", strips), caption)


# ---- in plain English


def learned_sentences(facts: Facts) -> list[str]:
    """Which network each run trained, and which damage it learned to restore; runs with the same answer together."""
    found: dict[str, list[str]] = {}
    for run in facts.pretraining:
        if run.card is not None:
            damage = damage_of(run.card.provenance.pretext)
            task = f"; the images to restore had {damage}" if damage else ""
            found.setdefault(f"{run.card.name}, {run.card.parameters:,} parameters{task}", []).append(run.origin.name)
    return [f"{listed(names)}: {what}." for what, names in found.items()]


def introduced(facts: Facts) -> str:
    """What each network learned to restore, in a few words; empty if there is none, or if there are many."""
    found: dict[str, list[str]] = {}
    for run in facts.pretraining:
        if run.card is not None and (damage := damage_of(run.card.provenance.pretext)):
            short = re.sub(r", drawn per image| \([^)]*\)", "", damage)
            found.setdefault(short, []).append(run.origin.name)
    said = [f"{listed(names)} learned to restore images that had {damage}" for damage, names in found.items()]
    return f"Without labels, {'; '.join(said)}." if 0 < len(said) <= INTRODUCED else ""


def training_sentences(facts: Facts) -> list[str]:
    """The outcome of each run's training, and what was found."""
    return [*restoration(facts), *tuning(facts)]


def restoration(facts: Facts) -> list[str]:
    """How well each network restores images compared with trivial restorers, any fault, and what else to know."""
    ruled = _ruled(facts)
    sound = [name for name, ruler in ruled if not any(one.is_fault for one in ruler.verdicts)]
    said = []
    for name, ruler in ruled:
        alone = (SOUND,) if sound == [name] else ()
        said.append(f"{name}: {' '.join([f'{ruler.sentence}.', *alone, *(one.sentence for one in ruler.verdicts)])}")
    if len(sound) > 1:
        who = f"any of these {len(sound)} runs" if len(sound) == len(ruled) else listed(sound)
        said.append(ALL_SOUND.format(who))
    return said


def tuning(facts: Facts) -> list[str]:
    """Which step of each trained network was kept."""
    return [
        f"{run.origin.name}: the weights of step {choice.step:,} of {choice.of_steps:,} were kept, which were best on "
        f"{counted(run.result.tuned.n_val, 'held-out training image')} ({number(choice.val_accuracy)}%)."
        for run in facts.finetuning
        for choice in [run.result.tuned.choice]
    ]


def wrong(facts: Facts) -> list[str]:
    """The faults that training itself found."""
    return [f"{name}: {one.text}." for name, ruler in _ruled(facts) for one in ruler.verdicts if one.is_fault]


def remarks(facts: Facts) -> list[str]:
    """Findings of training that are not faults."""
    return [f"{name}: {one.text}." for name, ruler in _ruled(facts) for one in ruler.verdicts if not one.is_fault]


def _ruled(facts: Facts) -> list[tuple[str, Measured]]:
    """The name of each run that was measured while it trained, and its last measurement."""
    found = [(run.origin.name, run.results.ruler) for run in facts.pretraining]
    return [(name, ruler) for name, ruler in found if ruler is not None]


# ---- restored images


def restored_blocks(facts: Facts) -> tuple[Block, ...]:
    """Images of the last panel of each run."""
    return tuple(block for run in facts.pretraining if (block := _panel(run)) is not None)


def _panel(run: Pretraining) -> Block | None:
    """The images of the last panel, row by row; or the whole picture if it cannot be split."""
    drawn = None if run.panel is None else read_picture(run.panel)
    if drawn is None:
        return None
    method = "" if run.method == run.origin.name else f"{run.method}, "
    caption = f"{run.origin.name}: {method}some of its training images"
    images = None if run.card is None else panel_images(drawn, run.card.image_size)
    if images is None:
        return Panel(picture(drawn, f"Original, damaged and restored images of {run.origin.name}"), caption)
    rows = ((label, tuple(picture(image, label, most=TILE) for image in some)) for label, some in images.items())
    return Grid(tuple(rows), caption)
