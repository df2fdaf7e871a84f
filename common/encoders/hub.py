"""Networks on the Hugging Face Hub: ``hf:USER/NAME[@REVISION]``, wherever a run or an encoder is asked for.

A repository is an encoder folder, or has the layout of a run folder: ``encoder/``, and
``classifiers/`` or ``decoder/``.
"""

from __future__ import annotations

import logging
import re
from functools import cache
from pathlib import Path

from common.encoders.card import CONFIG, WEIGHTS
from common.errors import UserError, cache_refused, one_line
from common.files import in_full

log = logging.getLogger("retouch")

SCHEME = "hf:"
INNER = "encoder"  # the folder of the encoder, where more than an encoder is there
FILES = [
    CONFIG,
    WEIGHTS,
    f"{INNER}/{CONFIG}",
    f"{INNER}/{WEIGHTS}",
    "classifiers/*/classifier.json",
    f"classifiers/*/{WEIGHTS}",
    "decoder/decoder.json",
    "decoder/decoder.safetensors",
]
NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)  # USER/NAME


def on_hub(path: str | Path) -> bool:
    """Whether this names a repository of the Hub, not a folder."""
    return str(path).startswith(SCHEME)


def hub_folder(path: str | Path) -> Path:
    """The folder of the Hub's cache with the files of ``hf:USER/NAME[@REVISION]``; they are downloaded if need be.

    One program sees one revision of a repository, whatever is written to it meanwhile. Without a network, the files of
    an earlier download are used.

    Raises:
        UserError: the name has another form, or the Hub has no such model or cannot be reached; says what to do.
    """
    return _downloaded(Path(path).as_posix())


def local_folder(path: str | Path) -> Path:
    """The folder on this machine: the one that is named, or that of ``hub_folder``."""
    return hub_folder(path) if on_hub(path) else in_full(path)


def forget_revisions() -> None:
    """Ask the Hub again for every repository that is named without a revision, as another program would."""
    _downloaded.cache_clear()


@cache
def _downloaded(spec: str) -> Path:
    name, _, revision = spec.removeprefix(SCHEME).partition("@")
    if NAME.fullmatch(name) is None:
        raise UserError(f"{spec}: the form is {SCHEME}USER/NAME, or {SCHEME}USER/NAME@REVISION")
    from huggingface_hub import errors, snapshot_download  # takes a second to import

    try:
        found = Path(snapshot_download(name, revision=revision or None, allow_patterns=FILES))
    except errors.RevisionNotFoundError:
        raise UserError(f"{spec}: the Hub has {name}, but no revision {revision!r} of it") from None
    except errors.GatedRepoError:
        raise UserError(
            f"{spec}: its authors ask for your consent: give it on the page of {name}, then log in with `hf auth login`"
        ) from None
    except errors.RepositoryNotFoundError:
        raise UserError(
            f"{spec}: the Hub has no such model, or it is private: check the name, or log in with `hf auth login`"
        ) from None
    except errors.LocalEntryNotFoundError:
        raise UserError(
            f"{spec}: the Hub cannot be reached (no network, or HF_HUB_OFFLINE is set), and this machine has not "
            "downloaded it before; use a folder, or try again with a network"
        ) from None
    except Exception as error:  # those of network libraries share no base class
        if kept := cache_refused(error, "HF_HOME"):
            raise UserError(f"{spec}: {kept}") from None
        raise UserError(f"{spec} cannot be downloaded: {one_line(error, 200)}") from None
    if not any((found / name).is_file() for name in (CONFIG, f"{INNER}/{CONFIG}")):
        raise UserError(f"{spec} is not an encoder: it has no {CONFIG}; use a model of Retouch or timm")
    log.info("%s: revision %s", spec, found.name)
    return found
