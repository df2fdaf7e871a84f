"""The stem of a ResNet for small images, and the same stem in timm's own terms.

The small stem is one 3x3 convolution at full resolution and no pooling, as is usual for CIFAR (He et al. 2016, section
4.2). timm's ResNet always halves an image twice, so it has no such stem. But where every pixel is repeated 4x4 times,
it can compute the same: its 7x7 convolution with stride 2 and zeros in all but 3x3 places, and then, instead of the
max-pooling (``replace_stem_pool``), a 3x3 convolution with stride 2 that picks one place, followed by a norm and a
ReLU that change nothing.

In one dimension, with pixels ``x_0 .. x_{S-1}``: output ``a`` of the first convolution sees places ``2a - 3 .. 2a + 3``
of the enlarged image, so ``a = 2i + 1`` sees ``x_{i-1}`` at 0, ``x_i`` at 1 to 4, and ``x_{i+1}`` at 5 and 6; outside
of the image both see zeros. Output ``i`` of the second sees ``a = 2i - 1 .. 2i + 1``, and picks the last.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
import torch
from timm.models.resnet import ResNet
from torch import Tensor, nn

from common.errors import UserError

ENLARGED = 4  # how often timm's stem is shown each pixel, in both directions
TIMM_ARGS = {"stem_type": "", "replace_stem_pool": True}
PLACES = torch.tensor([0, 2, 5])  # of the three weights among seven
CONVOLUTION, POOL, NORM = "conv1.weight", "maxpool.0.weight", "maxpool.1"


def replace_stem(name: str, model: Any) -> None:
    """Give a ResNet the small stem.

    Raises:
        UserError: ``model``, which the user knows as ``name``, is not a ResNet.
    """
    if not isinstance(model, ResNet):
        raise UserError(f"encoder.stem: small replaces the stem of a ResNet, not of {name}; use auto or default")
    model.conv1 = nn.Conv2d(3, model.bn1.num_features, 3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()


def timm_has_it(model: Any, model_args: Mapping[str, Any]) -> bool:
    """Whether timm's stem can compute what the small stem of ``model`` does, which was built with ``model_args``.

    It cannot where the stem does not have 64 channels, has an activation other than ReLU, or pools with antialiasing.
    """
    if not isinstance(model.act1, nn.ReLU) or model.bn1.num_features != 64:
        return False
    with torch.device("meta"):  # for shapes alone
        args = {**model_args, **TIMM_ARGS}
        plain = timm.create_model(model.pretrained_cfg["architecture"], num_classes=model.num_classes, **args)
    wanted, found = plain.state_dict(), in_timms_terms(model.state_dict())
    return {name: tensor.shape for name, tensor in wanted.items()} == {name: t.shape for name, t in found.items()}


def in_timms_terms(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a network with the small stem -> of timm's network that computes the same of enlarged images."""
    small = tensors[CONVOLUTION]
    C = len(small)
    wide = small.new_zeros(C, 3, 7, 7)
    wide[:, :, PLACES[:, None], PLACES] = small
    pick = small.new_zeros(C, C, 3, 3)
    pick[:, :, 2, 2] = torch.eye(C, device=small.device)
    one, zero = small.new_ones(C), small.new_zeros(C)
    norm = {"weight": one, "bias": zero, "running_mean": zero.clone(), "running_var": one - nn.BatchNorm2d(1).eps}
    return {
        **tensors,
        CONVOLUTION: wide,
        POOL: pick,
        **{f"{NORM}.{name}": tensor for name, tensor in norm.items()},
        f"{NORM}.num_batches_tracked": tensors["bn1.num_batches_tracked"].clone(),
    }


def in_our_terms(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a network with the small stem again."""
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("maxpool.")}
    if CONVOLUTION in kept:
        kept[CONVOLUTION] = kept[CONVOLUTION][:, :, PLACES[:, None], PLACES].contiguous()
    return kept
