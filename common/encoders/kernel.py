"""A kernel code of whole small images, ``s = k(x, landmarks) A - shift``: transfer component analysis."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from common.config import Config, validate
from common.encoders.base import View
from common.encoders.config import EncoderConfig
from common.encoders.vector import VectorEncoder
from common.solvers.kernels import Kernel, kernel_rows


class KernelArgs(Config):
    """Settings of ``kernel``, given as ``encoder.model_args``.

    Attributes:
        code: length h of the code.
        landmarks: number m of images whose kernel functions span the code.
        kernel: ``linear`` or ``rbf``.
        width: width of the RBF kernel, in units of ``‖x‖`` for pixels in [0, 1].
    """

    code: int = Field(default=64, ge=1, le=1 << 16)
    landmarks: int = Field(default=1000, ge=1, le=1 << 16)
    kernel: Kernel = "rbf"
    width: float = Field(default=10.0, ge=1e-6, le=1e6)


class KernelCode(VectorEncoder):
    """Buffers: ``landmarks`` ``[m d]``, centered like the images; ``weight`` ``[m h]``; ``shift`` ``[h]``."""

    landmarks: Tensor
    weight: Tensor
    shift: Tensor

    def __init__(self, config: EncoderConfig, image_size: int, view: View, mask_channel: bool) -> None:
        args = validate(KernelArgs, config.model_args, "encoder.model_args")
        super().__init__(config, image_size, view, mask_channel)
        self.args = args
        self.config = self.config.model_copy(update={"model_args": args.model_dump()})
        # untrained: random points, about as far apart as images are
        places = torch.randn(args.landmarks, self.dimension) * args.width / self.dimension**0.5
        self.register_buffer("landmarks", places)
        self.register_buffer("weight", nn.init.orthogonal_(torch.empty(args.landmarks, args.code)))
        self.register_buffer("shift", torch.zeros(args.code))
        self.settle()

    def codes(self, rows: Tensor) -> list[Tensor]:
        with torch.autocast(rows.device.type, enabled=False):  # distances cancel in bfloat16
            kernel = kernel_rows(rows.float(), self.landmarks, self.args.kernel, self.args.width)
            return [kernel @ self.weight - self.shift]
