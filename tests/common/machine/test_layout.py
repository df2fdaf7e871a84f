"""channels_last wherever torch is right in it, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from common.encoders import EncoderConfig, build_encoder
from common.machine.layout import channels_last
from tests.processes import finish, start

CPU = torch.device("cpu")


def gradients_of_float64() -> None:
    for channels in (2, 3, 4, 7, 8, 16):
        print(f"{channels} channels", flush=True)
        layer = nn.Conv2d(channels, 48, 1, stride=2)
        exact = nn.Conv2d(channels, 48, 1, stride=2).double()
        exact.load_state_dict(layer.state_dict())
        channels_last(layer, CPU)
        images = torch.rand(4, channels, 64, 64)
        for layout in (torch.contiguous_format, torch.channels_last):
            for _ in range(20):
                layer.zero_grad()
                layer(images.contiguous(memory_format=layout)).square().sum().backward()
                _ = [torch.rand(100) for _ in range(50)]  # the allocator notices what was overwritten
            exact.zero_grad()
            exact(images.double()).square().sum().backward()
            assert layer.weight.grad is not None
            assert exact.weight.grad is not None
            torch.testing.assert_close(layer.weight.grad.double(), exact.weight.grad, rtol=1e-4, atol=1e-2)


def steps_of_networks() -> None:
    for name in ("repvgg_a0", "mobileone_s0", "fastvit_t8"):
        print(name, flush=True)
        encoder = build_encoder(EncoderConfig(name=f"timm/{name}"), image_size=64)
        channels_last(encoder, CPU)
        for _ in range(3):
            encoder(torch.rand(4, 3, 64, 64)).square().mean().backward()


def test_strided_pointwise_convolutions_have_the_gradients_of_float64(tmp_path: Path) -> None:
    """In a process of its own, as below, because a wrong layout corrupts memory."""
    finish(start(tmp_path / "said", gradients_of_float64), tmp_path / "said")


def test_networks_that_start_with_such_a_layer_learn(tmp_path: Path) -> None:
    finish(start(tmp_path / "said", steps_of_networks), tmp_path / "said")


def test_every_other_layer_is_channels_last() -> None:
    layers = [
        nn.Conv2d(3, 8, 3, stride=2),
        nn.Conv2d(3, 8, 1),
        nn.Conv2d(64, 8, 1, stride=2),
        nn.Conv2d(8, 8, 2, stride=2, groups=8),
        nn.Conv2d(3, 8, 1, stride=2),
    ]
    channels_last(nn.Sequential(*layers), CPU)
    # neighboring pixels of a filter are as far apart as it has channels
    assert [layer.weight.stride(3) for layer in layers] == [3, 3, 64, 1, 1]
