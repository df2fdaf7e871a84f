"""What the stage functions of ``retouch`` have in common: settings are strings, and calls take turns."""

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
IMAGES = 'give images in memory a name first: f"data={retouch.images(...)}"'


def stage(function: Callable[P, T]) -> Callable[P, T]:
    """Wrap a function that takes a recipe or a run, then strings such as ``steps=100``; ``in_turn`` runs one at a time.

    The wrapped function raises:
        UserError: also if a setting is not given as a string.
    """
    known = signature(function).parameters

    @wraps(function)
    def called(*given: P.args, **named: P.kwargs) -> T:
        more = {name: value for name, value in named.items() if name not in known}
        problems = _no_texts(given, more)
        if problems:
            raise UserError(*problems, title=f"retouch.{function.__name__} takes settings as strings:")
        with in_turn():
            return function(*given, **named)

    return called


def _no_texts(given: Sequence[object], named: Mapping[str, object]) -> list[str]:
    """The problems with the arguments of a stage."""
    problems = []
    for place, one in enumerate(given):
        if not isinstance(one, str if place else (Config, Mapping, *PLAIN)):
            problems.append(f"{type(one).__name__} is neither a string nor settings; {IMAGES}")
    for name, value in named.items():
        if isinstance(value, PLAIN):
            problems.append(f'{name}={value!r}: write "{name}={value}"')
        else:
            problems.append(f'{name}={type(value).__name__}(...): write "{name}=..."; {IMAGES}')
    return problems
