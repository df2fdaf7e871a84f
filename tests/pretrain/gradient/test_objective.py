"""The autoencoder keeps what its pretext learned, and shows restored images without disturbing training."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from common.encoders import Encoder
from pretrain.gradient.decoders import DecoderConfig
from pretrain.gradient.objective import Objective
from pretrain.gradient.pretexts import Colorize, Denoise, Mask, Pretext

EncoderFor = Callable[[Pretext, str], Encoder]


def test_what_the_pretext_learned_is_saved_with_the_weights(photographs: Tensor, encoder_for: EncoderFor) -> None:
    pretext = Colorize(bins=12)
    model = Objective(encoder_for(pretext, "cnn"), DecoderConfig(width=32), pretext)
    other = Objective(encoder_for(pretext, "cnn"), DecoderConfig(width=32), pretext)
    model.fit(photographs)
    other.fit(photographs.flip(1))
    assert not torch.equal(model.state["centers"], other.state["centers"])
    assert torch.equal(model.state_dict()["state_centers"], model.state["centers"])
    other.load_state_dict(model.state_dict())
    assert all(torch.equal(model.state[name], other.state[name]) for name in model.state)


@pytest.mark.parametrize("name", ["cnn", "vit"])
def test_restore_leaves_training_undisturbed(name: str, photographs: Tensor, encoder_for: EncoderFor) -> None:
    pretext = Mask(size=4)
    model = Objective(encoder_for(pretext, name), DecoderConfig(width=32), pretext).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    example, restored = model.restore(photographs)
    assert restored.shape == example.clean.shape == photographs.shape
    assert not restored.requires_grad
    assert model.training
    assert model.encoder.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_restore_of_one_image_does_not_depend_on_the_others(photographs: Tensor, encoder_for: EncoderFor) -> None:
    pretext = Colorize(objective="regression")
    model = Objective(encoder_for(pretext, "cnn"), DecoderConfig(width=32), pretext)
    assert torch.allclose(model.restore(photographs)[1][:1], model.restore(photographs[:1])[1], atol=1e-5)


def test_a_transformer_decodes_whole_images_too(photographs: Tensor, encoder_for: EncoderFor) -> None:
    pretext = Denoise()
    model = Objective(encoder_for(pretext, "vit"), DecoderConfig(kind="transformer", width=32, depth=1), pretext)
    losses = model(photographs)
    assert list(losses) == ["restore"]
    losses["restore"].backward()
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    assert [name for name, parameter in trainable if parameter.grad is None] == []
