"""``retouch export``: open a network, write it in another format, compare the two, and upload it if asked."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from common.errors import UserError, check_all
from common.files import new_folder
from common.machine.versions import version_of
from common.runs.made import made
from retouch.exporting.check import Check, compared, images_of, refuse_apart
from retouch.exporting.formats import EncoderFolder, Format, check_packages, chosen_format
from retouch.exporting.hub import card_text, check_push, describe, push
from retouch.exporting.paths import folders_of, has_path, shared, without_paths
from retouch.exporting.record import ExportRecord, check_folder, files_in, write_record
from retouch.exporting.restorer import open_restored
from retouch.exporting.settings import ExportConfig
from retouch.exporting.subject import Subject, facts, open_subject

log = logging.getLogger("retouch")


@dataclass(frozen=True)
class Exported:
    """An export that was written.

    Attributes:
        files: all files in ``folder``.
        check: the comparison with the network, which gives ``max_difference`` and ``images_checked``.
        record: the content of ``export.json``, which names no folder of this machine.
        uploaded: address of the commit on the Hub, if it was pushed.
    """

    folder: Path
    files: tuple[Path, ...]
    record: ExportRecord
    check: Check
    uploaded: str | None = None

    @property
    def max_difference(self) -> float:
        """The largest absolute difference of any output from the network in torch."""
        return self.check.max_difference

    @property
    def images_checked(self) -> int:
        return self.check.images

    @property
    def text(self) -> str:
        """One line about the export."""
        names = ", ".join(path.relative_to(self.folder).as_posix() for path in self.files)
        line = f"{self.folder}: {names} ({self.record.output}); {self.check.text}"
        return line if self.uploaded is None else f"{line}; uploaded: {self.uploaded}"


def export(config: ExportConfig) -> Exported:
    """Write a trained network in another format, and compare it with the original on images.

    Raises:
        UserError: with every problem, before anything is written; or the export does not compute the same and was not
            written; or it was written but could not be uploaded.
    """
    subject, repository, *_ = check_all(
        lambda: open_restored(config) if config.output == "restorer" else open_subject(config),
        lambda: check_push(config),
        lambda: check_folder(config),
        lambda: check_packages(config.format),
    )
    form = chosen_format(config.format, subject)
    _check_shared(config, subject, form)
    folders = folders_of(_named(config, subject))
    text = card_text(config, subject, folders) if config.format == "hub" else ""
    shown = images_of(config, subject)
    subject = replace(subject, provenance=shared(subject.provenance, folders))  # others will read the export
    with new_folder(config.to) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # exporters warn about their own deprecations
        form.write(subject, folder)
        check = compared(subject.network, form.opened(subject, folder), shown)
        refuse_apart(check, form.name)
        if text:
            describe(folder, text, subject)
        record = ExportRecord(
            format=form.name,
            output=subject.output,
            files=tuple(path.relative_to(folder).as_posix() for path in files_in(folder)),
            run=without_paths(config.run, folders),
            sha256=subject.sha256,
            facts=facts(subject).content(),
            provenance=subject.provenance,
            made=made({"run": subject.sha256}),
            tools={name: version_of(name) or "" for name in form.needs},
            check=check.model_copy(update={"source": without_paths(check.source, folders)}),
        )
        write_record(folder, record)
    files = files_in(config.to)
    return Exported(config.to, files, record, check, None if repository is None else push(config, repository))


def _named(config: ExportConfig, subject: Subject) -> list[str | Path | None]:
    """Paths and sources that may occur in an export."""
    trainings = [text for one in subject.provenance.chain for text in (one.source, one.started_from)]
    given = [config.run, config.data, config.to, config.encoder, *config.report]
    return [*given, subject.folder, subject.run, *trainings]


def _check_shared(config: ExportConfig, subject: Subject, form: Format) -> None:
    """Refuse to push a path that cannot be removed because it is an argument of the network; without push, warn.

    Raises:
        UserError: there is such a path, and ``push`` is set.
    """
    if not isinstance(form, EncoderFolder) or not has_path(subject.encoder.config.model_args):
        return
    if config.push is not None:
        raise UserError(
            "push: encoder.model_args holds a path of this machine, which others cannot open. It cannot be removed, "
            "because the encoder's sha256 covers it; remove push, or train without this argument"
        )
    log.warning(
        "encoder.model_args holds a path of this machine, and so will config.json of the export. It cannot be removed, "
        "because the encoder's sha256 covers it; train without this argument before you give the folder to others"
    )
