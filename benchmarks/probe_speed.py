"""The probe's whole grid of L2 strengths compared with scikit-learn, in one run.

    python benchmarks/probe_speed.py --cifar10 PATH/TO/cifar10

Features: 128 random 6x6 filters, rectified, averaged over quarters of the image and standardized, which gives 512
columns as correlated as those of a real encoder; from CIFAR-10, or from ``shapes`` without it. Both sides get the same
float32 matrix, the same ten strengths and two threads; scikit-learn uses one thread if that is faster, because the
thread pools of numpy, scipy and OpenMP can hinder each other. It takes a few minutes.
Targets: at most a tenth of scikit-learn's time, every objective at most 1e-4 (relative) above its own, test accuracies
within 0.2 points.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any

import torch
from record import record
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, conv2d

from common.data import build_source, load_images
from common.pixels import to_float
from common.runs.logs import setup_console
from finetune.metrics import accuracy
from finetune.probes import Standardizer
from finetune.probes.linear import STRENGTHS
from finetune.solvers.gram import blocks
from finetune.solvers.logistic import fit_logistic, objective

THREADS, SEED, FILTERS = 2, 0, 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", help="folder of train-*.parquet and test-*.parquet; made-up images without it")
    parser.add_argument("--rows", type=int, default=50_000, help="training rows (default: 50000)")
    given = parser.parse_args()
    torch.set_num_threads(THREADS)
    setup_console()
    train, test = "shapes:train", "shapes:test"
    if given.cifar10:
        train, test = (f"parquet:{given.cifar10}/{split}-*.parquet" for split in ("train", "test"))
    X, y = features(train, given.rows)
    X_test, y_test = features(test, 10_000)
    standardize = Standardizer.of(X)
    standardize.apply_(X)
    standardize.apply_(X_test)
    strengths, classes = STRENGTHS["logistic"], int(y.max()) + 1

    fit_logistic(X[:1000], y[:1000], classes, strengths[:1])  # warm-up: threads and kernels start before the clock
    started, worked = time.perf_counter(), time.process_time()
    fit = fit_logistic(X, y, classes, strengths)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - worked
    right = accuracy(fit.predict(X_test), y_test)
    print(f"ours: {seconds:.2f} s for {len(strengths)} strengths", flush=True)

    trials = {threads: sklearn_fit(X[:5000], y[:5000], 1e-1, threads)["seconds"] for threads in (1, THREADS)}
    their_threads = min(trials, key=lambda threads: trials[threads])
    print(f"scikit-learn on 5,000 rows, seconds by threads: {trials}", flush=True)

    rows: list[dict[str, Any]] = []
    for index, l2 in enumerate(strengths):
        theirs = sklearn_fit(X, y, l2, their_threads)
        value = float(objective(X, y, theirs["weight"], theirs["bias"], [l2])[0])
        their_right = float((theirs["model"].predict(X_test.numpy()) == y_test.numpy()).mean())
        rows.append(
            {
                "l2": l2,
                "objective": float(fit.objective[index]),
                "objective_sklearn": value,
                "relative_excess": float(fit.objective[index]) / value - 1,
                "test_accuracy": float(right[index]),
                "test_accuracy_sklearn": their_right,
                "steps": fit.steps[index],
                "steps_sklearn": theirs["steps"],
                "seconds_sklearn": round(theirs["seconds"], 2),
                "cpu_seconds_sklearn": round(theirs["cpu_seconds"], 2),
            }
        )
        print(rows[-1], flush=True)
    total = sum(row["seconds_sklearn"] for row in rows)
    summary = {
        "seconds": round(seconds, 2),
        "seconds_sklearn": round(total, 2),
        "times_faster": round(total / seconds, 1),
        # of this process, all threads: hardly affected by other work on the machine
        "cpu_seconds": round(cpu_seconds, 2),
        "cpu_seconds_sklearn": round(sum(row["cpu_seconds_sklearn"] for row in rows), 2),
        "largest_relative_excess": max(row["relative_excess"] for row in rows),
        "largest_accuracy_difference": max(abs(row["test_accuracy"] - row["test_accuracy_sklearn"]) for row in rows),
    }
    print(summary)
    shape = {"rows": len(X), "features": X.shape[1], "classes": classes, "dtype": "float32"}
    shape |= {"threads": THREADS, "threads_sklearn": their_threads}
    name = "cifar10" if given.cifar10 else "shapes"
    record("probe_speed", {name: {**summary, "problem": shape, "strengths": rows}}, seed=SEED, add=True)


def features(spec: str, rows: int) -> tuple[Tensor, Tensor]:
    """Random convolutional features float32 ``[n 512]`` and labels ``[n]``."""
    images = load_images(build_source(spec), 32, limit=rows, workers=THREADS, cache="ram")
    filters = torch.randn(FILTERS, 3, 6, 6, generator=torch.Generator().manual_seed(SEED))
    filters -= filters.mean(dim=(1, 2, 3), keepdim=True)
    filters /= filters.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    assert images.pixels is not None
    parts = [
        adaptive_avg_pool2d(conv2d(to_float(part), filters, stride=2).relu_(), 2).flatten(1)
        for part in blocks(images.pixels, 500)
    ]
    return torch.cat(parts), images.labels().values


def sklearn_fit(X: Tensor, y: Tensor, l2: float, threads: int) -> dict[str, Any]:
    """scikit-learn's lbfgs on the same objective, with C = 1 / (n l2)."""
    model = LogisticRegression(C=1 / (len(X) * l2), tol=1e-4, max_iter=1000, solver="lbfgs")
    with threadpool_limits(threads), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        started, worked = time.perf_counter(), time.process_time()
        model.fit(X.numpy(), y.numpy())
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - worked
    weight = torch.from_numpy(model.coef_.T.copy()).to(X.dtype)[None]
    bias = torch.from_numpy(model.intercept_.copy()).to(X.dtype)[None]
    steps = int(model.n_iter_[0])
    return {
        "model": model,
        "weight": weight,
        "bias": bias,
        "steps": steps,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
    }


if __name__ == "__main__":
    main()
