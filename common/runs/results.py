"""Reading ``results.json`` back, whichever stage wrote it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from common.errors import UserError, one_line
from common.files import command, in_full

SCHEMA_VERSION: Final = 2  # increase it whenever an older reader would misread or refuse a field
READABLE: Final = (1, 2)  # what later versions added has a default
RESULTS = "results.json"

T = TypeVar("T")


class Record(BaseModel):
    """A frozen block of results. Unknown keys are errors, so no file is misread as another kind."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def file_of_run(path: str | Path, name: str, stages: Sequence[str]) -> Path:
    """The file ``name`` of a finished run of one of these stages, from its own path or that of the run folder.

    Raises:
        UserError: there is no such file.
    """
    path = in_full(path)
    path = path / name if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"{path}: no such file; give {_wanted(name, stages)}")
    return path


def _wanted(name: str, stages: Sequence[str]) -> str:
    return f"the {name} of a finished retouch {' or '.join(stages)} run"


def load_results(path: str | Path, schema: TypeAdapter[T], stages: Sequence[str]) -> T:
    """Read the results of one of these stages: a ``results.json``, or the run folder around it.

    Raises:
        UserError: there is no such file, it is damaged, or another stage or version of Retouch wrote it.
    """
    path = in_full(path)
    path = path / RESULTS if path.is_dir() else path
    wanted = _wanted(RESULTS, stages)
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; give {wanted}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {one_line(error)}; run the stage again") from None
    version = found.get("schema_version") if isinstance(found, dict) else None
    if version is None:
        raise UserError(f"{path} has no schema_version: an older Retouch wrote it; give {wanted}, or run it again")
    if version not in READABLE:
        raise UserError(
            f"{path} has schema_version {version!r}, but this Retouch reads {' and '.join(map(str, READABLE))}: use "
            "the Retouch that wrote it, or run the stage again"
        )
    if found.get("stage") not in stages:
        raise UserError(f"{path} was written by {command(str(found.get('stage')))}; give {wanted}")
    try:
        return schema.validate_python(found)
    except ValidationError as error:
        raise UserError(*validation_problems(error), title=f"{path} is damaged; run the stage again:") from None


def validation_problems(error: ValidationError, most: int = 5) -> Sequence[str]:
    """What is wrong with a file, a line for each key: the first ``most``, and how many there are besides."""
    found = [f"{'.'.join(map(str, item['loc']))}: {item['msg'].lower()}" for item in error.errors(include_url=False)]
    return [*found[:most], *([f"and {len(found) - most} more"] if len(found) > most else [])]
