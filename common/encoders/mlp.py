"""A multilayer perceptron on whole small images, with a code that may be narrow or sparse."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from common.config import Config, validate
from common.encoders.base import View
from common.encoders.config import EncoderConfig
from common.encoders.vector import VectorEncoder, code_activation


class MLPArgs(Config):
    """Settings of ``mlp``, given as ``encoder.model_args``.

    Attributes:
        hidden: widths of the hidden layers, each followed by GELU.
        code: length h of the code.
        rectify: apply ReLU to the code, so that an L1 penalty can produce exact zeros.
        top_k: keep the k entries of largest magnitude in each code and set the others to zero.
    """

    hidden: tuple[Annotated[int, Field(ge=1, le=1 << 16)], ...] = (1024,)
    code: int = Field(default=256, ge=1, le=1 << 16)
    rectify: bool = False
    top_k: int | None = Field(default=None, gt=0, le=1 << 16)


class MLP(VectorEncoder):
    """Its layers are the hidden layers and the code, as maps ``[B h_l 1 1]``."""

    narrowed_by = "code"

    def __init__(self, config: EncoderConfig, image_size: int, view: View, mask_channel: bool) -> None:
        args = validate(MLPArgs, config.model_args, "encoder.model_args")
        super().__init__(config, image_size, view, mask_channel)
        self.args = args
        self.config = self.config.model_copy(update={"model_args": self.args.model_dump(mode="json")})
        widths = [self.dimension, *self.args.hidden]
        self.hidden = nn.ModuleList(
            nn.Sequential(nn.Linear(inputs, outputs), nn.GELU()) for inputs, outputs in pairwise(widths)
        )
        self.code = nn.Linear(widths[-1], self.args.code)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)
        self.settle()

    def codes(self, rows: Tensor) -> list[Tensor]:
        found = []
        for layer in self.hidden:
            rows = layer(rows)
            found.append(rows)
        return [*found, code_activation(self.code(rows), self.args.rectify, self.args.top_k)]

    @property
    def code_kept(self) -> int | None:
        return self.args.top_k

    def depths(self) -> dict[str, int]:
        """One depth per layer; code and classifier are deepest."""
        deepest = len(self.hidden)
        return {
            name: int(name.split(".")[1]) if name.startswith("hidden.") else deepest
            for name, _ in self.named_parameters()
        }
