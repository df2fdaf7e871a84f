"""What mathematics refuses, told as a user's mistake."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from common.errors import UserError

Result = TypeVar("Result")


def told(kind: str, work: Callable[[], Result]) -> Result:
    """``work()``; a ``ValueError`` of it becomes a message that names the method.

    Raises:
        UserError: the settings do not fit the data.
    """
    try:
        return work()
    except ValueError as error:
        raise UserError(f"fit.kind={kind}: {error}") from None
