"""Memory format: channels_last, in which most convolutions are faster, except where torch is wrong in it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

# On CPUs, the backward pass of a strided 1x1 convolution of few channels writes outside its buffers if image or weight
# is channels_last (torch 2.15, AVX2: 2 to 7 input channels end in SIGSEGV or "free(): invalid next size", 8 and more
# do not; the forward pass, stride 1, larger kernels and groups are right). The bound is one register of float32, which
# has 16 places with AVX-512. timm's repvgg, mobileone and fastvit start with such a layer.
FEW_CHANNELS = 16


def channels_last(module: nn.Module, device: torch.device) -> None:
    """Move ``module`` to ``device`` with weights in channels_last, except layers in which torch is unsafe with it."""
    module.to(device).to(memory_format=torch.channels_last)
    if device.type == "cpu":
        for layer in module.modules():
            if _unsafe(layer):
                _keep_contiguous(layer)


def _unsafe(layer: nn.Module) -> bool:
    return (
        isinstance(layer, nn.Conv2d)
        and layer.kernel_size == (1, 1)
        and layer.stride != (1, 1)
        and layer.groups == 1
        and layer.in_channels < FEW_CHANNELS
    )


def _keep_contiguous(layer: Any) -> None:
    # a clone, because a 1x1 weight counts as contiguous with either strides, and a conversion would change nothing
    layer.weight.data = layer.weight.data.clone(memory_format=torch.contiguous_format)
    layer.register_forward_pre_hook(_contiguous)


def _contiguous(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(tensor.contiguous() for tensor in inputs)
