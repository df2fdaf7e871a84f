"""Every pretext with every kind of encoder it supports: the members of its contract, and of others."""

from __future__ import annotations

from common.corruptions import Blur, Gaussian, Gray, Holes, Jpeg, SaltPepper
from pretrain.gradient.pretexts import Colorize, Denoise, Identity, Mask, Mixed, Pretext

SIDE = 16
EVERYTHING = [Gaussian(), SaltPepper(), Blur(), Jpeg(), Gray(), Holes()]
EVERY: dict[str, tuple[Pretext, str]] = {
    "denoise": (Denoise(), "cnn"),
    "denoise-l1-salt": (Denoise(corruption=SaltPepper(), distance="l1"), "cnn"),
    "denoise-whitened-blur": (Denoise(corruption=Blur(), distance="whitened"), "cnn"),
    "denoise-jpeg-vit": (Denoise(corruption=Jpeg()), "vit"),
    "colorize-classification": (Colorize(bins=12), "cnn"),
    "colorize-regression": (Colorize(objective="regression"), "cnn"),
    "colorize-vit": (Colorize(bins=12), "vit"),
    "mask-cnn": (Mask(size=4, normalize_patches=False), "cnn"),
    "mask-cnn-normalized": (Mask(size=2, distance="l1"), "cnn"),
    "mask-vit": (Mask(normalize_patches=False), "vit"),
    "mask-vit-normalized": (Mask(), "vit"),
    "mixed": (Mixed(), "cnn"),
    "mixed-everything": (Mixed(members=EVERYTHING, at_most=3, distance="whitened"), "cnn"),
    "mixed-vit": (Mixed(members=[Gaussian(), Gray()]), "vit"),
    "identity": (Identity(), "narrow"),
}
