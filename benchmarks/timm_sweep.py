"""Every timm family as an encoder: does it learn, and does the export match what it learned?

    python benchmarks/timm_sweep.py
    python benchmarks/timm_sweep.py --only convnext repvgg_a0

A family is a module of ``timm.models`` and a class of models in it; its smallest model by parameters stands for it. It
is pretrained by the stage itself, in float32, on four images of 32 px per step, for three steps (one above 60M
parameters), in its own process, so that a crash or a hang is a result. If Retouch refuses 32 px, the size that its
message names is tried next. A model has one of these outcomes:

- trained: its losses are finite. The exported folder opens in Retouch with the features that were learned, and in timm
  with the same. A classifier for fine-tuning gives logits, if timm has one. A run that is resumed before its last step
  ends with the same weights, bit for bit.
- refused: with a plain message, and also at every size that the message names.
- wrong, traceback, crashed, too slow: must not happen. The exit code is then 1.
- too large: more than 200M parameters; not tried.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

import timm
import torch
from record import RESULTS, record
from timm.models import list_modules
from torch import Tensor

import pretrain.export
import retouch
from common.encoders import Encoder
from common.encoders.export import export_encoder
from common.encoders.load import read_encoder_card
from common.encoders.small_stem import ENLARGED
from common.engine.checkpoint import list_checkpoints
from common.errors import UserError, one_line
from common.files import remove_folder

SIZE, STEPS, BATCH, CLASSES, SEED = 32, 3, 4, 5, 0
ONE_STEP, TOO_LARGE = 60, 200  # millions of parameters
PATIENCE = 1800.0  # seconds per model: on one slow core, attention of halonet takes many minutes
KNOWN = ("mobileone_s0", "repvgg_a0")  # not the smallest of their class; once ended in SIGSEGV
GOOD = {"trained", "refused", "too large"}
CLOSE = 1e-4  # relative difference of features: a reopened network may have another memory format


@dataclass(frozen=True)
class Model:
    """The model that stands for a family."""

    family: str
    name: str
    parameters: float  # millions


@dataclass
class Outcome:
    """The outcome of a model.

    Attributes:
        message: why it was refused, or what went wrong.
        size: side of the images it was trained on.
        refused: the sizes that were refused before, with the messages.
        plain_timm: whether timm alone opens the exported folder.
        layers: ``(D, h, w)`` of each map.
    """

    outcome: str
    message: str = ""
    size: int | None = None
    refused: dict[int, str] = field(default_factory=dict)
    plain_timm: bool | None = None
    model_args: dict[str, Any] = field(default_factory=dict)
    layers: tuple[tuple[int, int, int], ...] = ()
    seconds: float = 0.0


Work = Callable[[Model, Path], Outcome]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=(), metavar="NAME", help="modules or models; nothing is recorded")
    parser.add_argument("--again", action="store_true", help="add the outcomes of --only to the recorded ones")
    given = parser.parse_args()
    started, outcomes = time.perf_counter(), {}
    for model in families(tuple(given.only)):
        outcome = outcomes[model] = isolated(attempt, model)
        size = f"{outcome.size} px" if outcome.size else ""
        print(
            f"{model.family:46}{model.name:36}{model.parameters:6.1f}M  {outcome.outcome:10} {size:7}"
            f"{outcome.seconds:6.1f} s  {outcome.message}",
            flush=True,
        )
    models: dict[str, Any] = {model.name: {**asdict(model), **asdict(outcome)} for model, outcome in outcomes.items()}
    seconds = round(time.perf_counter() - started)
    if given.again:
        recorded = json.loads((RESULTS / "timm_sweep.json").read_text(encoding="utf-8"))["families"]
        models, seconds = {**recorded["models"], **models}, seconds + recorded["seconds"]
    counts = Counter(model["outcome"] for model in models.values())
    print(", ".join(f"{count} {name}" for name, count in counts.most_common()))
    if given.again or not given.only:
        found = {"steps": STEPS, "batch_size": BATCH, "seconds": seconds, "outcomes": dict(counts), "models": models}
        record("timm_sweep", {"families": found}, seed=SEED)
    return 0 if counts.keys() <= GOOD else 1


def families(only: tuple[str, ...] = ()) -> Iterator[Model]:
    """The smallest model of each class in each module that provides intermediate features, and the known ones.

    Args:
        only: the modules and models to keep; all by default.
    """
    for module in list_modules():
        smallest: dict[str, Model] = {}
        for name in timm.list_models(module=module):
            if only and not {module, name} & set(only):
                continue
            with torch.device("meta"):  # to count parameters without allocating them
                network = timm.create_model(name, num_classes=0)
            if not hasattr(network, "forward_intermediates"):
                continue
            family = f"{module}.{type(network).__name__}"
            model = Model(family, name, sum(parameter.numel() for parameter in network.parameters()) / 1e6)
            if name in KNOWN:
                yield model
            elif family not in smallest or model.parameters < smallest[family].parameters:
                smallest[family] = model
        yield from smallest.values()


# ---- in a process of its own


def isolated(work: Work, model: Model, *, patience: float = PATIENCE, method: str = "forkserver") -> Outcome:
    """The outcome of ``work`` in a new process, whether it returns, fails or crashes."""
    if model.parameters > TOO_LARGE:
        return Outcome("too large", f"more than {TOO_LARGE}M parameters; not tried")
    context: Any = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["timm", "pretrain.export"])  # imported once for all models
    answer, theirs = context.Pipe(duplex=False)
    folder = Path(tempfile.mkdtemp(prefix="timm-sweep-"))
    process = context.Process(target=_child, args=(work, model, folder, theirs))
    started = time.perf_counter()
    try:
        process.start()
        theirs.close()
        if not answer.poll(patience):
            return Outcome("too slow", f"no answer after {patience:g} s")
        outcome: Outcome = answer.recv()
        outcome.seconds = round(time.perf_counter() - started, 1)
        return outcome
    except EOFError:
        process.join()
        code = process.exitcode
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return Outcome("crashed", f"{how}: {_last_line(folder / 'log')}")
    finally:
        process.kill()
        process.join()
        shutil.rmtree(folder)


def _child(work: Work, model: Model, folder: Path, answer: Connection) -> None:
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    try:
        outcome = work(model, folder)
    except BaseException as error:
        traceback.print_exc()
        place = traceback.extract_tb(error.__traceback__)[-1]
        outcome = Outcome("traceback", f"{type(error).__name__} in {place.name}: {one_line(error, 200)}")
    answer.send(outcome)


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []
    return next((line for line in reversed(lines) if line.strip()), "")


# ---- what is tried


def attempt(model: Model, folder: Path) -> Outcome:
    """Train a model on images of ``SIZE``, or of the size that its refusal names; check what it exports."""
    torch.set_num_threads(1)
    size, refused = SIZE, dict[int, str]()
    while True:
        try:
            outcome = trained(model, size, folder / str(size))
        except UserError as error:
            named = re.search(r"set data\.image_size=(\d+)", str(error))
            refused[size] = str(error)
            if named and int(named[1]) not in refused:
                size = int(named[1])
                continue
            outcome = Outcome("refused", str(error))
        outcome.refused = refused
        return outcome


def trained(model: Model, size: int, out: Path) -> Outcome:
    """The outcome of one size.

    Raises:
        UserError: it is refused.
    """
    steps = STEPS if model.parameters <= ONE_STEP else 1
    settings = {
        "out": str(out),
        "seed": SEED,
        "steps": steps,
        "batch_size": BATCH,
        "precision": "float32",
        "log_every": 1,
        "panels_every": 1000,
        "checkpoint": {"every": 2},
        "data": {"source": "shapes", "limit": 4 * BATCH, "image_size": size, "workers": 0},
        "encoder": {"name": f"timm/{model.name}"},
        "wandb": {"mode": "disabled"},
    }
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(SEED))
    learned: list[Tensor] = []

    def export(encoder: Encoder, *given: Any) -> str:
        learned.extend(_maps(encoder, images))
        return export_encoder(encoder, *given)

    with mock.patch.object(pretrain.export, "export_encoder", export):
        run = retouch.pretrain(settings)
    assert run.encoder is not None
    card, encoder = read_encoder_card(run.encoder), retouch.load_encoder(run.encoder)
    problems = []
    losses = [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    if len(losses) != steps or not all(map(math.isfinite, losses)):
        problems.append(f"the losses are {losses}")
    if not _close(_maps(encoder, images), learned):
        problems.append("the reopened folder gives other features")
    if card.plain_timm and not _opens_in_timm(run.encoder, encoder, images):
        problems.append("timm opens the folder, but gives other features")
    if encoder.takes_classifier:
        encoder.add_classifier(CLASSES)
        with torch.no_grad():
            if encoder.logits(images).shape != (len(images), CLASSES):
                problems.append("its classifier gives no logits")
    if steps > 1:
        remove_folder(list_checkpoints(out / "checkpoints")[-1])  # as if killed in the last step
        if retouch.pretrain(settings, "resume=true").sha256 != run.sha256:
            problems.append("a resumed run ends with other weights")
    return Outcome(
        "wrong" if problems else "trained",
        "; ".join(problems),
        size,
        plain_timm=card.plain_timm,
        model_args=card.model_args,
        layers=card.layer_shapes,
    )


@torch.no_grad()
def _maps(encoder: Encoder, images: Tensor) -> list[Tensor]:
    training = encoder.training
    maps = encoder.eval().layers(images)
    encoder.train(training)
    return maps


@torch.no_grad()
def _opens_in_timm(folder: Path, encoder: Encoder, images: Tensor) -> bool:
    ours: Any = encoder.body
    plain = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    shown = encoder.prepare(images)
    expected = ours.forward_features(shown)
    if encoder.config.stem == "small":  # as the folder's note says
        shown = shown.repeat_interleave(ENLARGED, 2).repeat_interleave(ENLARGED, 3)
    found = plain.forward_features(shown)
    return _close([found], [expected]) if isinstance(found, Tensor) else _close(found, expected)


def _close(found: list[Tensor], expected: list[Tensor]) -> bool:
    pairs = zip(found, expected, strict=True)
    return all(float((one - other).abs().max()) <= CLOSE * float(other.abs().max()) for one, other in pairs)


if __name__ == "__main__":
    sys.exit(main())
