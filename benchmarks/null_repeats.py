"""Whether a probe with random labels gives chance, and whether its interval covers chance as often as it claims.

    OMP_NUM_THREADS=1 python benchmarks/null_repeats.py

For each task, 200 repetitions of the whole procedure of a user's probe: draw training images and random labels, choose
layer, pooling and strength by cross-validation, refit, test. The encoder is an untrained small CNN on ``shapes``. Of
95% intervals, 93 to 97% should cover chance. With 200, the share itself has a standard error of 1.5 points: where the
true one is 95%, it is outside 93 to 97% in about one of six benchmarks. So ``regrouped_holds_chance`` measures it more
closely: as the labels meant nothing, the names of a classifier's answers may be exchanged, and so may the classifiers
of one check; 20,000 checks are made of the same answers in this way. For contrast, Wilson's interval of the same
accuracies, which assumes independent test images: those of a class look alike, so it covers chance less often. ``warm``
is a task of two classes: whether the color is one of the first four. Each task takes four to five minutes.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from record import record

from common.data import Labels, build_source, load_images
from common.encoders import EncoderConfig, build_encoder
from finetune.checks import FREEDOM, null_check, random_answers
from finetune.features import Extraction, Features, extract
from finetune.metrics import wilson_interval
from finetune.pooling import build_spaces
from finetune.probes import Candidates, Linear, Search

TASKS = ("shape", "color", "texture", "warm")
LINEAR, SEARCH = Linear(), Search()  # the probe with default settings
TRAIN, TEST = 1000, 1000  # images
REGROUPED = 20_000  # checks that are made of the answers of all
SIDE, WIDTH = 16, 2  # px, and channels of the first map: small features, so that all of them are searched 200 times


def labels_of(labels: Labels, task: str) -> Labels:
    if task != "warm":
        return labels
    return Labels((labels.values < 4).long(), ("cold", "warm"), task)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--repeats", type=int, default=200)
    given = parser.parse_args()
    how = Extraction(torch.device("cpu"), torch.float32, batch_size=256, workers=0)
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig(model_args={"width": WIDTH, "depth": 1}), image_size=SIDE).freeze()
    spaces, _ = build_spaces(encoder.layer_shapes, SEARCH.layers, SEARCH.poolings, SEARCH.max_width)
    parts = sorted({part for space in spaces for part in space.parts})
    images = [load_images(build_source(spec), SIDE) for spec in (f"shapes:train:{TRAIN}", f"shapes:test:{TEST}")]
    train, test = (extract(encoder, some, parts, how) for some in images)
    candidates = Candidates(train, spaces, how.device)
    for task in given.tasks:
        column = "color" if task == "warm" else task
        train_labels, test_labels = (labels_of(some.labels(column), task) for some in images)
        entry = repeated(candidates, train_labels, test, test_labels, given.repeats)
        print(task, entry)
        record("null_repeats", {task: entry}, seed=0, add=True)


def repeated(
    candidates: Candidates, train_labels: Labels, test: Features, test_labels: Labels, repeats: int
) -> dict[str, float]:
    """The results of this many probes of random labels."""
    classes = len(train_labels.names)
    once = -(-FREEDOM // (classes - 1) ** 2)
    started = time.process_time()
    answers = [
        random_answers(LINEAR, SEARCH, repeat, candidates, train_labels, test, test_labels.values, range(once))
        for repeat in range(repeats)
    ]
    seconds = time.process_time() - started
    found = [null_check(one.confusions, one.images) for one in answers]
    holds = [one.ci95[0] <= one.chance <= one.ci95[1] for one in found]
    total = TEST * once
    wilson = [wilson_interval(round(one.accuracy * total), total) for one in found]
    return {
        "classes": classes,
        "repetitions": once,
        "images": found[0].images,
        "spaces": len(candidates.spaces),
        "widest": max(space.width for space in candidates.spaces),
        "repeats": repeats,
        "chance": 1 / classes,
        "mean_accuracy": round(statistics.mean(one.accuracy for one in found), 4),
        "deviation": round(statistics.stdev(one.accuracy for one in found), 4),
        "interval_holds_chance": statistics.mean(holds),
        "interval_above_chance": statistics.mean(one.ci95[0] > one.chance for one in found),
        "regrouped_holds_chance": round(regrouped(torch.cat([one.confusions for one in answers]), once), 4),
        "alarms": statistics.mean(one.above_chance for one in found),
        "wilson_holds_chance": statistics.mean(low <= 1 / classes <= high for low, high in wilson),
        "seconds_each": round(seconds / repeats, 3),
    }


def regrouped(confusions: torch.Tensor, once: int) -> float:
    """The share of intervals that hold chance among checks of ``once`` classifiers each, drawn from counts ``[R C C]``.

    The names of the answers of each drawn classifier are exchanged at random.
    """
    generator = torch.Generator().manual_seed(0)
    classes, held = confusions.shape[-1], 0
    for _ in range(REGROUPED):
        drawn = torch.randperm(len(confusions), generator=generator)[:once]
        names = [torch.randperm(classes, generator=generator) for _ in range(once)]
        one = null_check(torch.stack([confusions[i][:, order] for i, order in zip(drawn, names, strict=True)]), 0)
        held += one.ci95[0] <= one.chance <= one.ci95[1]
    return held / REGROUPED


if __name__ == "__main__":
    main()
