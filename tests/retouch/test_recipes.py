"""Shipped recipes are found by their names."""

from __future__ import annotations

import pytest

from common.errors import UserError
from retouch.recipes import FOLDER, recipe


def test_a_recipe_is_found_by_its_name_with_or_without_its_stage() -> None:
    assert recipe("denoise") == FOLDER / "pretrain" / "denoise.yaml"
    assert recipe("probe/linear") == FOLDER / "probe" / "linear.yaml"


def test_an_ambiguous_name_is_refused_and_the_message_lists_the_choices() -> None:
    with pytest.raises(UserError, match="'patch_dictionary' is ambiguous; choose one of pretrain/patch_dict"):
        recipe("patch_dictionary")


def test_an_unknown_recipe_is_refused_and_the_message_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"no recipe 'denois'; choose one of .*pretrain/denoise,"):
        recipe("denois")
