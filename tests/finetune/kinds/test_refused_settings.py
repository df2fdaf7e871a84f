"""Settings of several labels per image, and of masks, that fit no data or not each other: said, and nothing written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.finetune.dense import masked_pictures as masks
from tests.finetune.multilabel import labeled_pictures as labels
from tests.finetune.probing import refusal

KINDS = {"masks": masks, "labels": labels}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of each kind, with an encoder and a few training and test images."""
    folder = tmp_path_factory.mktemp("kinds")
    for name, kind in KINDS.items():
        masks.exported(folder / name / "encoder")
        for seed, part in enumerate(("train", "test")):
            kind.pictures(folder / name / part, 12, seed)
    return folder


@pytest.mark.parametrize(
    ("kind", "changes", "said"),
    [
        ("masks", {"data": {"task": "kind"}}, ["masks: they define the task; remove task"]),
        ("masks", {"data": {"labels": ["a"]}}, ["masks: they define the task; remove labels"]),
        ("masks", {"data": {"masks": None}}, ["test_masks and mask_names belong to masks"]),
        ("masks", {"data": {"mask_names": ["a", "a"]}}, ["mask_names: must be different names"]),
        (
            "masks",
            {"data": {"mask_names": ["a", "b"]}},
            ["masks hold 2, but there are only 2 names, for the numbers 0 to 1"],
        ),
        ("masks", {"more_probes": [{"kind": "ridge"}]}, ["more_probes need one label per image; with data.masks"]),
        ("masks", {"data": {"masks": "nowhere"}}, ["data.masks: 'nowhere': no such file or folder"]),
        ("masks", {"data": {"masks": "shapes"}}, ["data.masks=shapes: must be a folder or a zip file"]),
        ("masks", {"data": {"test": None}}, ["data.test_masks: ", "has no test set; set data.test, or remove it"]),
        (
            "masks",
            {"data": {"train": "shapes", "test": None, "test_masks": None}},
            ["no such masks; it has object, shape"],
        ),
        ("masks", {"probe": {"layers": [9]}}, ["there is no layer 9"]),
        ("labels", {"data": {"task": "kind"}}, ["labels: they define the task; remove task and label"]),
        ("labels", {"data": {"labels": ["light", "light"]}}, ["labels: must be different columns"]),
        (
            "labels",
            {"more_probes": [{"kind": "ridge"}], "label_efficiency": True},
            ["more_probes and label_efficiency need one label per image; with data.labels"],
        ),
        ("labels", {"data": {"labels": ["tag"]}}, ["no column 'tag'; it has", "tags"]),
        ("labels", {"data": {"labels": ["light", "kind"]}}, ["column 'kind' holds x, y"]),
        ("labels", {"data": {"train": "shapes", "test": None}}, [": data.labels names columns of a table"]),
    ],
)
def test_mistakes_are_said_before_anything_is_written(
    home: Path, tmp_path: Path, kind: str, changes: dict[str, Any], said: Sequence[str]
) -> None:
    found = refusal(KINDS[kind].config_of, home / kind, tmp_path / "out", **changes)
    for words in said:
        assert words in found
