"""``export.json``: the content of an export, its origin, and how it was checked."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import JsonValue

from common.encoders.provenance import Provenance
from common.errors import UserError
from common.files import check_place, is_marked, write_json
from common.runs.made import Made
from common.runs.results import Record
from retouch.exporting.check import Check
from retouch.exporting.settings import ExportConfig, FormatName, Output

RECORD = "export.json"
MARK = '"retouch_export": 1'  # its first key, which identifies a folder as an export of ours


class ExportRecord(Record):
    """The content of ``export.json``."""

    retouch_export: Literal[1] = 1  # the version of this file
    format: FormatName
    output: Output
    files: tuple[str, ...]  # besides this one
    run: str  # as given
    sha256: str  # of what was exported: ``Subject.sha256``
    facts: dict[str, JsonValue]  # input, outputs, classes, ...
    provenance: Provenance  # of the encoder or classifier
    made: Made
    tools: dict[str, str]  # versions of the packages that wrote it
    check: Check


def write_record(folder: Path, record: ExportRecord) -> None:
    """Write ``export.json``."""
    write_json(folder / RECORD, record.model_dump(mode="json"))


def check_folder(config: ExportConfig) -> None:
    """Refuse a folder that holds other files, or an earlier export without ``overwrite``.

    Raises:
        UserError: says what the folder contains.
    """
    folder = config.to
    if folder.name in ("", ".."):
        raise UserError(f"to: {folder} is not a name for a new folder; give one")
    check_place(folder, "to")
    if folder.is_symlink():
        raise UserError(f"to: {folder} is a link; name the folder itself")
    if not folder.exists():
        return
    found = sorted(path.name for path in folder.iterdir())
    if not found:
        return
    if not is_marked(folder / RECORD, MARK):
        raise UserError(f"to: {folder} contains other files ({', '.join(found[:3])}); name a new folder")
    own = _files(folder)
    if others := [name for path in files_in(folder) if (name := path.relative_to(folder).as_posix()) not in own]:
        raise UserError(f"to: {folder} contains other files too ({', '.join(others[:3])}); name a new folder")
    if not config.overwrite:
        raise UserError(f"to: {folder} contains an earlier export; name a new folder, or set overwrite=true")


def files_in(folder: Path) -> tuple[Path, ...]:
    """All files of an export, and empty folders, sorted."""
    return tuple(sorted(path for path in folder.rglob("*") if not path.is_dir() or not any(path.iterdir())))


def _files(folder: Path) -> set[str]:
    """The names of an export's own files."""
    try:
        record = ExportRecord.model_validate_json((folder / RECORD).read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(
            f"to: {folder}/{RECORD} is damaged, so the files of the export are not known; name a new folder"
        ) from None
    return {RECORD, *record.files}
