"""Splits that a source itself names: in folders, files or a column, exactly or nearly."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from common.data import Source, build_source, load_images
from common.data.split import split_of
from common.errors import UserError
from tests.common.data.samples import picture, png, write_folder

SPLITS = {"train": range(4), "test": range(4, 6), "val": range(6, 8)}
ROWS = [(split, ("cat", "dog")[number % 2], number) for split, numbers in SPLITS.items() for number in numbers]


def put(path: Path, number: int = 9) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(number).save(path)


def tree(root: Path, form: str = "{}") -> Path:
    """The pictures of ``ROWS`` in folders of splits, which hold folders of classes."""
    for split, name, number in ROWS:
        put(root / form.format(split) / name / f"{number}.png", number)
    return root


def columns(**more: list[object]) -> dict[str, list[object]]:
    return {"image": [png(number) for *_, number in ROWS], "label": [name for _, name, _ in ROWS], **more}


def in_folder(root: Path) -> str:
    return f"folder:{tree(root / 'ds')}"


def in_outer_folder(root: Path) -> str:
    tree(root / "ds" / "data" / "v1")
    return f"folder:{root / 'ds'}"


def in_zip(root: Path) -> str:
    return f"zip:{shutil.make_archive(str(root / 'a'), 'zip', tree(root / 'ds'))}"


def below_classes(root: Path) -> str:
    for split, name, number in ROWS:
        put(root / "ds" / name / split / f"{number}.png", number)
    return f"folder:{root / 'ds'}"


def in_csv(root: Path) -> str:
    tree(root)
    rows = [f"{split}/{name}/{number}.png,{name},{split}\n" for split, name, number in ROWS]
    (root / "a.csv").write_text("path,label,split\n" + "".join(rows))
    return f"csv:{root / 'a.csv'}"


def in_parquet_files(root: Path) -> str:
    for split in SPLITS:
        rows = [row for row in ROWS if row[0] == split]
        cells = {"image": [png(number) for *_, number in rows], "label": [name for _, name, _ in rows]}
        pq.write_table(pa.table(cells), root / f"cats-{split}-0.parquet")
    return f"parquet:{root}/*.parquet"


def in_parquet_column(root: Path) -> str:
    pq.write_table(pa.table(columns(split=[split for split, *_ in ROWS])), root / "a.parquet")
    return f"parquet:{root}/a.parquet"


def in_parquet_classes(root: Path) -> str:
    """A column of type ClassLabel."""
    features = datasets.Features(
        image=datasets.Value("binary"),
        label=datasets.Value("string"),
        Partition=datasets.ClassLabel(names=["val", "test", "train"]),
    )
    cells = columns(Partition=[split for split, *_ in ROWS])
    datasets.Dataset.from_dict(cells, features=features).to_parquet(root / "a.parquet")
    return f"parquet:{root}/a.parquet"


def in_hub_column(root: Path) -> str:
    (root / "ds").mkdir()
    in_parquet_column(root / "ds")
    return f"hf:{root / 'ds'}"


NAMED: dict[str, Callable[[Path], str]] = {
    made.__name__: made
    for made in (
        in_folder, in_outer_folder, in_zip, below_classes, in_csv, in_parquet_files, in_parquet_column,
        in_parquet_classes, in_hub_column,
    )
}  # fmt: skip


def shown(source: Source) -> list[tuple[bytes, str]]:
    """The pixels and the class of every image, in a fixed order."""
    images, labels = load_images(source, 8).rows(torch.arange(len(source))), source.labels()
    pixels = [one.numpy().tobytes() for one in images]
    return sorted(zip(pixels, (labels.names[value] for value in labels.values), strict=True))


@pytest.mark.parametrize("kind", NAMED)
def test_every_kind_of_source_gives_the_same_training_and_test_images(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "retouch")
    train = build_source(NAMED[kind](tmp_path))
    test = train.published_test()
    assert test is not None
    assert train.fingerprint != test.fingerprint
    assert "holds the splits" in caplog.text
    for split, source in (("train", train), ("test", test)):
        folder = build_source(f"folder:{tree(tmp_path / 'plain')}/{split}")
        assert shown(source) == shown(folder)
        assert set(source.default_tasks()) == {"label"}
        places = [source.where(row) for row in range(len(source))]
        assert len(set(places)) == len(places)


@pytest.mark.parametrize("kind", NAMED)
def test_the_test_split_can_be_asked_for(kind: str, tmp_path: Path) -> None:
    spec = NAMED[kind](tmp_path)
    if not spec.startswith("hf:"):  # there, it is the name of a split of the hub
        assert shown(build_source(spec, split="test")) == shown(build_source(f"folder:{tree(tmp_path / 'plain')}/test"))


def test_names_that_mean_a_split() -> None:
    for name in ("train", "Training", "train_images", "images-train", "train2017", "training_set", "TRAIN DATA"):
        assert split_of(name) == "train"
    for name in ("train_masks", "train_test", "bullet train", "set", "2017", "", "trainer", "latest"):
        assert split_of(name) is None
    assert (split_of("testset"), split_of("val2017"), split_of("dev")) == ("test", "val", "val")


@pytest.mark.parametrize("form", ["{}_images", "{}2017", "{}_set", "IMGS-{}"])
def test_folders_nearly_named_after_splits_are_splits(tmp_path: Path, form: str) -> None:
    source = build_source(f"folder:{tree(tmp_path, form)}")
    test = source.published_test()
    assert test is not None
    assert (len(source), len(test)) == (4, 2)


@pytest.mark.parametrize("stray", ["logo.png", "extra/0.png"])
@pytest.mark.parametrize("packed", [False, True])
def test_images_in_no_split_are_left_out_and_named(
    tmp_path: Path, stray: str, packed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    put(tree(tmp_path / "ds") / stray)
    spec = f"folder:{tmp_path / 'ds'}"
    if packed:
        spec = f"zip:{shutil.make_archive(str(tmp_path / 'a'), 'zip', tmp_path / 'ds')}"
    source = build_source(spec)
    assert len(source) == 4
    assert f"{spec}: 1 images in no split are left out, such as " in caplog.text
    assert stray in caplog.text


def test_parquet_files_in_no_split_are_left_out_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = in_parquet_files(tmp_path)
    pq.write_table(pa.table(columns()), tmp_path / "more.parquet")
    assert len(build_source(spec)) == 4
    assert f"{spec}: files in no split are left out: {tmp_path}/more.parquet" in caplog.text


def test_two_folders_of_one_split_are_refused(tmp_path: Path) -> None:
    tree(tmp_path)
    write_folder(tmp_path / "training")
    with pytest.raises(
        UserError, match=r"are folders of splits, two for the same split: join them, or name one to use"
    ):
        build_source(f"folder:{tmp_path}")


def test_a_test_folder_among_others_is_worth_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_folder(tmp_path)
    put(tmp_path / "test" / "9.png")
    assert len(build_source(f"folder:{tmp_path}")) == 7
    assert f"folder:{tmp_path}: test is taken as the other folders are; if its images are for testing" in caplog.text


def test_splits_below_some_folders_only_are_worth_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    below_classes(tmp_path)
    put(tmp_path / "ds" / "bird" / "9.png")
    assert len(build_source(f"folder:{tmp_path / 'ds'}")) == 9
    assert "some of its folders have test, train, val inside, which look like splits, but bird not" in caplog.text


def flat_csv(root: Path, names: str, *cells: str) -> str:
    for number in range(len(cells)):
        put(root / f"{number}.png", number)
    rows = "".join(f"{number}.png,{number % 2},{cell}\n" for number, cell in enumerate(cells))
    (root / "a.csv").write_text(f"path,label,{names}\n{rows}")
    return f"csv:{root}/a.csv"


def flat_parquet(root: Path, name: str, *cells: object) -> str:
    rows = len(cells)
    cells = tuple(None if cell == "" else cell for cell in cells)
    table = {"image": [png(number) for number in range(rows)], "label": [0, 1] * (rows // 2), name: list(cells)}
    pq.write_table(pa.table(table), root / "a.parquet")
    return f"parquet:{root}/a.parquet"


@pytest.mark.parametrize("make", [flat_csv, flat_parquet])
@pytest.mark.parametrize(
    ("cells", "counts"),
    [
        (("train", "train", "extra", "test"), "train (2), extra (1), test (1)"),
        (("train", "train", "", "test"), "train (2), empty (1), test (1)"),
        (("0", "0", "0", "1"), "0 (3), 1 (1)"),
    ],
)
def test_unknown_values_of_a_split_are_refused_with_their_counts(
    make: Callable[..., str], cells: tuple[str, ...], counts: str, tmp_path: Path
) -> None:
    spec = make(tmp_path, "split", *cells)
    with pytest.raises(UserError) as error:
        build_source(spec)
    assert str(error.value) == (
        f"{spec}: column 'split' seems to name splits, but not in every row: {counts}; write train, test or val into "
        "all, or remove it, or set data.label=split if it holds labels"
    )
    assert build_source(spec, label="split").tasks[0] == "split"


@pytest.mark.parametrize(
    ("make", "cells"),
    [
        (flat_csv, ("0", "1", "false", "True")),
        (flat_parquet, (False, True, False, True)),
        (flat_parquet, (0.0, 1.0, 0.0, 1.0)),
    ],
)
@pytest.mark.parametrize(("name", "rows"), [("is_test", [0, 2]), ("is_train", [1, 3])])
def test_a_column_says_of_every_row_whether_it_is_for_testing(
    make: Callable[..., str], cells: tuple[object, ...], name: str, rows: list[int], tmp_path: Path
) -> None:
    source = build_source(make(tmp_path, name, *cells))
    test = source.published_test()
    assert test is not None
    assert torch.equal(
        load_images(source, 8).rows(torch.arange(2)),
        load_images(build_source(flat_csv(tmp_path, "x", *"abcd")), 8).rows(torch.tensor(rows)),
    )
    assert (len(test), source.tasks) == (2, ("label",))


@pytest.mark.parametrize("make", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("names", "flags", "train", "test"),
    [
        (("is_train", "is_test"), ("10", "10", "01", "10"), [0, 1, 3], [2]),
        (("train", "test"), ("10", "01", "10", "01"), [0, 2], [1, 3]),
        (("Train", "Val", "Test"), ("100", "010", "001", "100"), [0, 3], [2]),
        (("is_val", "is_test"), ("00", "10", "01", "00"), [0, 3], [2]),
    ],
)
def test_each_split_may_have_a_column_of_its_own(
    make: str, names: tuple[str, ...], flags: tuple[str, ...], train: list[int], test: list[int], tmp_path: Path
) -> None:
    source = build_source(one_hot(tmp_path, make, names, flags))
    held = source.published_test()
    assert held is not None
    whole = load_images(build_source(flat_csv(tmp_path, "x", *"abcd")), 8)
    for found, rows in ((source, train), (held, test)):
        assert torch.equal(load_images(found, 8).rows(torch.arange(len(rows))), whole.rows(torch.tensor(rows)))
        assert found.tasks == ("label",)


@pytest.mark.parametrize("make", ["csv", "parquet"])
def test_a_row_of_no_split_or_of_two_is_refused(make: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        build_source(one_hot(tmp_path, make, ("train", "test"), ("10", "01", "00", "11")))
    assert "columns train and test seem to name splits, but 1 rows are in none and 1 in several: mark one in" in str(
        error.value
    )


@pytest.mark.parametrize(("flags", "said"), [("0101", True), ("abab", False)])
def test_a_column_alone_named_after_a_split_is_a_label(
    flags: str, said: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert build_source(flat_csv(tmp_path, "train", *flags)).tasks == ("label", "train")
    assert ("column 'train' is taken for labels; if it says which rows are in train, call" in caplog.text) is said


def one_hot(root: Path, make: str, names: tuple[str, ...], flags: tuple[str, ...]) -> str:
    if make == "csv":
        return flat_csv(root, ",".join(names), *(",".join(row) for row in flags))
    cells = {name: [row[place] == "1" for row in flags] for place, name in enumerate(names)}
    table = {"image": [png(number) for number in range(len(flags))], "label": [0, 1] * (len(flags) // 2), **cells}
    pq.write_table(pa.table(table), root / "a.parquet")
    return f"parquet:{root}/a.parquet"


def test_a_column_of_another_meaning_does_not_hide_the_splits(tmp_path: Path) -> None:
    spec = flat_csv(tmp_path, "set,split", "A,train", "B,train", "A,test", "B,test")
    source = build_source(spec)
    test = source.published_test()
    assert test is not None
    assert (source.where(0), test.where(0)) == (f"{tmp_path}/0.png", f"{tmp_path}/2.png")
    assert source.tasks == ("label", "set")


def test_two_columns_of_different_splits_are_refused(tmp_path: Path) -> None:
    spec = flat_csv(tmp_path, "subset,split", "test,train", "train,test")
    with pytest.raises(UserError, match="columns subset and split name splits, but not the same ones: remove all but"):
        build_source(spec)
    assert len(build_source(flat_csv(tmp_path, "subset,split", "train,training", "test,test"))) == 1


def test_splits_after_the_paths_of_a_list_are_splits(tmp_path: Path) -> None:
    put(tmp_path / "0.png", 0)
    put(tmp_path / "1.png", 1)
    (tmp_path / "a.txt").write_text("0.png train\n1.png test\n")
    source = build_source(f"list:{tmp_path}/a.txt")
    assert ([source.where(row) for row in range(len(source))], source.tasks) == ([f"{tmp_path}/0.png"], ())


def test_a_table_of_one_split_is_used_whole(tmp_path: Path) -> None:
    source = build_source(flat_csv(tmp_path, "split", "test", "test"))
    assert (len(source), source.tasks, source.published_test()) == (2, ("label",), None)
