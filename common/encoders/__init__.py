"""Encoders: every one maps images to feature maps, through the contract of ``common.encoders.base``."""

from common.encoders.base import Encoder, TokenEncoder, View
from common.encoders.build import build_encoder
from common.encoders.config import EncoderConfig
from common.encoders.head import Classifier, layer_decay_groups

__all__ = ["Classifier", "Encoder", "EncoderConfig", "TokenEncoder", "View", "build_encoder", "layer_decay_groups"]
