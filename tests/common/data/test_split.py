from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data import (
    Labels,
    build_source,
    check_classes,
    match_classes,
    split_source,
    stratified_folds,
    stratified_split,
)
from common.data.split import LINE, classes_without, with_counts
from common.errors import UserError

LABELS = st.lists(st.integers(0, 6), min_size=1, max_size=200).map(torch.tensor)
FRACTION = st.floats(0.01, 0.99)


@settings(max_examples=100, deadline=None)
@given(labels=LABELS, fraction=FRACTION, seed=st.integers(0, 2**32))
def test_every_row_is_on_one_side_and_every_class_on_both(labels: torch.Tensor, fraction: float, seed: int) -> None:
    train, held = stratified_split(labels, fraction, seed)
    assert sorted(train.tolist() + held.tolist()) == list(range(len(labels)))
    assert train.tolist() == sorted(train.tolist())
    for label in labels.unique():
        size = int((labels == label).sum())
        taken = int((labels[held] == label).sum())
        assert taken == 0 if size == 1 else 1 <= taken <= size - 1
        assert abs(taken - size * fraction) < 1 + 1e-9


@settings(max_examples=50, deadline=None)
@given(labels=LABELS, fraction=FRACTION, seed=st.integers(0, 2**32))
def test_the_same_seed_gives_the_same_split(labels: torch.Tensor, fraction: float, seed: int) -> None:
    for ours, again in zip(*(stratified_split(labels, fraction, seed) for _ in range(2)), strict=True):
        assert torch.equal(ours, again)


def test_the_total_is_the_fraction_of_all_rows() -> None:
    labels = torch.arange(10).repeat_interleave(15)  # 1.5 of each class
    assert len(stratified_split(labels, 0.1, 0)[1]) == 15


def test_another_seed_gives_another_split_and_rows_of_a_class_are_drawn_evenly() -> None:
    labels = torch.zeros(40, dtype=torch.int64)
    counts = torch.zeros(40)
    for seed in range(400):
        counts[stratified_split(labels, 0.25, seed)[1]] += 1
    # binomial(400, 1/4): mean 100, standard deviation 8.7
    assert counts.min() > 100 - 5 * 8.7
    assert counts.max() < 100 + 5 * 8.7


@settings(max_examples=100, deadline=None)
@given(labels=LABELS, folds=st.integers(2, 10), seed=st.integers(0, 2**32))
def test_folds_are_equally_large_and_each_has_its_part_of_every_class(
    labels: torch.Tensor, folds: int, seed: int
) -> None:
    fold = stratified_folds(labels, folds, seed)
    assert torch.equal(fold, stratified_folds(labels, folds, seed))
    for rows in (labels >= 0, *(labels == label for label in labels.unique())):
        sizes = torch.bincount(fold[rows], minlength=folds)
        assert len(sizes) == folds
        assert int(sizes.max() - sizes.min()) <= 1


def test_rows_of_a_class_are_dealt_to_other_folds_with_another_seed() -> None:
    counts = torch.stack([stratified_folds(torch.zeros(40, dtype=torch.int64), 4, seed) == 0 for seed in range(400)])
    shares = counts.sum(0)
    # binomial(400, 1/4): mean 100, standard deviation 8.7
    assert shares.min() > 100 - 5 * 8.7
    assert shares.max() < 100 + 5 * 8.7


def test_one_fold_is_no_cross_validation() -> None:
    with pytest.raises(ValueError, match="at least 2 folds"):
        stratified_folds(torch.zeros(4, dtype=torch.int64), 1, 0)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5])
def test_a_fraction_outside_is_refused(fraction: float) -> None:
    with pytest.raises(UserError, match="between 0 and 1"):
        stratified_split(torch.zeros(3), fraction, 0)


def test_a_set_without_a_test_set_is_split_into_two_sources() -> None:
    source = build_source("shapes:train:200")
    train, test = split_source(source, "color", fraction=0.25, seed=4)
    assert len(train) == 150
    assert len(test) == 50
    held = stratified_split(source.labels("color").values, 0.25, 4)[1]
    assert torch.equal(test.labels("shape").values, source.labels("shape").values[held])
    assert test.where(0) == source.where(int(held[0]))
    assert len({source.fingerprint, train.fingerprint, test.fingerprint}) == 3
    with pytest.raises(UserError, match="too few images to hold out a test set"):
        split_source(build_source("shapes:train:1"), fraction=0.2, seed=0)


def labels(names: str, *rows: int) -> Labels:
    """One class per letter of ``names``; without ``rows``, one row of each."""
    return Labels(torch.tensor(rows or range(len(names))), tuple(names), "label")


@pytest.mark.parametrize("test", [labels("abc"), labels("cab"), labels("b"), labels("xbc", 1, 2)])
def test_a_test_set_may_list_some_of_the_classes_in_any_order(test: Labels) -> None:
    check_classes(labels("abc"), test)


def test_test_images_of_a_class_without_training_images_are_refused() -> None:
    for train in (labels("abc"), labels("abcd", 0, 1, 2)):  # one lists the class, but has no image of it
        with pytest.raises(UserError) as error:
            check_classes(train, labels("abcd"))
        assert str(error.value) == (
            "task 'label': images of d are in the test set only; training has a, b, c: add such images to training, "
            "or take them out of the test set"
        )
    with pytest.raises(UserError, match=r"images of d, e, f, g, h and 2 more are in the test set only; training has a"):
        check_classes(labels("abc"), labels("abcdefghij"))


def test_classes_of_one_name_are_matched_only_where_both_sets_list_them_alike() -> None:
    check_classes(labels("aab"), labels("aab"))
    assert match_classes(labels("aab"), labels("aab", 1)).values.tolist() == [1]
    with pytest.raises(UserError, match="training has two classes named a, and the test set lists its classes in"):
        check_classes(labels("aab"), labels("ab"))


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_test_labels_are_matched_by_name(data: st.DataObject) -> None:
    train = labels("".join(data.draw(st.permutations("abcdef"))))
    listed = data.draw(st.permutations("abcdefxy"))  # x and y have no image
    rows = data.draw(st.lists(st.sampled_from([listed.index(name) for name in "abcdef"])))
    test = Labels(torch.tensor(rows, dtype=torch.int64), tuple(listed), "label")
    check_classes(train, test)
    found = match_classes(train, test)
    assert found.names == train.names
    assert [found.names[value] for value in found.values.tolist()] == [listed[row] for row in rows]
    assert set(classes_without(found)) == set(train.names) - {listed[row] for row in rows}


def test_classes_are_named_with_their_counts_on_one_line() -> None:
    assert with_counts("task label: ", ["cat", "dog"], [1200, 7], [4, 0]) == "task label: cat (1,200 + 4), dog (7 + 0)"
    assert with_counts("", ["a class of a long name " * 9], [3]) == f"{'a class of a long name ' * 9} (3)"
    many = [f"class {number}" for number in range(1000)]
    line = with_counts("task label: ", many, [5] * 1000)
    assert line.startswith("task label: class 0 (5), class 1 (5), ")
    assert line.endswith(" more")
    assert LINE - len(", class 5 (5)") <= len(line) <= LINE
    assert line.count("(5)") + int(line.split()[-2]) == 1000
