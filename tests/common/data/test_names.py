from __future__ import annotations

import pytest

from common.data.names import Names


@pytest.mark.parametrize("given", [[], ["a"], ["", "a/b.png", "", "\u00e9\U0001f600", "\udcff.jpg"]])
def test_names_come_back_one_by_one_and_all_at_once(given: list[str]) -> None:
    names = Names(given)
    assert list(names) == given
    assert [names[place] for place in range(len(names))] == given
