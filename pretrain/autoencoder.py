"""The autoencoder: an encoder, a decoder, and the pretext that says what they are for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from common.encoders.base import Encoder, TokenEncoder
from common.errors import UserError
from pretrain.decoders import DecoderConfig, TransformerDecoder, build_decoder
from pretrain.example import Example
from pretrain.pretexts.base import Pretext, State


class Autoencoder(nn.Module):
    """``d(f(g(c(x))), t(x))`` as named losses.

    What the pretext learns from data (``fit``) is kept in buffers ``state_<name>``: saved with the weights, moved with
    the module.

    Raises:
        UserError: no decoder of this kind can serve this encoder and pretext.
    """

    def __init__(self, encoder: Encoder, decoder: DecoderConfig, pretext: Pretext, state: State | None = None) -> None:
        super().__init__()
        if pretext.narrow_code and decoder.kind == "unet":
            raise UserError(
                f"decoder.kind=unet would lead pretext.kind={pretext.kind} round its narrow code: use upsampler"
            )
        channels, side = pretext.output(encoder.image_size)
        self.encoder, self.pretext = encoder, pretext
        self.decoder = build_decoder(decoder, encoder, channels, side, masked=pretext.drops_tokens(encoder))
        self._keep(state or {})

    def fit(self, images: Tensor) -> None:
        """Let the pretext learn what it needs from a sample of training images ``[N 3 H W]`` in [0, 1]."""
        self._keep(self.pretext.fit(images))

    def _keep(self, state: State) -> None:
        self._state_names = tuple(state)
        for name, value in state.items():
            self.register_buffer(f"state_{name}", value)

    @property
    def state(self) -> dict[str, Tensor]:
        """What the pretext learned from data."""
        return {name: getattr(self, f"state_{name}") for name in self._state_names}

    def forward(self, example: Example) -> dict[str, Tensor]:
        """Named losses, each a scalar; their sum is minimised."""
        return {"restore": self.pretext.loss(self.predict(example), example, self.state)}

    def predict(self, example: Example) -> Tensor:
        """What the decoder makes of the damaged input, ``[B K h' w']``."""
        prediction: Tensor
        if not isinstance(self.decoder, TransformerDecoder):
            prediction = self.decoder(self.encoder.layers(example.input))
        elif example.visible is None:
            prediction = self.decoder(self.encoder(example.input).flatten(2).transpose(1, 2))
        else:
            assert isinstance(self.encoder, TokenEncoder), "only an encoder of tokens can have some dropped"
            prediction = self.decoder(self.encoder.tokens(example.input, example.visible), example.visible)
        return prediction

    @torch.no_grad()
    def restore(self, images: Tensor) -> tuple[Example, Tensor]:
        """Clean images ``[B 3 H W]`` in [0, 1] -> the damaged example, and restored RGB in [0, 1], same shape."""
        training = self.training
        self.eval()
        try:
            example = self.pretext.corrupt(images, self.encoder)
            return example, self.pretext.picture(self.predict(example), example, self.state)
        finally:
            self.train(training)
