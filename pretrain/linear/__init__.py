"""The linear family: methods with their own fitting rule instead of gradient descent.

To add one, write its settings and learner in a file here, and list it in ``AnyLinear``.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from common.config import Config
from pretrain.linear.cca import Cca
from pretrain.linear.ica import Ica
from pretrain.linear.patch_dictionary import PatchDictionaryFit
from pretrain.linear.pca import Pca
from pretrain.linear.sparse_coding import SparseCoding
from pretrain.linear.tca import Tca

AnyLinear = Annotated[Pca | Ica | Cca | Tca | SparseCoding | PatchDictionaryFit, Field(discriminator="kind")]


class OneMethod(Config):
    """A single method, given as a mapping."""

    fit: AnyLinear


__all__ = ["AnyLinear", "Cca", "Ica", "OneMethod", "PatchDictionaryFit", "Pca", "SparseCoding", "Tca"]
