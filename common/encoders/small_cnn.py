"""A small convolutional network for images of 32 to 64 px, fast on CPUs."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator
from torch import Tensor, nn

from common.config import Config, validate
from common.encoders.base import Encoder, View, check_own
from common.encoders.config import EncoderConfig
from common.encoders.vector import code_activation

STAGES = 3  # each halves the side: 32 px -> 16, 8, 4


class SmallCNNArgs(Config):
    """Settings of ``small_cnn``, given as ``encoder.model_args``.

    Attributes:
        width: channels of the first stage; each further stage has twice as many.
        depth: convolutions per stage; the first halves the side.
        code_channels: append a 1x1 convolution to this many channels: a narrow code as the last map.
        rectify: apply ReLU to that code, so that an L1 penalty can produce exact zeros.
        top_k: keep the k channels of largest magnitude at each position of that code.
    """

    width: int = Field(default=64, ge=1, le=4096)
    depth: int = Field(default=2, ge=1, le=64)
    code_channels: int | None = Field(default=None, ge=1, le=65536)
    rectify: bool = False
    top_k: int | None = Field(default=None, gt=0, le=1 << 16)

    @model_validator(mode="after")
    def _code_is_there(self) -> Self:
        if self.code_channels is None and (self.rectify or self.top_k):
            raise ValueError("rectify and top_k need a code: set code_channels too")
        return self


class SmallCNN(Encoder):
    """Three stages of dense convolutions, 4x4 first and then 3x3, with BatchNorm and ReLU.

    Dense 3x3 convolutions keep a CPU's matrix units busy; depthwise ones are memory-bound.
    """

    narrowed_by = "code_channels"

    def __init__(self, config: EncoderConfig, image_size: int, view: View, mask_channel: bool) -> None:
        check_own(config)
        args = validate(SmallCNNArgs, config.model_args, "encoder.model_args")
        super().__init__(config.name, image_size, view, mask_channel)
        self.args = args
        if image_size % 2**STAGES or image_size < 2 ** (STAGES + 1):
            raise self.refusal(
                f"it halves images {STAGES} times; use a multiple of {2**STAGES} px, at least {2 ** (STAGES + 1)} px"
            )
        self.config = config.model_copy(update={"model_args": args.model_dump(), "stem": "default"})
        # A strided 4x4 stem: a 3x3 convolution of three channels at full resolution is five times slower on a CPU.
        channels = args.width
        self.blocks = nn.ModuleList([_block(4 if mask_channel else 3, channels, kernel=4, stride=2)])
        for stage in range(STAGES):
            width = args.width * 2**stage
            for place in range(1 if stage == 0 else 0, args.depth):
                self.blocks.append(_block(channels, width, kernel=3, stride=1 if place or stage == 0 else 2))
                channels = width
        self.code = None if args.code_channels is None else nn.Conv2d(channels, args.code_channels, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.settle()

    def layers(self, images: Tensor) -> list[Tensor]:
        """Images ``[B 3 S S]`` -> each convolution's map, ``[B w S/2 S/2]`` to ``[B 4w S/8 S/8]``, then the code."""
        x = self.prepare(images)
        maps = []
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        if self.code is None:
            return maps
        return [*maps, code_activation(self.code(x), self.args.rectify, self.args.top_k)]

    @property
    def code_kept(self) -> int | None:
        return self.args.top_k

    def depths(self) -> dict[str, int]:
        """One depth per convolution; code and classifier are deepest."""
        depths, deepest = {}, len(self.blocks)
        for name, _ in self.named_parameters():
            module, _, rest = name.partition(".")
            depths[name] = int(rest.partition(".")[0]) if module == "blocks" else deepest
        return depths


def _block(channels: int, width: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, kernel, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )
