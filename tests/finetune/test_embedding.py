"""The embedding of test images: kept exactly, a fixed random draw, principal components as scikit-learn has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from common.errors import UserError
from finetune.embedding import (
    EMBEDDING,
    MOST_ROWS,
    Embedding,
    embedded,
    principal_components,
    read_embeddings,
    write_embeddings,
)
from finetune.features import Features
from finetune.pooling import Part, Space
from tests.finetune.toys import bright_images

PART, WIDE = Part(0, "avg"), Part(1, "avg")
SPACES = [Space((0,), ("avg",), (PART,), 2), Space((0, 1), ("avg",), (PART, WIDE), 7)]


def features_of(n: int, index: torch.Tensor | None = None) -> Features:
    generator = torch.Generator().manual_seed(0)
    parts = {PART: torch.randn(n, 2, generator=generator), WIDE: torch.randn(n, 5, generator=generator)}
    return Features(parts, torch.arange(n) if index is None else index)


def test_components_are_those_of_standardized_features() -> None:
    matrix = features_of(50).matrix(SPACES[1]) * torch.arange(1.0, 8.0)
    standardized = (matrix - matrix.mean(0)) / matrix.std(0, correction=0)
    expected = torch.from_numpy(PCA(7).fit_transform(standardized.double().numpy()))
    found = principal_components(matrix.clone())
    assert found.std(0, correction=0).max().item() == pytest.approx(1, abs=1e-5)
    scale = expected.std(0, correction=0).max()
    torch.testing.assert_close((found @ found.T).double(), expected @ expected.T / scale**2, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(("n", "width"), [(1, 0), (4, 3), (500, 64)])
def test_there_are_at_most_64_numbers_and_fewer_of_few_images(n: int, width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    assert principal_components(torch.randn(n, 90, generator=generator)).shape == (n, width)


def test_constant_features_are_no_trouble() -> None:
    assert torch.equal(principal_components(torch.ones(30, 5)), torch.zeros(30, 5))


def test_the_images_are_a_fixed_random_draw_of_the_widest_space() -> None:
    images = bright_images(30)
    index = torch.arange(0, 30, 2)  # the others have no features
    found = embedded(features_of(15, index), images, SPACES)
    assert found.features.shape == (15, 7)
    assert found.features.dtype == torch.float16
    assert sorted(found.rows.tolist()) == index.tolist()
    assert found.rows.tolist() != index.tolist()
    order = torch.from_numpy(np.random.default_rng(0).permutation(15))
    assert torch.equal(found.rows, index[order])
    many = features_of(MOST_ROWS + 9)
    assert len(embedded(many, bright_images(MOST_ROWS + 9), SPACES).rows) == MOST_ROWS


def test_embeddings_are_read_back_exactly_by_result(tmp_path: Path) -> None:
    both = [Embedding(torch.randn(n, 3).half(), torch.randperm(n)) for n in (4, 6)]
    write_embeddings(tmp_path, both, [0, 0, 1])
    for found in (read_embeddings(tmp_path), read_embeddings(tmp_path / EMBEDDING)):
        assert [len(one.rows) for one in found] == [4, 4, 6]
        assert found[0] is found[1]
        for place, one in zip([0, 0, 1], found, strict=True):
            assert torch.equal(one.features, both[place].features)
            assert torch.equal(one.rows, both[place].rows)


def test_whoever_may_read_the_run_may_read_the_file(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    write_embeddings(tmp_path, [Embedding(torch.zeros(3, 2).half(), torch.arange(3))], [0])
    assert (tmp_path / EMBEDDING).stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("kind", ["missing", "cut"])
def test_other_files_are_refused_with_a_plain_message(kind: str, tmp_path: Path) -> None:
    if kind == "cut":
        (tmp_path / EMBEDDING).write_bytes(b"\x08")
    message = "give the embedding.safetensors of a finished" if kind == "missing" else "cannot be read as an embedding"
    with pytest.raises(UserError, match=message):
        read_embeddings(tmp_path)
