"""The corruption contract: a frozen config, callable on images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar

import torch
from pydantic import AfterValidator, BeforeValidator
from torch import Tensor

from common.config import Config


class Corruption(Config, ABC):
    """Corrupts images; each draws its own parameters from the global generator of their device."""

    kind: str
    spared: ClassVar[str] = ""  # the images it cannot damage, as in "without color"; empty if it damages all

    @property
    def noise(self) -> float:
        """Largest standard deviation of the noise that takes pixels out of [0, 1]; infinite where it has no limit."""
        return 0.0

    def check(self, image_size: int) -> list[str]:
        """Problems of this corruption with square images of this side, as plain lines; empty if it damages them."""
        return []

    @abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """Images ``[B 3 H W]``, RGB in [0, 1], float32 -> the corrupted images, same shape."""


def _one_is_both(value: Any) -> Any:
    return (value, value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _in_order(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError(f"must be [lowest, highest], got [{value[0]:g}, {value[1]:g}]")
    return value


# `[lowest, highest]`, from which each image draws uniformly; a single number stands for both
Range = Annotated[tuple[float, float], BeforeValidator(_one_is_both), AfterValidator(_in_order)]


def between(low: float, high: float) -> AfterValidator:
    """A validator: the range must lie inside [low, high]."""

    def check(value: tuple[float, float]) -> tuple[float, float]:
        if value[0] < low or value[1] > high:
            raise ValueError(f"must lie between {low:g} and {high:g}, got [{value[0]:g}, {value[1]:g}]")
        return value

    return AfterValidator(check)


def draw(limits: tuple[float, float], images: Tensor) -> Tensor:
    """One number per image, uniform in ``limits``, ``[B]``."""
    return torch.empty(len(images), device=images.device).uniform_(*limits)
