"""Poolings against formulas, and a search space without duplicates."""

from __future__ import annotations

import pytest
import torch

from common.errors import UserError
from finetune.pooling import POOLINGS, build_spaces, pool, pooled_width

SHAPES = [(4, 8, 8), (8, 4, 4), (16, 1, 1)]


def test_each_pooling_is_its_formula() -> None:
    maps = torch.arange(32.0).view(1, 2, 4, 4)
    assert pool(maps, "avg").tolist() == [[7.5, 23.5]]
    assert pool(maps, "max").tolist() == [[15.0, 31.0]]
    # quarters of the first map: rows 0-1 and columns 0-1 hold 0, 1, 4, 5
    assert pool(maps, "avg2")[0, :4].tolist() == [2.5, 4.5, 10.5, 12.5]
    assert torch.equal(pool(maps, "flatten"), torch.arange(32.0)[None])


@pytest.mark.parametrize("shape", [(3, 4, 4), (3, 5, 7), (3, 1, 1), (3, 2, 1)])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_width_matches_the_pooled_vectors_and_sums_are_float32(pooling: str, shape: tuple[int, int, int]) -> None:
    vectors = pool(torch.rand(2, *shape, dtype=torch.bfloat16), pooling)
    assert vectors.shape == (2, pooled_width(shape, pooling))
    assert vectors.dtype == torch.float32


def test_layers_are_used_alone_and_combined() -> None:
    spaces, skipped = build_spaces(SHAPES, ["each", "last2", "all", -1], ["avg"], max_width=100)
    assert [space.layers for space in spaces] == [(0,), (1,), (2,), (1, 2), (0, 1, 2)]
    assert [space.width for space in spaces] == [4, 8, 16, 24, 28]
    assert [space.layer for space in spaces][-1] == "0+1+2"
    assert skipped == []


def test_poolings_that_give_the_same_features_are_one_space() -> None:
    spaces, _ = build_spaces([(16, 1, 1)], [0], ["avg", "max", "flatten", "avg+avg2+max"], max_width=100)
    assert [(space.pooling, space.width) for space in spaces] == [("avg", 16)]
    spaces, _ = build_spaces([(3, 2, 2)], [0], ["flatten", "avg2"], max_width=100)
    assert [(space.pooling, space.width) for space in spaces] == [("avg2", 12)]


def test_wide_spaces_are_skipped_and_named() -> None:
    spaces, skipped = build_spaces(SHAPES, [0], ["avg", "flatten"], max_width=100)
    assert [space.pooling for space in spaces] == ["avg"]
    assert skipped == ["layer 0, flatten: 256 features, more than 100"]
    with pytest.raises(UserError, match=r"probe\.max_width"):
        build_spaces(SHAPES, [0], ["flatten"], max_width=100)


def test_an_unknown_layer_is_refused() -> None:
    with pytest.raises(UserError, match="no layer 3; the encoder has layers 0 to 2"):
        build_spaces(SHAPES, [3], ["avg"], max_width=100)
