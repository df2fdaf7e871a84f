"""Networks of every kind to export, the formats that can hold each, and the settings of an export."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from common.encoders import Encoder
from tests.common.encoders.toys import TINY_VIT, build

NAMES = ("cat", "dog", "fox")


class Kind(NamedTuple):
    """An encoder, and the formats that can hold it."""

    name: str
    encoder: str
    args: dict[str, Any] = {}  # noqa: RUF012
    view: str = "rgb"
    timm: bool = False
    graph: bool = True

    def __str__(self) -> str:
        return self.name

    def build(self) -> Encoder:
        return build(self.encoder, self.args, view=self.view)


SHALLOW = {"channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1]}  # an exporter's time grows with the number of operations
SHORT = {"depths": [1, 1, 1, 1]}
KINDS = (
    Kind("small_cnn", "small_cnn", {"width": 8, "depth": 1}),
    Kind("gray", "small_cnn", {"width": 8, "depth": 1}, view="gray"),
    Kind("code", "small_cnn", {"width": 8, "depth": 1, "code_channels": 16, "top_k": 4}),
    Kind("resnet", "timm/resnet18", SHALLOW, timm=True),  # with the stem for small images
    Kind("gray resnet", "timm/resnet18", SHALLOW, view="gray", timm=True),
    Kind("convnext", "timm/test_convnext", SHORT, timm=True),
    Kind("vit", "timm/vit_tiny_patch16_224", {**TINY_VIT, "depth": 1}, timm=True),
    Kind("antialiased", "timm/resnetblur18", SHALLOW),  # a stem that timm cannot have
    Kind("mlp", "mlp", {"hidden": [16], "code": 8}),
    Kind("pca", "linear", {"code": 8}),
    Kind("tca", "kernel", {"code": 8, "landmarks": 16}),
    Kind("patches", "patch_dictionary", {"atoms": 16}),
    Kind("triangle", "patch_dictionary", {"atoms": 16, "code": "triangle", "mirror": False}),
    Kind("top_k", "patch_dictionary", {"atoms": 16, "code": "top_k", "top_k": 4}),
    Kind("lasso", "patch_dictionary", {"atoms": 16, "code": "lasso", "l1": 4.0}, graph=False),
    Kind("sparse_code", "sparse_code", {"atoms": 16}, graph=False),
)


def settings(to: Path, form: str, *more: str) -> list[str]:
    """Settings of an export in one format, checked on few images."""
    return [f"to={to}", f"format={form}", "check=8", *more]
