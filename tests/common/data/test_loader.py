from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.data import Images, Loader, build_source, in_order, load_images
from common.data.loader import permutation
from common.errors import UserError
from tests.common.data.samples import write_folder

SOURCE = build_source("shapes:train:1")


def numbered(length: int) -> Images:
    """Images of which row i is filled with i."""
    pixels = torch.arange(length, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2).contiguous()
    return Images(SOURCE, 2, torch.arange(length), pixels)


LENGTH, SEED, STEP = st.integers(1, 60), st.integers(0, 2**40), st.integers(0, 10**9)


@settings(max_examples=60, deadline=None)
@given(length=LENGTH, batch_size=st.integers(1, 150), seed=SEED, step=STEP)
def test_stream_position_is_the_row_the_formula_gives(length: int, batch_size: int, seed: int, step: int) -> None:
    batch = next(Loader(numbered(length), batch_size=batch_size, seed=seed).stream(step))
    expected = []
    for position in range(step * batch_size, (step + 1) * batch_size):
        expected.append(int(permutation(seed, length, position // length)[position % length]))
    assert batch.index.tolist() == expected
    assert batch.images[:, 0, 0, 0].tolist() == expected


@settings(max_examples=40, deadline=None)
@given(length=LENGTH, share=st.integers(1, 20), world=st.integers(1, 8), seed=SEED, step=STEP)
def test_the_global_batch_does_not_depend_on_the_number_of_processes(
    length: int, share: int, world: int, seed: int, step: int
) -> None:
    images, batch_size = numbered(length), share * world
    whole = next(Loader(images, batch_size=batch_size, seed=seed).stream(step))
    parts = [
        next(Loader(images, batch_size=batch_size, seed=seed, rank=rank, world=world).stream(step))
        for rank in range(world)
    ]
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
    assert torch.equal(torch.cat([part.index for part in parts]), whole.index)


@settings(max_examples=30, deadline=None)
@given(length=LENGTH, batch_size=st.integers(1, 40), seed=SEED, first=st.integers(0, 50))
def test_starting_later_continues_the_same_stream(length: int, batch_size: int, seed: int, first: int) -> None:
    loader = Loader(numbered(length), batch_size=batch_size, seed=seed)
    through = [batch.index.tolist() for batch in islice(loader.stream(), first + 4)]
    assert [batch.index.tolist() for batch in islice(loader.stream(first), 4)] == through[first:]


@settings(max_examples=30, deadline=None)
@given(length=LENGTH, batch_size=st.integers(1, 40), seed=SEED)
def test_an_epoch_shows_every_row_once(length: int, batch_size: int, seed: int) -> None:
    loader = Loader(numbered(length), batch_size=batch_size, seed=seed)
    stream = torch.cat([batch.index for batch in islice(loader.stream(), loader.steps_per_epoch)])
    assert sorted(stream[:length].tolist()) == list(range(length))
    assert len(stream) - length < batch_size


def test_epochs_and_seeds_have_their_own_order() -> None:
    orders = {tuple(permutation(seed, 50, epoch).tolist()) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_labels_go_with_their_rows() -> None:
    labels = torch.arange(20) * 7
    batch = next(Loader(numbered(20), batch_size=8, seed=3, labels=labels).stream(5))
    assert batch.labels is not None
    assert torch.equal(batch.labels, batch.index * 7)
    assert next(Loader(numbered(20), batch_size=8, seed=3).stream()).labels is None


def test_workers_give_the_same_stream_and_may_be_left_at_any_time(tmp_path: Path) -> None:
    lazy = load_images(build_source(f"folder:{write_folder(tmp_path)}"), 8, cache="none")
    here = Loader(lazy, batch_size=4, seed=1)
    ahead = Loader(lazy, batch_size=4, seed=1, workers=2)
    for first in (0, 7):
        for ours, theirs in zip(islice(here.stream(first), 5), ahead.stream(first), strict=False):
            assert torch.equal(ours.images, theirs.images)
            assert torch.equal(ours.index, theirs.index)


def test_labels_stay_with_their_rows_where_one_cannot_be_read(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "cat" / "4.png").write_bytes(b"")  # the last cat
    lazy = load_images(build_source(f"folder:{tmp_path}"), 8, cache="none")
    batch = next(Loader(lazy, batch_size=5, seed=0, labels=lazy.labels().values).stream())
    assert sorted(lazy.kept[batch.index].tolist()) == [0, 1, 3, 4, 5]
    assert batch.labels is not None
    assert sorted(batch.labels.tolist()) == [0, 0, 1, 1, 1]


@pytest.mark.parametrize("workers", [0, 1])
def test_in_order_gives_every_row_once(workers: int, tmp_path: Path) -> None:
    lazy = load_images(build_source(f"folder:{write_folder(tmp_path)}"), 8, cache="none")
    batches = list(in_order(lazy, 4, workers))
    assert [batch.index.tolist() for batch in batches] == [[0, 1, 2, 3], [4, 5]]
    assert torch.equal(torch.cat([batch.images for batch in batches]), lazy.rows(torch.arange(6)))


def test_mistakes_are_refused() -> None:
    with pytest.raises(UserError, match="batch_size=10 cannot be shared evenly by 4 processes"):
        Loader(numbered(20), batch_size=10, seed=0, world=4)
    with pytest.raises(UserError, match="19 labels for 20 images"):
        Loader(numbered(20), batch_size=10, seed=0, labels=torch.zeros(19))
