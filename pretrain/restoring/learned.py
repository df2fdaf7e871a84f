"""Which pictures the network of a run has learned from: it may have memorized them, and restores them better."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from common.config import load_config
from common.data import Source
from common.data.build import reopened
from common.data.held_out import held_rows
from common.data.images import kept_rows
from common.data.patches import PatchesSource
from common.encoders.provenance import Provenance
from common.errors import UserError
from pretrain.config import GradientPretraining, PretrainConfig
from pretrain.gradient.kept import decoder_folder
from pretrain.results import PretrainResults, read_results


def learned_from(run: Path, trained_on: Provenance, source: Source, rows: Tensor) -> Tensor | None:
    """Which rows ``[N]`` of a source were learned from in the run or a training before it, bool ``[N]``.

    Images are identified by their paths, so nothing is decoded: copies in other places are not found. Where an image
    could not be read in training, it is not known which were held out, and all count as learned from.

    Args:
        run: as for ``decoder_folder``.
        trained_on: the provenance of its encoder.

    Returns:
        None where the images of a training are not known, cannot be opened any more, or are on a server.
    """
    folder = decoder_folder(run).parent
    try:
        config, results = load_config(PretrainConfig, folder / "config.yaml"), read_results(folder)
        if not isinstance(config, GradientPretraining):
            return None
        known = set[str]()
        for one in trained_on.chain:
            images = reopened(one.source, one.part)
            if images is None or (images.only_here and not _are_those_of(results, images)):
                return None
            learned = torch.arange(len(images))
            if one is trained_on:
                learned = kept_rows(images, config.data.limit)
                if results.originals is None or not results.originals.unreadable:
                    size = config.data.image_size
                    learned = learned[~held_rows(images, learned, size, config.held_out, config.seed)]
            known.update(_places(images, learned))
    except (UserError, OSError, TypeError):
        return None
    return torch.tensor([place in known for place in _places(source, rows)], dtype=torch.bool)


def _are_those_of(results: PretrainResults, images: Source) -> bool:
    """Whether images in memory are those of the run: another program, or later calls, may give their name to others."""
    return results.made is not None and images.fingerprint in results.made.inputs.values()


def _places(source: Source, rows: Tensor) -> Iterator[str]:
    """Where each row comes from: the file that a link leads to, and for a patch, that of its image."""
    while isinstance(source, PatchesSource):
        source, rows = source.source, rows // source.rows_per_image
    real: Callable[[str], str] = cache(os.path.realpath)
    for row in rows.tolist():
        above, name = os.path.split(source.where(row))
        file = f"{real(above)}/{name}"
        yield real(file) if os.path.islink(file) else file  # noqa: PTH114 -- a Path for each image takes long
