"""Methods that are fitted by a rule of their own: PCA, ICA, CCA, TCA, sparse coding, patch dictionaries."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from common.config import Config
from pretrain.fits.base import Fit, FitLearner
from pretrain.fits.memory import fit
from pretrain.fits.patch_dictionary import PatchDictionaryFit
from pretrain.fits.projections import Cca, Ica, Pca
from pretrain.fits.sparse_coding import SparseCoding
from pretrain.fits.transfer import Tca

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
