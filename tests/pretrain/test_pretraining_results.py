"""Results of pretraining are their dump, and are read back; those of other stages are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import UserError
from finetune.results import read_results as read_transfer
from pretrain.results import read_results
from pretrain.run import pretrain
from tests.pretrain.toys import settings


def test_results_are_read_back_as_the_stage_returned_them(tmp_path: Path) -> None:
    found = pretrain(settings(tmp_path / "run", "pca")).results
    assert found is not None
    assert read_results(tmp_path / "run") == read_results(tmp_path / "run" / "results.json") == found
    with pytest.raises(UserError, match=r"was written by retouch pretrain; give the results\.json of a finished"):
        read_transfer(tmp_path / "run")
