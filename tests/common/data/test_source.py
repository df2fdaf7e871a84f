"""One contract over every kind of source."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from common.data import Source, Subset, build_source, load_images
from common.data.folder import FolderSource
from common.data.patches import PatchesSource
from common.errors import UserError
from tests.common.data.samples import (
    write_csv,
    write_dtd,
    write_eurosat,
    write_folder,
    write_list,
    write_mnist,
    write_parquet,
    write_zip,
)

Make = Callable[[Path], Source]

SOURCES: dict[str, Make] = {
    "shapes": lambda folder: build_source("shapes:train:6"),
    "photos": lambda folder: build_source("photos:train:6"),
    "folder": lambda folder: build_source(f"folder:{write_folder(folder / 'photos')}"),
    "parquet": lambda folder: build_source(f"parquet:{write_parquet(folder / 'a.parquet').parent}/*.parquet"),
    "hf": lambda folder: build_source(f"hf:{write_folder(folder / 'photos')}:train"),
    "torchvision, train=": lambda folder: build_source("torchvision:MNIST", root=str(write_mnist(folder))),
    "torchvision, no split": lambda folder: build_source("torchvision:EuroSAT", root=str(write_eurosat(folder))),
    "torchvision, split=": lambda folder: build_source("torchvision:DTD", root=str(write_dtd(folder))),
    "csv": lambda folder: build_source(f"csv:{write_csv(folder)}"),
    "list": lambda folder: build_source(f"list:{write_list(folder)}"),
    "zip": lambda folder: build_source(f"zip:{write_zip(folder)}"),
    "patches": lambda folder: PatchesSource(FolderSource(str(write_folder(folder / "photos"))), each=1),
    "subset": lambda folder: Subset(build_source("shapes:train:9"), torch.tensor([7, 1, 4, 2, 8, 0]), "some"),
}


UNLABELED = ("photos", "patches")


@pytest.fixture(params=SOURCES)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    return SOURCES[request.param](tmp_path)


@pytest.fixture(params=[name for name in SOURCES if name not in UNLABELED])
def labeled(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    return SOURCES[request.param](tmp_path)


def test_every_row_is_a_picture_that_says_where_it_is_from(made: Source) -> None:
    images = load_images(made, 12)
    assert images.pixels is not None
    assert images.pixels.shape == (len(made), 3, 12, 12)
    assert images.pixels.dtype == torch.uint8
    assert len({images.where(row) for row in range(len(made))}) == len(made) >= 4
    assert images.pixels.unique(dim=0).shape[0] == len(made)


def test_labels_are_classes_of_the_chosen_rows(labeled: Source) -> None:
    labels = labeled.labels()
    assert labels.task == labeled.tasks[0]
    assert labels.values.dtype == torch.int64
    assert labels.values.shape == (len(labeled),)
    assert 0 <= int(labels.values.min()) <= int(labels.values.max()) < len(labels.names)
    rows = torch.tensor([3, 0, 3])
    assert torch.equal(labeled.labels(None, rows).values, labels.values[rows])


def test_unknown_task_is_refused_with_the_known_ones(labeled: Source) -> None:
    with pytest.raises(UserError, match="no task 'breed'; it has"):
        labeled.labels("breed")


def test_tasks_meant_where_none_is_named_are_its_own(labeled: Source) -> None:
    assert labeled.tasks[0] in labeled.default_tasks()
    assert set(labeled.default_tasks()) <= set(labeled.tasks)
    assert Subset(labeled, torch.arange(3), "some").default_tasks() == labeled.default_tasks()


@pytest.mark.parametrize("name", UNLABELED)
def test_a_source_without_labels_says_so(name: str, tmp_path: Path) -> None:
    source = SOURCES[name](tmp_path)
    assert source.tasks == ()
    for ask in (source.labels, source.resolve, lambda task: source.default_tasks()):
        with pytest.raises(UserError, match="has no labels, but labels are needed here"):
            ask(None)


def test_a_source_at_another_size_has_the_same_rows(made: Source) -> None:
    for size in (8, 12):
        sized = made.at(size)
        assert (len(sized), sized.spec, sized.tasks) == (len(made), made.spec, made.tasks)
        assert [sized.where(row) for row in range(len(made))] == [made.where(row) for row in range(len(made))]


def test_sources_cross_to_worker_processes(made: Source) -> None:
    there = pickle.loads(pickle.dumps(made))
    assert there.fingerprint == made.fingerprint
    assert torch.equal(
        load_images(there, 8, limit=3).rows(torch.arange(3)), load_images(made, 8, limit=3).rows(torch.arange(3))
    )


def test_opening_again_gives_the_same_fingerprint(tmp_path: Path) -> None:
    folder = f"folder:{write_folder(tmp_path / 'a')}"
    listed = (f"csv:{write_csv(tmp_path / 'b')}", f"list:{write_list(tmp_path / 'c')}", f"zip:{write_zip(tmp_path)}")
    for kind in ("shapes:train:6", "photos:train:6", folder, f"patches:{folder}", f"hf:{tmp_path / 'a'}", *listed):
        first, again = build_source(kind).fingerprint, build_source(kind).fingerprint
        assert first == again
        assert len(first) == 64


def test_fingerprint_follows_the_files(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "photos")
    table = write_parquet(tmp_path / "a.parquet")
    archive = write_zip(tmp_path)
    listed = [write_csv(tmp_path / "b"), write_list(tmp_path / "c")]
    specs = [f"folder:{folder}", f"parquet:{table}", f"zip:{archive}", f"csv:{listed[0]}", f"list:{listed[1]}"]
    before = [build_source(spec).fingerprint for spec in specs]
    for path in (folder / "cat" / "0.png", table, archive, *(file.parent / "cat" / "0.png" for file in listed)):
        os.utime(path, ns=(1, 1))
    after = [build_source(spec).fingerprint for spec in specs]
    assert not set(before) & set(after)


@pytest.mark.parametrize("name", ["csv", "list", "zip"])
def test_files_are_read_at_random_by_several_processes(name: str, tmp_path: Path) -> None:
    images = load_images(SOURCES[name](tmp_path), 8, cache="none", workers=2)
    rows = torch.tensor([5, 0, 3, 3, 1])
    together = torch.cat([batch.images for batch in images.batches(rows.split(1), workers=2)])
    assert torch.equal(together, images.rows(rows))


def test_real_parquet_gives_cifar10(shared_data: Path) -> None:
    source = build_source(f"parquet:{shared_data}/cifar10/test-*.parquet")
    assert len(source) == 10_000
    labels = source.labels()
    assert labels.names[:3] == ("airplane", "automobile", "bird")
    assert torch.bincount(labels.values).tolist() == [1000] * 10
    assert load_images(source, 32, limit=20).pixels is not None


def test_a_source_that_was_published_with_a_test_set_brings_it(tmp_path: Path) -> None:
    shapes = build_source("shapes:train:50", label="color", seed=3)
    test = shapes.published_test()
    assert test is not None
    assert (test.spec, test.tasks) == ("shapes:test:4000", shapes.tasks)
    assert test.fingerprint == build_source("shapes:test").fingerprint  # whatever the seed of the training set

    root = str(write_mnist(tmp_path))
    mnist = build_source("torchvision:MNIST", root=root)
    test = mnist.published_test()
    assert test is not None
    assert test.fingerprint == build_source("torchvision:MNIST:test", root=root).fingerprint != mnist.fingerprint
    assert build_source("torchvision:MNIST:train", root=root).published_test() is None  # the user named a split


def test_a_test_split_of_the_hub_is_found_and_its_absence_is_no_error(tmp_path: Path) -> None:
    with_test = tmp_path / "with_test"
    write_parquet(with_test / "train.parquet")
    assert build_source(f"hf:{with_test}").published_test() is None
    write_parquet(with_test / "test.parquet")
    source = build_source(f"hf:{with_test}")
    test = source.published_test()
    assert test is not None
    assert test.tasks == source.tasks
    assert test.fingerprint != source.fingerprint
    assert build_source(f"hf:{with_test}:train").published_test() is None


@pytest.mark.parametrize(
    "name", ["folder", "parquet", "csv", "list", "zip", "photos", "patches", "subset", "torchvision, no split"]
)
def test_most_sources_have_no_test_set_of_their_own(name: str, tmp_path: Path) -> None:
    assert SOURCES[name](tmp_path).published_test() is None


def test_tasks_that_need_color_are_declared_and_survive_a_subset() -> None:
    source = build_source("shapes")
    assert set(source.color_tasks) == {"color", "all"} <= set(source.tasks)
    assert Subset(source, torch.arange(3), "some").color_tasks == source.color_tasks
