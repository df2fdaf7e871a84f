"""Probes: small classifiers on frozen features, each a frozen config that chooses, refits and predicts.

To add one, write its class with a new ``kind``, and list it in ``AnyProbe``.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from finetune.probes.attentive import Attentive
from finetune.probes.base import Fitted, Probe
from finetune.probes.classifiers import Answers, Classifiers, Rows
from finetune.probes.linear import Linear
from finetune.probes.means import NearestMean
from finetune.probes.nearest import Nearest
from finetune.probes.search import Candidates, Chosen, Search, Standardizer, Task, build_task

AnyProbe = Annotated[Linear | Nearest | NearestMean | Attentive, Field(discriminator="kind")]

__all__ = [
    "Answers",
    "AnyProbe",
    "Attentive",
    "Candidates",
    "Chosen",
    "Classifiers",
    "Fitted",
    "Linear",
    "Nearest",
    "NearestMean",
    "Probe",
    "Rows",
    "Search",
    "Standardizer",
    "Task",
    "build_task",
]
