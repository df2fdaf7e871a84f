"""What the options of fine-tuning are worth on 2,000 labeled images of CIFAR-10.

    python benchmarks/fine_tuning.py --data PATH/TO/cifar10
    python benchmarks/fine_tuning.py --data PATH/TO/cifar10 --encoder runs/fine_tuning/encoder --only plain freeze_3
    python benchmarks/fine_tuning.py --data PATH/TO/cifar10 --encoder runs/fine_tuning/encoder --test

``--data`` holds ``train-*.parquet`` and ``test-*.parquet`` with columns ``image`` and ``label``. Without ``--encoder``,
a masking encoder is trained first on all training images, without their labels, for about three minutes.

Each seed draws its own 2,000 images from all training shards but the last: as many of each class, or for the entries
called imbalanced, 20 times as many of one class as of another, in an order of the classes that the seed draws. A tenth
of them chooses the step. All are scored on 5,000 images of the last training shard, as many of each class, so that
accuracy is balanced accuracy; choices are made by these scores. With ``--test``, the networks that the same call has
trained answer the test images too, once, when all training is done. Differences are from the plain fine-tuning of the
same draws, over images and seeds. Results are added to ``benchmarks/results/fine_tuning.json``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from record import record
from torch import Tensor

from common.data import Images, build_source, in_order, load_images
from common.encoders.load import read_encoder_card
from common.pixels import to_float
from common.recipes import stage_config
from common.runs.logs import setup_console
from finetune.classifier import open_classifier
from finetune.config import FinetuneConfig, ProbeConfig
from finetune.data import LabeledImages, load_labeled, open_sources
from finetune.full import finetune
from finetune.metrics import compare_seeds
from finetune.predictions import read_predictions
from finetune.probe import probe
from pretrain.config import PretrainConfig
from pretrain.run import pretrain

LABELED, SCORED, CLASSES = 2_000, 5_000, 10
RATIO = 20.0  # images of the most frequent class, by those of the rarest
BATCH = 500
PRETRAINING = ["steps=2000"]  # of the recipe mask_cifar10
FINETUNING = ["steps=300", "evaluate_every=50", "compare={linear_probe: false, from_scratch: false}"]
PROBING = ["knn=null", "damage=[]", "properties=false", "null_check=false"]
PROBING += ["baselines={random_init: false, pixels: false}"]
QUIET = ["overwrite=true", "wandb.mode=disabled", "data.workers=0"]
DRAWS = {True: "balanced", False: "imbalanced"}


class Variant(NamedTuple):
    """What is trained on each draw; ``None``: a linear probe of the frozen encoder."""

    settings: list[str] | None = []  # noqa: RUF012
    balanced: bool = True

    @property
    def base(self) -> str:
        """The entry that it is compared with."""
        return "plain" if self.balanced else "imbalanced"


VARIANTS = {
    "plain": Variant(),
    "freeze_stem": Variant(["freeze=stem"]),
    "freeze_3": Variant(["freeze=3"]),
    "head_start": Variant(["head_start=probe"]),
    "mixup": Variant(["mixup=0.2"]),
    "cutmix": Variant(["cutmix=1.0"]),
    "from_scratch": Variant(["encoder.from_scratch=true", "layer_decay=1.0"]),
    "linear_probe": Variant(None),
    "imbalanced": Variant(balanced=False),
    "imbalanced_class_weights": Variant(["class_weights=balanced"], balanced=False),
    "imbalanced_linear_probe": Variant(None, balanced=False),
}


# ---- the images


def counts_of(total: int, random: np.random.Generator | None = None) -> list[int]:
    """Images of each class: equally many; with a generator, in falling powers of ``RATIO`` and a random order."""
    if random is None:
        return [total // CLASSES] * CLASSES
    shares = RATIO ** -(np.arange(CLASSES) / (CLASSES - 1))
    return [int(count) for count in random.permutation(np.rint(total * shares / shares.sum()))]


def rows_of(labels: NDArray[np.int64], counts: Sequence[int], random: np.random.Generator) -> NDArray[np.int64]:
    """So many rows of each class, drawn without replacement, in ascending order."""
    drawn = [random.choice(np.flatnonzero(labels == one), count, replace=False) for one, count in enumerate(counts)]
    return np.sort(np.concatenate(drawn))


def write_draws(given: argparse.Namespace) -> None:
    """Below ``draws/``, the scored images, ``scored.parquet``, and the labeled ones of each seed, balanced or not."""
    *shards, last = sorted(given.data.glob("train-*.parquet"))
    labeled, scored = pa.concat_tables([pq.read_table(path) for path in shards]), pq.read_table(last)
    (given.out / "draws").mkdir(parents=True, exist_ok=True)

    def write(name: str, table: pa.Table, counts: Sequence[int], random: np.random.Generator) -> None:
        rows = rows_of(np.asarray(table["label"].to_pylist()), counts, random)
        pq.write_table(table.take(rows), given.out / "draws" / f"{name}.parquet")

    write("scored", scored, counts_of(given.scored), np.random.default_rng(0))
    for seed in range(given.seeds):
        random = np.random.default_rng(seed)
        write(f"balanced-{seed}", labeled, counts_of(given.labeled), random)
        write(f"imbalanced-{seed}", labeled, counts_of(given.labeled, random), random)


# ---- what is measured


def pretrained(given: argparse.Namespace) -> Path:
    """The folder of a masking encoder of all training images, without their labels."""
    settings = [f"out={given.out / 'encoder'}", f"data.source=parquet:{given.data}/train-*.parquet", *PRETRAINING]
    done = pretrain(stage_config(PretrainConfig, "mask_cifar10", [*settings, *QUIET]))
    if done.encoder is None:
        raise SystemExit("stopped before pretraining was done; nothing recorded")
    return done.encoder


class Answered(NamedTuple):
    """The answers of one trained network, or probe, to the scored images; and where it is."""

    run: Path
    answers: Tensor  # int64 [n], by number of the class
    labels: Tensor  # int64 [n]
    seconds: float


def trained(given: argparse.Namespace, encoder: Path, name: str, seed: int) -> Answered:
    """Train and score one entry on the draw of one seed."""
    run, started = given.out / f"{name}-{seed}", time.monotonic()
    settings, balanced = VARIANTS[name]
    draw, scored = (given.out / "draws" / f"{one}.parquet" for one in (f"{DRAWS[balanced]}-{seed}", "scored"))
    fixed = [f"out={run}", f"seed={seed}", f"data.train=parquet:{draw}", f"data.test=parquet:{scored}", *QUIET]
    if settings is None:
        probe(stage_config(ProbeConfig, "linear", [*fixed, f"encoder={encoder}", *PROBING]))
        column = "encoder.linear"
    else:
        where = f"encoder.path={encoder}"
        config = stage_config(FinetuneConfig, "full", [*fixed, where, *FINETUNING, *given.overrides, *settings])
        if finetune(config, images_of(config, read_encoder_card(encoder).image_size)) is None:
            raise SystemExit("stopped before training was done; nothing recorded")
        column = "tuned"
    [found] = read_predictions(run)
    return Answered(run, found.answers[column], found.labels, time.monotonic() - started)


def images_of(config: FinetuneConfig, size: int) -> LabeledImages:
    """The images of a draw, without a search for them among those of pretraining, which had no labels."""
    return load_labeled(open_sources(config.data, config.seed), config.data, size, config.seed)


@torch.no_grad()
def tested(run: Path, images: Images) -> Tensor:
    """The answers of the classifier of a run to test images, int64 ``[n]``, by number of the class."""
    classifier = open_classifier(run)
    numbers = torch.tensor([images.labels("label").names.index(name) for name in classifier.class_names])
    answers = [classifier(to_float(batch.images)).argmax(1) for batch in in_order(images, BATCH)]
    return numbers[torch.cat(answers)]


def summary(name: str, answers: Mapping[str, Tensor], labels: Tensor) -> dict[str, Any]:
    """The accuracy of an entry with each seed, and its difference from the plain one of the same draws.

    Args:
        answers: int64 ``[R n]`` of ``R`` seeds, by entry.
        labels: int64 ``[n]``.
    """
    each, base = (answers[name] == labels).double().mean(1), VARIANTS[name].base
    found: dict[str, Any] = {"accuracy": float(each.mean()), "accuracies": each.tolist(), "images": len(labels)}
    if name != base and base in answers and len(each) > 1:
        found["difference"] = compare_seeds(answers[name], answers[base], labels)._asdict()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--encoder", type=Path, help="a finished run of pretraining; by default one is made")
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS), metavar="NAME")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--labeled", type=int, default=LABELED)
    parser.add_argument("--scored", type=int, default=SCORED)
    parser.add_argument("--test", action="store_true", help="use the test images, once, at the end")
    parser.add_argument("--out", type=Path, default=Path("runs/fine_tuning"))
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the settings of fine-tuning")
    given = parser.parse_args()
    setup_console()
    write_draws(given)
    encoder = given.encoder or pretrained(given)
    card = read_encoder_card(encoder)
    found = {name: [trained(given, encoder, name, seed) for seed in range(given.seeds)] for name in given.only}
    scores = {"validation": {name: torch.stack([one.answers for one in runs]) for name, runs in found.items()}}
    labels = {"validation": next(iter(found.values()))[0].labels}
    if given.test:
        images = load_images(build_source(f"parquet:{given.data}/test-*.parquet"), card.image_size)
        scores["test"] = {name: torch.stack([tested(one.run, images) for one in runs]) for name, runs in found.items()}
        labels["test"] = images.labels("label").values
    trained_as = {"method": card.provenance.kind, "steps": card.provenance.steps, "seconds": card.provenance.seconds}
    entries = {
        name: {
            **{part: summary(name, answers, labels[part]) for part, answers in scores.items()},
            "settings": VARIANTS[name].settings,
            "overrides": given.overrides,
            "labeled": given.labeled,
            "seeds": given.seeds,
            "seconds": round(sum(one.seconds for one in runs) / len(runs), 1),
            "encoder": {**trained_as, "network": card.name, "sha256": card.sha256},
        }
        for name, runs in found.items()
    }
    for name, entry in entries.items():
        print(f"{name:26}", *(f"{part} {100 * entry[part]['accuracy']:.1f}" for part in scores))
    record("fine_tuning", entries, seed=0, add=True)


if __name__ == "__main__":
    main()
