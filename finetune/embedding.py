"""``embedding.safetensors``: where the encoder puts some of the test images, small enough to be kept with every probe.

    features, rows = read_embeddings("runs/probe")[0]      # of the first result

At most ``MOST_ROWS`` test images, drawn at random, the same ones in every run on a test set. They are in that random
order, so the first few are a random draw too. Their features are those of the widest space that the probe could choose,
standardized, as their at most ``WIDTH`` first principal components. Neither labels nor answers play a part.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from common.data import Images
from common.errors import UserError, one_line
from common.files import replacing
from common.runs.results import file_of_run
from finetune.features import Features
from finetune.pooling import Space
from finetune.probes import Standardizer

EMBEDDING = "embedding.safetensors"
MOST_ROWS = 2000  # test images that are kept: 64 numbers of two bytes each, 250 KiB
WIDTH = 64  # numbers per image


class Embedding(NamedTuple):
    """Some images of one test set, in random order."""

    features: Tensor  # float16 [n K], principal components; one scale for all
    rows: Tensor  # int64 [n], of the test set


def embedded(test: Features, images: Images, spaces: Sequence[Space]) -> Embedding:
    """The embedding of some test images, by the widest of these feature spaces."""
    chosen = torch.from_numpy(np.random.default_rng(0).permutation(len(test))[:MOST_ROWS])
    matrix = test.matrix(max(spaces, key=lambda space: space.width), chosen)
    return Embedding(principal_components(matrix).half(), images.kept[test.index[chosen]])


def principal_components(matrix: Tensor) -> Tensor:
    """Features ``[n F]``, which are overwritten -> the first principal components of the standardized features.

    Returns:
        float32 ``[n K]``, at most ``WIDTH`` wide; scaled so that the first one has deviation 1.
    """
    from sklearn.decomposition import PCA  # takes a second to import

    Standardizer.of(matrix).apply_(matrix)
    width = min(WIDTH, len(matrix) - 1, matrix.shape[1])
    if width < 1 or not bool(matrix.any()):
        return torch.zeros(len(matrix), max(width, 0))
    found = PCA(width, svd_solver="randomized", random_state=0).fit_transform(matrix.cpu().numpy())
    components = torch.from_numpy(found).float()
    return components / components.std(0, correction=0).max().clamp_min(1e-12)


def write_embeddings(folder: Path, found: Sequence[Embedding], results: Sequence[int]) -> None:
    """Write ``embedding.safetensors`` in ``folder``, atomically: one embedding per test set.

    Args:
        results: for each result, the place of its test set's embedding.
    """
    tensors = {f"{place}.{name}": tensor for place, one in enumerate(found) for name, tensor in one._asdict().items()}
    with replacing(folder / EMBEDDING) as unfinished:
        save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()},
            unfinished,
            metadata={"results": json.dumps(list(results))},
        )
        unfinished.chmod(folder.stat().st_mode & 0o666)  # safetensors writes files that only their owner may read


def read_embeddings(path: str | Path) -> list[Embedding]:
    """Read an ``embedding.safetensors``, or that of the run folder around it: one entry per result.

    Raises:
        UserError: there is no such file, or Retouch did not write it.
    """
    path = file_of_run(path, EMBEDDING, ("probe",))
    try:
        with safe_open(path, framework="pt") as file:
            results = json.loads(file.metadata()["results"])
            read = {
                place: Embedding(*(file.get_tensor(f"{place}.{name}") for name in Embedding._fields))
                for place in set(results)
            }
            return [read[place] for place in results]  # tasks of the same images share one
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} cannot be read as an embedding: {one_line(error)}; run the probe again") from None
