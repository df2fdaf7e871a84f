"""The speed of ``retouch predict``, compared with the bare network on decoded images in memory.

    python benchmarks/predict.py --cifar10 PATH/TO/cifar10 --photographs PATH/TO/imagenette128

The classifier is from a probe of ``small_cnn`` (with random weights, which are as fast as any). Bare network: batches,
one after the other, from uint8 tensors to logits. Predict: the whole command, from its settings to the CSV file; once
from parquet, and once from a folder of JPEG files made from the same images; and with ``--photographs``, once more with
photographs, of which the network sees 64 px. They take turns, so that drift in speed affects all; the median ratio is
reported. By default the network computes with one thread fewer than there are cores, and one process decodes: a core
that decodes is not available to the network. Target: 90% of the bare network's images/s. The bare network is also timed
beside a process that decodes the same images, since cores share memory and heat: what it loses so, no program can
regain.

A stage keeps freed memory (``common/machine/allocation.py``), which makes the bare network faster, too. So the bare
network is timed in this process, which does, and in fresh processes with the C library's defaults: the loop that
somebody would write without Retouch. Results: ``benchmarks/results/predict.json``.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import torch
from record import record

import retouch
from common.data import build_source, load_images
from common.encoders import EncoderConfig, build_encoder
from common.encoders.export import export_encoder
from common.machine.cores import usable_cores
from common.machine.layout import channels_last
from common.machine.precision import autocast, resolve_precision
from common.pixels import to_float, to_pil
from common.runs.logs import setup_console
from finetune.applied import Applied
from finetune.classifier import open_classifier
from finetune.predict.run import PredictResult

SIDE, LARGER, BATCH, SEED = 32, 64, 256, 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", help="folder of train-*.parquet and test-*.parquet; generated images without it")
    parser.add_argument("--photographs", help="folder of train-*.parquet with photographs")
    parser.add_argument("--images", type=int, default=10_000, help="images per pass (default: 10000)")
    parser.add_argument("--pairs", type=int, default=5, help="passes of each kind (default: 5)")
    parser.add_argument("--threads", type=int, default=max(1, usable_cores() - 1), help="threads of the network")
    parser.add_argument("--workers", type=int, default=1, help="processes that decode (default: 1)")
    parser.add_argument("--encoder", type=Path, help="a run or encoder in place of small_cnn with random weights")
    parser.add_argument("--precision", default="auto", help="of the network (default: auto)")
    parser.add_argument("--plain", nargs=2, metavar=("PROBE", "SOURCE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.plain:
        network = network_alone(Path(given.plain[0]), given.plain[1], given)
        print(seconds(network))
        return
    setup_console()
    train, test = "shapes", f"shapes:test:{given.images}"
    if given.cifar10:
        train, test = (f"parquet:{given.cifar10}/{split}-*.parquet" for split in ("train", "test"))
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        probe = probed(home, train, given.encoder)
        jpegs = as_jpegs(home / "jpegs", test, given.images)
        cases = [("parquet" if given.cifar10 else "shapes", probe, test), ("jpeg", probe, str(jpegs))]
        if given.photographs:
            photographs = f"parquet:{given.photographs}/train-*.parquet"
            cases.append(("photographs", probed(home / "larger", photographs, given.encoder, LARGER), photographs))
        results = {name: compared(home, which, source, given) for name, which, source in cases}
    kind = "" if given.precision == "auto" else f"_{given.precision}"
    record("predict", {f"{name}{kind}": one for name, one in results.items()}, seed=SEED, add=True)


def probed(home: Path, train: str, encoder: Path | None, size: int = SIDE) -> Path:
    """The run of a small probe of images of this size."""
    if encoder is None:
        torch.manual_seed(SEED)
        encoder = home / "encoder"
        export_encoder(build_encoder(EncoderConfig(), image_size=size), encoder)
    settings = [f"encoder={encoder}", f"data.train={train}", "data.limit=1000", "data.test_limit=200"]
    settings += ["data.task=color"] if train == "shapes" else []
    alone = ["knn=null", "damage=[]", "properties=false", "null_check=false", "probe.l2=[0.01]"]
    alone += ["baselines={random_init: false, pixels: false}"]
    retouch.probe("linear", *settings, *alone, f"out={home / 'probe'}", "wandb.mode=disabled")
    return home / "probe"


def as_jpegs(folder: Path, source: str, count: int) -> Path:
    """The same images as JPEG files of four times the side, as photographs are larger than the network's input."""
    folder.mkdir()
    images = load_images(build_source(source), SIDE, limit=count)
    for start in range(0, len(images), 1000):
        rows = torch.arange(start, min(start + 1000, len(images)))
        for row, image in zip(rows.tolist(), images.rows(rows), strict=True):
            to_pil(image).resize((4 * SIDE, 4 * SIDE)).save(folder / f"{row:05d}.jpg", quality=90)
    return folder


def compared(home: Path, probe: Path, source: str, given: argparse.Namespace) -> dict[str, Any]:
    """Images/s of predict, and of the bare network in this process and in fresh ones, in turn."""
    network = network_alone(probe, source, given)

    def predict() -> PredictResult:
        data = [f"data.source={source}", f"data.limit={given.images}", f"data.workers={given.workers}"]
        run = [f"out={home / 'predicted'}", "overwrite=true", f"batch_size={BATCH}", "wandb.mode=disabled"]
        run += [f"precision={given.precision}"]
        return retouch.predict(str(probe), *data, *run)

    predict()  # from here on, this process keeps freed memory
    triples = [(seconds(network), seconds(predict), plain_seconds(probe, source, given)) for _ in range(given.pairs)]
    ratios = [alone / whole for alone, whole, _ in triples]
    with decoding(source, open_classifier(probe).image_size, given.images):
        beside = statistics.median(seconds(network) for _ in range(given.pairs))

    count = min(int(given.images), len(build_source(source)))

    def speed(place: int) -> int:
        return round(count / statistics.median(triple[place] for triple in triples))

    return {
        "images": count,
        "workers": given.workers,
        "batch_size": BATCH,
        "bare_images_per_second": speed(0),
        "predict_images_per_second": speed(1),
        "plain_bare_images_per_second": speed(2),
        "speed_relative_to_bare_network": round(statistics.median(ratios), 4),
        "speed_relative_to_plain_bare_network": round(
            statistics.median(plain / whole for _, whole, plain in triples), 4
        ),
        "bare_images_per_second_beside_a_process_that_decodes": round(count / beside),
        "all_ratios": [round(ratio, 4) for ratio in ratios],
    }


def network_alone(probe: Path, source: str, given: argparse.Namespace) -> Callable[[], object]:
    """The bare network on decoded images, ready: its threads and kernels have started."""
    classifier = open_classifier(probe)
    images = load_images(build_source(source), classifier.image_size, limit=given.images, workers=given.workers)
    pixels = images.rows(torch.arange(len(images)))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    channels_last(classifier, device)
    precision = resolve_precision(given.precision, device)
    bare(classifier, pixels[: 4 * BATCH], device, precision)
    return partial(bare, classifier, pixels, device, precision)


def plain_seconds(probe: Path, source: str, given: argparse.Namespace) -> float:
    """Seconds of the bare network in a fresh process with the C library's defaults."""
    options = [f"--images={given.images}", f"--threads={given.threads}", f"--workers={given.workers}"]
    options += [f"--precision={given.precision}"]
    command = [sys.executable, __file__, "--plain", str(probe), source, *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


@contextmanager
def decoding(source: str, size: int, count: int) -> Iterator[None]:
    """A process decodes the images again and again."""
    context = get_context("spawn")
    started, ended = context.Event(), context.Event()
    process = context.Process(target=decode, args=(source, size, count, started, ended))
    process.start()
    started.wait()
    yield
    ended.set()
    process.join()


def decode(source: str, size: int, count: int, started: Event, ended: Event) -> None:
    torch.set_num_threads(1)
    images = load_images(build_source(source), size, limit=count, cache="none")
    while not ended.is_set():
        for rows in torch.split(torch.arange(len(images)), BATCH):
            images.rows(rows)
            started.set()
            if ended.is_set():
                return


def bare(classifier: Applied, pixels: torch.Tensor, device: torch.device, precision: torch.dtype) -> list[torch.Tensor]:
    """Logits of decoded images, uint8 ``[N 3 S S]``, batch by batch."""
    with torch.inference_mode(), autocast(device, precision):
        return [classifier(to_float(batch.to(device))).cpu() for batch in torch.split(pixels, BATCH)]


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
