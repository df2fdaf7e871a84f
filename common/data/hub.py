"""`hf:NAME[:split]`: tables of the Hugging Face hub, or of a folder that `datasets` reads or has written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import datasets
import huggingface_hub

from common.data.footers import check_shards, with_rows
from common.data.listing import run_folders
from common.data.request import Request
from common.data.source import Source, digest
from common.data.tables import TableSource, check_cache, rows_of_split
from common.errors import UserError, reason_of
from common.files import in_full, refuse_stream


class HubSource(TableSource):
    """A table of the Hugging Face hub, which may have a test split as well.

    Args:
        request: what it was opened for; the other split is opened for the same.
    """

    def __init__(self, request: Request, table: Any, identity: str, rows: Sequence[int] | None = None) -> None:
        super().__init__(request.spec, table, identity, request.image, request.label, rows)
        self._request = request

    def published_test(self) -> Source | None:
        """Its split ``test``, where the spec names no split and there is one, or its rows that are of it."""
        if ":" in self.spec.partition(":")[2]:
            return None
        if self.test is not None:
            return self.test()
        try:
            return hub_source(replace(self._request, split="test"))
        except UserError:
            return None


def hub_source(request: Request) -> HubSource:
    """``hf:NAME[:split]``: a data set of the Hugging Face hub, or a local folder in one of its layouts or of
    ``save_to_disk``.

    Raises:
        UserError: it cannot be found or loaded, has no such split, numbers its classes in two ways, or is a folder in
            which runs have been written.
    """
    spec, name, split, root = request.spec, request.name, request.named_split, request.root
    local = in_full(name)
    here = local.absolute() if name.startswith("~") else local  # or `datasets` would look for a home folder
    path = str(here) if local.exists() else name
    saved = _is_saved(local)
    if not saved and (runs := run_folders(local)):
        raise UserError(
            f"{spec}: `datasets` would also read what retouch has written to {runs[0]}; use folder:{name} or parquet:, "
            "which leave it out, or move it"
        )
    for file in local.rglob("*") if local.is_dir() else ():
        refuse_stream(file, f"{spec}: {file}")  # `datasets` would wait for it
    if not saved and local.is_dir() and (files := sorted(map(str, local.rglob("*.parquet")))):
        with_rows(spec, files)
    shards: list[str] = []
    try:
        table, shards = (_load_saved(local, split), []) if saved else _load(path, split, root)
    except Exception as error:  # hub, network and builder errors share no base class
        check_cache(spec, root)
        raise UserError(f"{spec}: cannot load split {split!r}: {reason_of(error)}") from None
    check_shards(spec, {shard: there for shard in shards if (there := _downloaded(shard))})
    built: list[object]
    if saved:
        status = [Path(file["filename"]).stat() for file in table.cache_files]
        built = [part for one in status for part in (one.st_size, one.st_mtime_ns)]
    else:  # the names of its cache files contain a hash of what they were built from
        built = ["/".join(Path(file["filename"]).parts[-4:]) for file in table.cache_files]
    identity = digest([name, split, *built])
    table, chosen = rows_of_split(spec, table, "test" if split == "test" else "train", request.label)
    source = HubSource(request, table, identity, chosen.rows)
    if chosen.test is not None:
        columns = request.image, request.label
        source.test = partial(TableSource, f"{spec} (test)", table, identity, *columns, chosen.test)
    return source


def _load(path: str, split: str, root: str | None) -> tuple[Any, list[str]]:
    """One split, and the files of all splits that it was built from; none are known for one built from an earlier
    version of its set, or where the hub cannot be reached."""
    builder = datasets.load_dataset_builder(path, cache_dir=root)
    builder.download_and_prepare()
    files = builder.config.data_files or {}
    return builder.as_dataset(split=split), [str(file) for split in files.values() for file in split]


def _downloaded(shard: str) -> str | None:
    """Where a parquet file of the hub lies in the cache, if it still does; asks no server."""
    found = re.fullmatch(r"hf://datasets/([^@]+)@([^/]+)/(.+\.parquet)", shard)
    if found is None:
        return None
    name, revision, file = found.groups()
    there = huggingface_hub.try_to_load_from_cache(name, file, revision=unquote(revision), repo_type="dataset")
    return there if isinstance(there, str) else None


def _is_saved(folder: Path) -> bool:
    """Whether ``save_to_disk`` of `datasets` has written it: a table, or a dictionary of them by split."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def _load_saved(folder: Path, split: str) -> Any:
    data = datasets.load_from_disk(str(folder))
    if not isinstance(data, datasets.DatasetDict):
        if split != "train":
            raise ValueError("it was saved as one table without splits; leave the split out")
        return data
    if split not in data:
        raise ValueError(f"its splits are {', '.join(data)}")
    return data[split]
