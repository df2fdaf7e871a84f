"""Every decoder gives the requested shape for every encoder it supports, and refuses the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor

from common.encoders import Encoder
from common.engine.gradient import decayed_names
from common.errors import UserError
from pretrain.gradient.decoders import DecoderConfig, LinearDecoder, TransformerDecoder, UNet, Upsampler, build_decoder
from pretrain.gradient.decoders.transformer import sine_positions
from pretrain.gradient.pretexts import Denoise, Pretext

EncoderFor = Callable[[Pretext, str], Encoder]


@pytest.mark.parametrize("name", ["cnn", "vit"])
@pytest.mark.parametrize("kind", ["upsampler", "unet"])
@pytest.mark.parametrize(("channels", "side"), [(3, 16), (12, 4), (2, 8), (1, 1), (3, 12), (3, 32)])
def test_maps_become_the_requested_shape(
    name: str,
    kind: Literal["upsampler", "unet"],
    channels: int,
    side: int,
    encoder_for: EncoderFor,
    photographs: Tensor,
) -> None:
    encoder = encoder_for(Denoise(), name)
    decoder = build_decoder(DecoderConfig(kind=kind, width=32), encoder, channels, side)
    assert decoder(encoder.layers(photographs)).shape == (16, channels, side, side)


@pytest.mark.parametrize("kind", ["upsampler", "unet"])
def test_pixels_of_one_position_start_equal(
    kind: Literal["upsampler", "unet"], encoder_for: EncoderFor, photographs: Tensor
) -> None:
    encoder = encoder_for(Denoise(), "vit")  # maps of 4x4
    decoder = build_decoder(DecoderConfig(kind=kind, width=32, subpixel=2), encoder, 3, 16)
    image = decoder(encoder.layers(photographs))
    coarse = image[:, :, ::2, ::2].repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert torch.allclose(image, coarse, atol=1e-6)
    assert image.std() > 0


@pytest.mark.parametrize(
    ("kind", "masked"), [("upsampler", False), ("unet", False), ("transformer", False), ("transformer", True)]
)
def test_every_parameter_gets_a_gradient(
    kind: Literal["upsampler", "unet", "transformer"], masked: bool, encoder_for: EncoderFor, photographs: Tensor
) -> None:
    encoder = encoder_for(Denoise(), "vit")
    decoder = build_decoder(DecoderConfig(kind=kind, width=32), encoder, 3, 16, masked=masked)
    if kind == "transformer":
        visible = torch.arange(4).expand(16, -1) if masked else None
        output = decoder(torch.randn(16, 4 if masked else 16, 32), visible)
    else:
        output = decoder(encoder.layers(photographs))
    output.square().mean().backward()
    assert [name for name, parameter in decoder.named_parameters() if parameter.grad is None] == []


def test_auto_depends_on_the_output_of_the_encoder(encoder_for: EncoderFor) -> None:
    vit = encoder_for(Denoise(), "vit")
    assert isinstance(build_decoder(DecoderConfig(), vit, 3, 16, masked=True), TransformerDecoder)
    assert isinstance(build_decoder(DecoderConfig(), vit, 3, 16), Upsampler)
    assert isinstance(build_decoder(DecoderConfig(kind="unet"), vit, 3, 16), UNet)


def test_the_transformer_reads_tokens_in_any_order() -> None:
    torch.manual_seed(0)
    decoder = TransformerDecoder(8, (4, 4), 3, 16, width=32, blocks=2, masked=True).eval()
    tokens, visible = torch.randn(2, 5, 8), torch.tensor([[0, 3, 7, 8, 15], [1, 2, 4, 9, 14]])
    order = torch.tensor([3, 0, 4, 1, 2])
    assert torch.allclose(decoder(tokens, visible), decoder(tokens[:, order], visible[:, order]), atol=1e-5)


def test_patches_land_in_their_positions() -> None:
    decoder = TransformerDecoder(8, (2, 3), 1, 4, width=32, blocks=1, masked=False)
    patches = torch.arange(2 * 3 * 4).view(1, 6, 4).float()
    image = decoder.unpatch(patches)[0, 0]
    assert image.tolist() == [
        [0, 1, 4, 5, 8, 9],
        [2, 3, 6, 7, 10, 11],
        [12, 13, 16, 17, 20, 21],
        [14, 15, 18, 19, 22, 23],
    ]


def test_positions_are_distinct_for_all_patches() -> None:
    positions = sine_positions((8, 8), 64)[0]
    assert positions.shape == (64, 64)
    assert (torch.cdist(positions, positions) + torch.eye(64) > 0.5).all()


def test_decoders_that_do_not_fit_are_refused(encoder_for: EncoderFor) -> None:
    vit = encoder_for(Denoise(), "vit")
    with pytest.raises(UserError, match="cannot restore the patches that this encoder drops"):
        build_decoder(DecoderConfig(kind="unet"), vit, 3, 16, masked=True)
    with pytest.raises(UserError) as caught:
        build_decoder(DecoderConfig(kind="transformer", width=40), vit, 3, 18)
    assert len(caught.value.problems) == 2
    assert "ends in 4x4, the target has side 18; use decoder.kind=upsampler" in str(caught.value)


def test_tokens_and_the_mean_cell_are_not_decayed() -> None:
    transformer = TransformerDecoder(8, (2, 2), 3, 16, width=32, blocks=1, masked=True)
    assert transformer.mask_token is not None
    assert "mask_token" not in decayed_names(transformer)
    assert {"embed.weight", "last.weight"} <= decayed_names(transformer)
    assert decayed_names(LinearDecoder(8, 2, 3, 16, unit_norm=True)) == {"weight"}
