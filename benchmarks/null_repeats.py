"""Whether a probe with labels at random gives chance, and its interval holds chance as often as it says.

    OMP_NUM_THREADS=1 python benchmarks/null_repeats.py --task color
    OMP_NUM_THREADS=1 python benchmarks/null_repeats.py --task warm --last

200 times: draw training images and random labels, choose the strength by cross-validation, refit, test. The encoder is
an untrained small CNN on ``shapes``. Of 95% intervals, 93 to 97% should hold chance. For contrast, Wilson's interval of
the same accuracies, which takes test images for independent: those of a class look alike, so it holds chance less
often.
``warm`` is a task of two classes: whether the color is one of the first four.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from record import record

from common.data import Labels, build_source, load_images
from common.encoders import EncoderConfig, build_encoder
from finetune.checks import FREEDOM, random_labels
from finetune.config import ProbeConfig
from finetune.features import Extraction, extract
from finetune.metrics import wilson_interval
from finetune.pooling import build_spaces
from finetune.probes import Candidates

TASKS = ("shape", "color", "texture", "warm")
IMAGES = 1000  # to train on, and to test on


def labels_of(labels: Labels, task: str) -> Labels:
    if task != "warm":
        return labels
    return Labels((labels.values < 4).long(), ("cold", "warm"), task)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument(
        "--last", action="store_true", help="features of the last layer alone, averaged: ten times as fast"
    )
    parser.add_argument("--repeats", type=int, default=200)
    given = parser.parse_args()
    column = "color" if given.task == "warm" else given.task
    how = Extraction(torch.device("cpu"), torch.float32, batch_size=256, workers=0)
    torch.manual_seed(0)
    encoder = build_encoder(EncoderConfig(model_args={"width": 16, "depth": 1}), image_size=32).freeze()
    layers: list[int | str] = [-1] if given.last else ["all"]
    poolings = ["avg"] if given.last else ["avg+avg2+max"]
    spaces, _ = build_spaces(encoder.layer_shapes, layers, poolings, 1 << 14)
    images = [load_images(build_source(f"shapes:{split}:{IMAGES}"), 32) for split in ("train", "test")]
    train, test = (extract(encoder, some, spaces[0].parts, how) for some in images)
    train_labels, test_labels = (labels_of(some.labels(column), given.task) for some in images)
    candidates, classes = Candidates(train, spaces, how.device), len(train_labels.names)
    once = -(-FREEDOM // (classes - 1) ** 2)
    started, found = time.process_time(), []
    with tempfile.TemporaryDirectory() as out:
        for repeat in range(given.repeats):
            config = ProbeConfig(out=Path(out), encoder=Path(out), seed=repeat)
            found.append(
                random_labels(config, candidates, spaces[0], train_labels, test, test_labels.values, range(once))
            )
    seconds = time.process_time() - started
    holds = [one.ci95[0] <= one.chance <= one.ci95[1] for one in found]
    total = IMAGES * once
    wilson = [wilson_interval(round(one.accuracy * total), total) for one in found]
    entry = {
        "classes": classes,
        "repetitions": once,
        "features": spaces[0].width,
        "repeats": given.repeats,
        "chance": 1 / classes,
        "mean_accuracy": round(statistics.mean(one.accuracy for one in found), 4),
        "deviation": round(statistics.stdev(one.accuracy for one in found), 4),
        "interval_holds_chance": statistics.mean(holds),
        "interval_above_chance": statistics.mean(one.ci95[0] > one.chance for one in found),
        "alarms": statistics.mean(one.above_chance for one in found),
        "wilson_holds_chance": statistics.mean(low <= 1 / classes <= high for low, high in wilson),
        "seconds_each": round(seconds / given.repeats, 3),
    }
    print(given.task, entry)
    record("null_repeats", {given.task: entry}, seed=0, add=True)


if __name__ == "__main__":
    main()
