"""timm's models as encoders: the whole model, read through its intermediate features."""

from __future__ import annotations

import contextlib
import copy
import logging
from typing import Any

import torch
from timm.layers import PatchEmbed
from timm.models import group_parameters
from timm.models.hiera import Hiera
from timm.models.hieradet_sam2 import HieraDet
from timm.models.vision_transformer import VisionTransformer
from timm.optim import auto_group_layers
from torch import Tensor, nn

from common.encoders.base import MEAN, STD, Encoder, MaskChannel, TokenEncoder, View
from common.encoders.config import EncoderConfig
from common.encoders.small_stem import timm_has_it
from common.encoders.timm_model import MIN_SIDE, add_mask_channel, create_timm_model, other_size

log = logging.getLogger("retouch")

MAX_LAYERS = 6  # evenly spaced maps read from a deep model


def build_timm_encoder(config: EncoderConfig, image_size: int, view: View, mask_channel: MaskChannel) -> TimmEncoder:
    """A token encoder for a VisionTransformer that embeds patches independently, a plain one for all other models."""
    model, resolved = create_timm_model(config, image_size)
    by_patch = isinstance(model, VisionTransformer) and type(model.patch_embed) is PatchEmbed
    kind = TimmTokenEncoder if by_patch else TimmEncoder
    masked = not by_patch if mask_channel == "maps" else mask_channel
    encoder = kind(model, resolved, image_size, view, masked)
    side = min(encoder.map_shape[1:])
    if config.stem == "auto" and side < MIN_SIDE:
        log.warning(
            "%s: the last map of a %d px image is only %dx%d; larger images or another model may learn more",
            *(config.name, image_size, side, side),
        )
    return encoder


class TimmEncoder(Encoder):
    """A timm model read through ``forward_intermediates``; images are standardized as timm does for this model."""

    def __init__(self, model: Any, config: EncoderConfig, image_size: int, view: View, mask_channel: bool) -> None:
        mean, std = (model.pretrained_cfg.get(key, ()) for key in ("mean", "std"))
        if len(mean) != 3 or len(std) != 3:
            mean, std = MEAN, STD
        super().__init__(config.name, image_size, view, mask_channel, mean=mean, std=std)
        self.config = config
        self.model = model
        self._picks: list[int] | None = None  # all
        self.normed = not isinstance(model, (Hiera, HieraDet))  # they refuse to normalize their maps
        if mask_channel and not add_mask_channel(model, config):
            raise self.refusal("its first layer takes no mask channel; use another model or pretext")
        self.settle()
        count = len(self.layer_shapes)
        if count > MAX_LAYERS:
            self._picks = [round((i + 1) * count / MAX_LAYERS) - 1 for i in range(MAX_LAYERS)]
            self.layer_shapes = [self.layer_shapes[i] for i in self._picks]

    @property
    def body(self) -> nn.Module:
        """timm's own model, whose tensors have timm's names."""
        body: nn.Module = self.model
        return body

    @property
    def plain(self) -> bool:
        """Whether timm alone can build a network that computes the same, from its name and arguments."""
        return self.config.stem != "small" or timm_has_it(self.model, self.config.model_args)

    def tensors_at(self, size: int) -> dict[str, Tensor]:
        """Position embeddings are resampled by timm, for models that know the size of their images."""
        if "img_size" not in self.config.model_args or size == self.image_size:
            return self.state_dict()
        other = copy.deepcopy(self)
        # third-party code refuses sizes in its own ways, and the shapes then tell
        with contextlib.suppress(Exception):
            other.model.set_input_size(img_size=(size, size))
        return other.state_dict()

    def layers(self, images: Tensor) -> list[Tensor]:
        """Images ``[B 3 H W]`` -> one map per stage, or of six evenly spaced blocks, with timm's final norm."""
        maps: list[Tensor] = self.model.forward_intermediates(
            self.prepare(images), indices=self._picks, norm=self.normed, intermediates_only=True
        )
        return maps

    def advice(self) -> str:
        """Another size of images, if the model takes one."""
        size = other_size(self.config, self.image_size, self.model)
        return "; use another model" if size is None else f"; set data.image_size={size}"

    @property
    def takes_classifier(self) -> bool:
        """Some of timm's models are encoders only."""
        return hasattr(self.model, "reset_classifier")

    def add_classifier(self, num_classes: int) -> None:
        """timm's own pooling and classifier for this model."""
        self.model.reset_classifier(num_classes)
        self.model.to(self.mean.device)
        self.num_classes = num_classes
        self._train_only_path_of(self.logits)

    def remove_classifier(self) -> None:
        """Remove the classifier; timm's pooling and final norm stay."""
        self.model.reset_classifier(0)
        self.num_classes = 0
        self._train_only_path_of(self.forward)

    @property
    def linear_classifier(self) -> nn.Linear | None:
        """timm's classifier, where it is one linear layer: some models have two, or a convolution."""
        found = self.model.get_classifier()
        return found if isinstance(found, nn.Linear) else None

    def logits(self, images: Tensor) -> Tensor:
        """Images ``[B 3 H W]``, RGB in [0, 1] -> logits ``[B classes]``, exactly timm's ``forward``."""
        logits: Tensor = self.model(self.prepare(images))
        return logits

    def depths(self) -> dict[str, int]:
        """timm's own grouping of layers; anything it does not group (the classifier) is deepest."""
        if hasattr(self.model, "group_matcher"):
            places = group_parameters(self.model, self.model.group_matcher(coarse=False), reverse=True)
        else:
            places = auto_group_layers(self.model)
        deepest = max(places.values())
        return {f"model.{name}": places.get(name, deepest) for name, _ in self.model.named_parameters()}


class TimmTokenEncoder(TimmEncoder, TokenEncoder):
    """A timm VisionTransformer with absolute (or no) position embedding; patches can be left out before the blocks.

    The class and register tokens, where the model has them, are always present and never returned.
    """

    def settle(self) -> None:
        """Also refuse patches that do not tile the image."""
        down, across = self.model.patch_embed.patch_size
        if down != across or self.image_size % down:
            raise self.refusal(f"patches of {down}x{across} px do not tile it; set encoder.model_args.patch_size")
        self.patch_size = down
        super().settle()

    def layers(self, images: Tensor) -> list[Tensor]:
        """Images ``[B 3 H W]`` -> the patch tokens of six evenly spaced blocks as maps; the last is normalized."""
        blocks = self.model.blocks
        picks = range(len(blocks)) if self._picks is None else self._picks
        x, maps = self._embed(images, None), []
        for i, block in enumerate(blocks):
            x = block(x)
            if i in picks:
                maps.append(self._as_map(self.model.norm(x) if i == len(blocks) - 1 else x))
        return maps

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[B 3 H W]`` -> the last map ``[B D h w]``."""
        return self._as_map(self.model.norm(self.model.blocks(self._embed(images, None))))

    def tokens(self, images: Tensor, visible: Tensor) -> Tensor:
        """Images ``[B 3 H W]``, indices of kept patches ``[B n]`` (row-major) -> their tokens ``[B n D]``.

        The other patches are dropped before the first block (He et al. 2022, "Masked autoencoders", section 3). With
        all patches kept in order, the tokens are those of ``forward``.
        """
        x: Tensor = self.model.norm(self.model.blocks(self._embed(images, visible)))
        return x[:, self.model.num_prefix_tokens :]

    def _embed(self, images: Tensor, visible: Tensor | None) -> Tensor:
        """Class and register tokens, then embedded patches with positions ``[B p+n D]``."""
        x = self.model._pos_embed(self.model.patch_embed(self.prepare(images)))
        if visible is not None:
            prefix, patches = x[:, : self.model.num_prefix_tokens], x[:, self.model.num_prefix_tokens :]
            x = torch.cat([prefix, patches.gather(1, visible[..., None].expand(-1, -1, x.shape[2]))], dim=1)
        embedded: Tensor = self.model.norm_pre(x)
        return embedded

    def _as_map(self, x: Tensor) -> Tensor:
        patches = x[:, self.model.num_prefix_tokens :]
        return patches.transpose(1, 2).reshape(x.shape[0], x.shape[2], *self.grid)  # [B h*w D] -> [B D h w]
