"""Shared fixtures: where real images are, and a quiet, thread-limited torch."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
import torch

from tests.browser import Browser, chromium


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--gpu", action="store_true", help="let the tests use the GPU: for tests/test_gpu.py")


def pytest_configure(config: pytest.Config) -> None:
    """Hide the GPU from the tests and the processes that they start: they compare with the CPU, often to the last bit.

    Those of the GPU are a run of their own.
    """
    if not config.getoption("--gpu"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: at the end, one of them would keep one process busy while the others idle."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


# Tests are small: a second thread gains nothing, and waits badly where other processes share the cores.
torch.set_num_threads(1)
# So it is for the BLAS of numpy and scikit-learn, and for what tests start; workers of pytest-xdist start with it too.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# each run of W&B starts a process of it: what a test reads of them, it asks for with wandb.mode=offline
os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("WANDB_SILENT", "true")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# the shell lets what it starts in the background ignore Ctrl-C; tests of it need it
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real CIFAR-10 and Imagenette as parquet: ``RETOUCH_TEST_DATA``, or ``shared/data`` next to the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("RETOUCH_TEST_DATA", default))
    if not (folder / "cifar10").is_dir():
        pytest.skip(f"real images are not at {folder}; set RETOUCH_TEST_DATA to run this test")
    return folder


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """For tests that are marked with ``needs_chromium``: starting it takes a second or more."""
    with chromium(tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_the_disk() -> Iterator[None]:
    """What is written and not yet on the disk is lost in a power cut alone; to wait for a busy disk takes minutes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def _caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for the cache of each test, made by whoever writes to it: pytest looks at all folders to number one."""
    folder = tmp_path_factory.mktemp("caches")
    return (folder / f"{number}" for number in count())


@pytest.fixture(autouse=True)
def _isolated_cache(_caches: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep feature caches of tests out of the home directory."""
    monkeypatch.setenv("RETOUCH_CACHE", str(next(_caches)))


@pytest.fixture
def few_strengths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linear probes try two strengths by default, for tests of what does not depend on the grid."""
    monkeypatch.setattr("finetune.probes.linear.STRENGTHS", {"logistic": (1e-3, 1e-1), "ridge": (1e-3, 1e-1)})


@pytest.fixture(autouse=True)
def _fresh_logger() -> None:
    """Undo what a command did to the program's one logger: its level and its console handler stay when it has ended.

    Tests see what the console would show.

    Before the test, not after: a run made by a fixture of a whole module comes before what a test's own fixtures save.
    """
    logger = logging.getLogger("retouch")
    logger.setLevel(logging.INFO)
    logger.handlers.clear()
