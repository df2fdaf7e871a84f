"""The environment says which of several processes this one is; what does not fit is refused, not guessed."""

from __future__ import annotations

import pytest

from common.errors import UserError
from common.machine.distributed import world
from common.machine.started import LEAST, MEETING, Started, is_first, started


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*LEAST, *MEETING):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("text", [None, "", " "])
def test_a_process_is_alone_where_nothing_is_said(monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    for name in LEAST if text is not None else ():
        monkeypatch.setenv(name, text or "")
    assert started() == Started(0, 1, 0, 1)
    assert is_first()
    with world() as here:
        assert (here.rank, here.size) == (0, 1)


def test_what_torchrun_says_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    for name, text in {**given, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, text)
    assert started() == Started(3, 4, 1, 2)
    assert not is_first()


@pytest.mark.parametrize(
    ("given", "problems"),
    [
        (
            {"RANK": "x", "LOCAL_WORLD_SIZE": "0", "LOCAL_RANK": "-1"},
            [
                "RANK=x in the environment is not a whole number of at least 0: unset it",
                "LOCAL_RANK=-1 in the environment is not a whole number of at least 0: unset it",
                "LOCAL_WORLD_SIZE=0 in the environment is not a whole number of at least 1: unset it",
            ],
        ),
        (  # it would train, and write nothing
            {"RANK": "1"},
            [
                "RANK=1 in the environment, but WORLD_SIZE=1: ranks are 0 to 0; start it with torchrun, or unset both",
            ],
        ),
        (  # it would wait for the other
            {"WORLD_SIZE": "2"},
            [
                "WORLD_SIZE=2 in the environment, but not RANK and MASTER_ADDR and MASTER_PORT: start it with "
                "torchrun, or unset WORLD_SIZE",
            ],
        ),
    ],
)
def test_what_does_not_fit_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], problems: list[str]
) -> None:
    for name, text in given.items():
        monkeypatch.setenv(name, text)
    with pytest.raises(UserError) as error, world():
        pass
    assert list(error.value.problems) == problems
