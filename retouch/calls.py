"""What the functions of stages in ``retouch`` have in common: settings are texts, and calls take turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import ParamSpec, TypeVar

from common.config import Config
from common.errors import UserError
from common.machine.turns import in_turn

P = ParamSpec("P")
T = TypeVar("T")

PLAIN = (str, int, float, Path, type(None))
IMAGES = 'images of this program are given a name first: f"data={retouch.images(...)}"'


def stage(function: Callable[P, T]) -> Callable[P, T]:
    """A function of a recipe or a run, and then of texts such as ``steps=100``; see ``in_turn`` for calls at once.

    The function that this gives raises:
        UserError: also where a setting is not given as a text.
    """
    known = signature(function).parameters

    @wraps(function)
    def called(*given: P.args, **named: P.kwargs) -> T:
        more = {name: value for name, value in named.items() if name not in known}
        problems = _no_texts(given, more)
        if problems:
            raise UserError(*problems, title=f"retouch.{function.__name__} takes settings as texts:")
        with in_turn():
            return function(*given, **named)

    return called


def _no_texts(given: Sequence[object], named: Mapping[str, object]) -> list[str]:
    """What is wrong with the arguments of a stage."""
    problems = []
    for place, one in enumerate(given):
        if not isinstance(one, str if place else (Config, Mapping, *PLAIN)):
            problems.append(f"{type(one).__name__} is no text and no settings; {IMAGES}")
    for name, value in named.items():
        if isinstance(value, PLAIN):
            problems.append(f'{name}={value!r}: write "{name}={value}"')
        else:
            problems.append(f'{name}={type(value).__name__}(...): write "{name}=..."; {IMAGES}')
    return problems
