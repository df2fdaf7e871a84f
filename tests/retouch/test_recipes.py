"""Shipped recipes are found by their names."""

from __future__ import annotations

import pytest

from common.errors import UserError
from retouch.recipes import FOLDER, recipe


def test_a_recipe_is_found_by_its_name_alone_or_with_its_stage() -> None:
    assert recipe("denoise") == FOLDER / "pretrain" / "denoise.yaml"
    assert recipe("probe/linear") == FOLDER / "probe" / "linear.yaml"


def test_a_name_of_several_stages_asks_for_the_stage() -> None:
    with pytest.raises(UserError, match=r"which 'patch_dictionary'\? there are pretrain/patch_dictionary, probe/patch"):
        recipe("patch_dictionary")


def test_an_unknown_recipe_is_refused_and_the_message_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"no recipe 'denois'; there are .*pretrain/denoise,"):
        recipe("denois")
