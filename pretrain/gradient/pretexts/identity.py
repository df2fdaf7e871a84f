"""Plain reconstruction through a narrow code."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from common.encoders.base import Encoder
from pretrain.gradient.example import Example
from pretrain.gradient.pretexts.restore import Restore
from pretrain.ruler.restorers import MEAN_IMAGE, Restorer, pca


class Identity(Restore):
    """``d(f(g(x)), x)``: nothing is damaged, so the code must be narrower than the image to learn anything."""

    kind: Literal["identity"] = "identity"
    narrow_code: ClassVar[bool] = True

    def check(self, encoder: Encoder) -> list[str]:
        depth, height, width = encoder.map_shape
        code, image = depth * height * width, 3 * encoder.image_size**2
        if code < image:
            return []
        at_most = max((image - 1) // (height * width), 1)
        narrower = f"set encoder.model_args.{encoder.narrowed_by} to at most {at_most}, " if encoder.narrowed_by else ""
        return [
            f"pretext.kind=identity needs a code narrower than the image, but {encoder.name} gives"
            f" {depth}x{height}x{width} = {code} numbers for an image of {image}: {narrower}"
            "choose an encoder with a smaller last map, or make the code sparse (penalty.l1, or top_k of the encoder)"
        ]

    def restorers(self, encoder: Encoder) -> tuple[Restorer, ...]:
        depth, height, width = encoder.map_shape
        size = (encoder.code_kept or depth) * height * width
        return (MEAN_IMAGE, Restorer(f"PCA of {size} numbers", pca(size)))

    def corrupt(self, images: Tensor, encoder: Encoder) -> Example:
        return Example(input=images, clean=images, target=images)
