"""The one rule of all untrained networks that are compared with: they lack learned weights, and nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from common.encoders.statistics import share_statistics
from pretrain.ruler.twin import untrained
from tests.common.encoders.family import FAMILY, Member
from tests.common.encoders.toys import images


@pytest.mark.parametrize("member", FAMILY, ids=str)
@torch.no_grad()
def test_with_its_learned_weights_the_twin_is_the_encoder(member: Member) -> None:
    batch, encoder, twin = images(16), member.build(), member.build()
    for parameter in encoder.parameters():
        parameter.add_(0.1 * torch.rand_like(parameter))
    for name in encoder.statistics:
        encoder.get_buffer(name).copy_(torch.rand_like(encoder.get_buffer(name)) / 10)
    encoder.mean.add_(0.05)  # as a timm folder may have constants of its own
    encoder.std.mul_(1.1)
    update_bn([batch], encoder)
    encoder.eval()
    norms = [name for name, one in encoder.named_modules() if isinstance(one, nn.BatchNorm2d)]
    own = {f"{name}.{kind}" for name in norms for kind in ("running_mean", "running_var")} | {*encoder.statistics}
    twin.load_state_dict(
        twin.state_dict() | {name: value for name, value in encoder.state_dict().items() if name not in own}
    )
    share_statistics(twin, encoder, [batch])
    assert not twin.training
    torch.testing.assert_close(twin(batch), encoder(batch), rtol=1e-4, atol=1e-5)

    watched = untrained(encoder, batch)
    for name in ("mean", "std", *encoder.statistics):
        assert torch.equal(watched.get_buffer(name), encoder.get_buffer(name))
