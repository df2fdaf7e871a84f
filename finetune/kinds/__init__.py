"""The kinds of labels that a probe measures. ``base.py`` has their contract, and ``finetune/probe.py`` drives them.

To add one, write its class, list it in ``KINDS``, and let ``kind_of`` choose it.
"""

from __future__ import annotations

from finetune.kinds.base import AnyKind, AnyReady, LabelKind, Measured, Ready, Shared
from finetune.kinds.classes import ClassLabels
from finetune.kinds.labels import SeveralLabels
from finetune.kinds.masks import MaskLabels
from finetune.multilabel.data import ProbeData

KINDS: tuple[type[AnyKind], ...] = (ClassLabels, SeveralLabels, MaskLabels)  # in the order of a report


def kind_of(data: ProbeData) -> type[AnyKind]:
    """The kind of labels that these settings name."""
    if data.masks is not None:
        return MaskLabels
    return SeveralLabels if data.labels else ClassLabels


__all__ = [
    "KINDS",
    "AnyKind",
    "AnyReady",
    "ClassLabels",
    "LabelKind",
    "MaskLabels",
    "Measured",
    "Ready",
    "SeveralLabels",
    "Shared",
    "kind_of",
]
