"""A linear code of whole images, ``s = V (x - center)``: PCA, ICA, CCA, and the linear sparse autoencoder."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from common.config import Config, validate
from common.encoders.base import View
from common.encoders.config import EncoderConfig
from common.encoders.vector import Rows, VectorEncoder


class LinearArgs(Config):
    """Settings of ``linear``, given as ``encoder.model_args``: ``code`` is the length h of the code."""

    code: int = Field(default=256, ge=1, le=1 << 16)


class Linear(VectorEncoder):
    """``V`` is ``[h d]``, ``d = 3 S²``; without a bias, so that the mean image has code zero."""

    narrowed_by = "code"

    def __init__(self, config: EncoderConfig, image_size: int, view: View, mask_channel: bool) -> None:
        args = validate(LinearArgs, config.model_args, "encoder.model_args")
        super().__init__(config, image_size, view, mask_channel)
        self.config = self.config.model_copy(update={"model_args": args.model_dump()})
        self.code = Rows(self.dimension, args.code)
        self.settle()

    def codes(self, rows: Tensor) -> list[Tensor]:
        return [self.code(rows)]
