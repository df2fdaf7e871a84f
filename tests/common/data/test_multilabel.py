"""Several labels per image: how tables write them, and splits that keep each label's share."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data import build_source
from common.data.multilabel import iterative_parts, match_labels, read_sets
from common.data.source import MultiLabels, Subset
from common.errors import UserError
from tests.common.data.samples import picture, png


def sets_of(labels: MultiLabels) -> list[set[str]]:
    return [{name for name, has in zip(labels.names, row, strict=True) if has} for row in labels.values.tolist()]


@pytest.mark.parametrize("cells", [["a;b", "b", "", "c; a"], ["a|b", "b", "", "c|a"], ["a b", "b", "", "c  a"]])
def test_labels_in_one_cell_may_be_separated_in_several_ways(cells: list[str]) -> None:
    found = read_sets("tags", cells)
    assert found.names == ("a", "b", "c")
    assert sets_of(found) == [{"a", "b"}, {"b"}, set(), {"a", "c"}]


def test_a_space_separates_only_where_nothing_else_does() -> None:
    found = read_sets("tags", ["polar bear;snow", "polar bear"])
    assert sets_of(found) == [{"polar bear", "snow"}, {"polar bear"}]


def test_lists_may_be_real_or_written_out() -> None:
    assert sets_of(read_sets("tags", ["['a', 'b']", "[]", '["b"]'])) == [{"a", "b"}, set(), {"b"}]
    found = read_sets("tags", [[2, 10], None, [2]])
    assert found.names == ("2", "10")  # in the order of numbers
    assert sets_of(found) == [{"2", "10"}, set(), {"2"}]


def test_there_may_be_no_labels_at_all() -> None:
    assert read_sets("tags", ["", None, "nan"]).values.shape == (3, 0)


def table(folder: Path) -> Path:
    for number in range(4):
        picture(number).save(folder / f"{number}.png")
    text = "path,tags,red,round\n0.png,sea;sky,1,0\n1.png,sky,True,yes\n2.png,,0,1\n3.png,sea,0.0,no\n"
    (folder / "a.csv").write_text(text)
    return folder / "a.csv"


def test_a_csv_has_them_in_one_column_or_in_several(tmp_path: Path) -> None:
    source = build_source(str(table(tmp_path)))
    tags = source.multi_labels(["tags"])
    assert (tags.task, tags.names) == ("tags", ("sea", "sky"))
    assert sets_of(tags) == [{"sea", "sky"}, {"sky"}, set(), {"sea"}]
    flags = source.multi_labels(["red", "round"], torch.tensor([3, 1]))
    assert (flags.task, flags.names) == ("red+round", ("red", "round"))
    assert sets_of(flags) == [set(), {"red", "round"}]


def test_a_part_of_a_source_keeps_the_labels_of_the_whole(tmp_path: Path) -> None:
    part = Subset(build_source(str(table(tmp_path))), torch.tensor([1, 2]), "train")
    assert part.multi_labels(["tags"]).names == ("sea", "sky")
    assert sets_of(part.multi_labels(["tags"], torch.tensor([1, 0]))) == [set(), {"sky"}]


def test_every_wrong_column_is_named_at_once(tmp_path: Path) -> None:
    source = build_source(str(table(tmp_path)))
    with pytest.raises(UserError) as wrong:
        source.multi_labels(["red", "tags", "round"])
    assert "column 'tags' holds nothing, sea, sea;sky, sky" in str(wrong.value)
    with pytest.raises(UserError, match="no column 'tag'; it has tags, red, round"):
        source.multi_labels(["tag"])
    (tmp_path / "class").mkdir()
    picture(0).save(tmp_path / "class" / "0.png")
    with pytest.raises(UserError, match="give a CSV file, parquet files or hf:NAME"):
        build_source(str(tmp_path / "class")).multi_labels(["tags"])


def test_parquet_files_have_lists_of_classes_words_and_numbers(tmp_path: Path) -> None:
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "classes": datasets.Sequence(datasets.ClassLabel(names=["cat", "dog"])),
            "words": datasets.Sequence(datasets.Value("string")),
            "flag": datasets.Value("float32"),
            "sure": datasets.Value("bool"),
        }
    )
    cells = {
        "image": [{"bytes": png(number), "path": None} for number in range(3)],
        "classes": [[0], [1, 0], []],
        "words": [["x"], [], ["y", "x"]],
        "flag": [1.0, 0.0, 1.0],
        "sure": [False, True, True],
    }
    datasets.Dataset.from_dict(cells, features).to_parquet(tmp_path / "a.parquet")
    source = build_source(str(tmp_path / "a.parquet"))
    assert sets_of(source.multi_labels(["classes"])) == [{"cat"}, {"cat", "dog"}, set()]
    assert sets_of(source.multi_labels(["words"])) == [{"x"}, set(), {"x", "y"}]
    assert sets_of(source.multi_labels(["flag", "sure"])) == [{"flag"}, {"sure"}, {"flag", "sure"}]
    assert source.tasks == ("sure",)  # as before: lists are not classes


def test_an_unknown_class_in_a_list_is_none(tmp_path: Path) -> None:
    features = datasets.Features(
        {"image": datasets.Image(), "classes": datasets.List(datasets.ClassLabel(names=["cat", "dog"]))}
    )
    cells = {
        "image": [{"bytes": png(number), "path": None} for number in range(4)],
        "classes": [[0, -1], [None, 1], [-1], None],
    }
    datasets.Dataset.from_dict(cells, features).to_parquet(tmp_path / "a.parquet")
    found = build_source(str(tmp_path / "a.parquet")).multi_labels(["classes"])
    assert found.names == ("cat", "dog")
    assert sets_of(found) == [{"cat"}, {"dog"}, set(), set()]


def test_test_labels_are_matched_by_name_and_unknown_ones_refused() -> None:
    train = MultiLabels(torch.tensor([[True, False], [False, True]]), ("a", "b"), "t")
    test = MultiLabels(torch.tensor([[True, False], [True, False]]), ("b", "c"), "t")
    assert match_labels(train, test).values.tolist() == [[False, True], [False, True]]  # nothing shows c
    with pytest.raises(UserError, match="labels 't': c in the test set only; training has a, b"):
        match_labels(train, test._replace(values=torch.tensor([[True, True]])))


# ---- splits


@settings(max_examples=30, deadline=None)
@given(st.integers(20, 120), st.integers(1, 6), st.integers(2, 5), st.integers(0, 1000))
def test_every_label_keeps_its_share_in_each_part(rows: int, labels: int, folds: int, seed: int) -> None:
    """Labels that come one by one are dealt exactly; with others, within a few images."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(rows, labels, generator=generator) < torch.rand(labels, generator=generator) * 0.6
    part = iterative_parts(values, [1 / folds] * folds, seed)
    assert part.shape == (rows,)
    assert set(part.tolist()) <= set(range(folds))
    counts = torch.stack([values[part == one].sum(0) for one in range(folds)])
    rarest = int(values.sum(0).where(values.any(0), rows + 1).argmin())
    assert counts[:, rarest].max() - counts[:, rarest].min() <= 1  # dealt first
    assert part.bincount(minlength=folds).max() - part.bincount(minlength=folds).min() <= 2 * labels + 1
    assert torch.equal(part, iterative_parts(values, [1 / folds] * folds, seed))


def test_a_rare_label_is_in_both_parts_where_chance_would_miss_it() -> None:
    values = torch.zeros(200, 2, dtype=torch.bool)
    values[:100, 0] = values[::20, 1] = True  # the second has ten images
    for seed in range(5):
        part = iterative_parts(values, [0.8, 0.2], seed)
        assert values[part == 1].sum(0).tolist() == [20, 2]
        assert int((part == 1).sum()) == 40
    assert not torch.equal(part, iterative_parts(values, [0.8, 0.2], 5))
