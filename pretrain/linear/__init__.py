"""The linear family: methods that learn by a rule of their own instead of a gradient."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from common.config import Config
from pretrain.linear.base import Fit, FitLearner
from pretrain.linear.memory import fit
from pretrain.linear.patch_dictionary import PatchDictionaryFit
from pretrain.linear.projections import Cca, Ica, Pca
from pretrain.linear.sparse_coding import SparseCoding
from pretrain.linear.transfer import Tca

AnyFit = Annotated[Pca | Ica | Cca | Tca | SparseCoding | PatchDictionaryFit, Field(discriminator="kind")]


class OneFit(Config):
    """A method given alone, by its mapping."""

    fit: AnyFit


__all__ = [
    "AnyFit",
    "Cca",
    "Fit",
    "FitLearner",
    "Ica",
    "OneFit",
    "PatchDictionaryFit",
    "Pca",
    "SparseCoding",
    "Tca",
    "fit",
]
