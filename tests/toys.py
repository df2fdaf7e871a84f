"""Small stand-ins shared by tests of the loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from common.data import Images, Labels, Source
from common.data.loader import Identity
from common.engine.checkpoint import TrainingState
from common.engine.settings import GradientConfig
from common.runs.folder import StageConfig

# CoaT gives intermediate features, and Qwen's encoder exists, since timm 1.0.30; 1.0.27 is enough for all else
new_timm = pytest.mark.skipif(not timm.is_model("qwen3_vit_88m_enc"), reason=f"timm {timm.__version__} is too old")


class RandomSource(Source):
    """Seeded noise images, already decoded."""

    spec = "noise"
    tasks = ()

    def __init__(self, length: int = 40, size: int = 8) -> None:
        generator = torch.Generator().manual_seed(0)
        self.pixels = torch.randint(0, 256, (length, 3, size, size), dtype=torch.uint8, generator=generator)

    @property
    def fingerprint(self) -> str:
        return "0" * 64

    def __len__(self) -> int:
        return len(self.pixels)

    def image(self, index: int) -> Image.Image | Tensor:
        return self.pixels[index]

    def where(self, index: int) -> str:
        return f"noise {index}"

    def labels(self, task: str | None = None, rows: Tensor | None = None) -> Labels:
        raise AssertionError("no labels here")


def noise_images(length: int = 40, size: int = 8) -> Images:
    """Noise images in memory."""
    source = RandomSource(length, size)
    return Images(source, size, torch.arange(length), source.pixels)


def state_at(step: int, seconds: float = 0.0) -> TrainingState:
    """The state of a run after ``step`` steps, none of which is in its metrics yet."""
    return TrainingState(
        step=step,
        seconds=seconds,
        window=step,
        totals={"restore": 0.1 + 0.2},
        best=0.7,
        best_step=step,
        curves=(((step, 1 / 3),),),
        data=Identity(40, "rows"),
        wandb_id=None,
    )


Example = tuple[Tensor, Tensor]  # damaged, clean


def noisy(images: Tensor) -> Example:
    """Random damage of uint8 images from the global generator, as real pretexts draw theirs."""
    clean = images.float() / 255
    return clean + 0.1 * torch.randn_like(clean), clean


class ToyConfig(StageConfig, GradientConfig):
    """A stage that trains by gradient, and nothing else."""

    writes: ClassVar[tuple[str, ...]] = (*GradientConfig.loop_writes, *StageConfig.writes)
    free_keys: ClassVar[frozenset[str]] = StageConfig.free_keys | GradientConfig.loop_free_keys


class ToyAutoencoder(nn.Module):
    """A convolutional autoencoder with dropout, so that a lost random state shows; no BatchNorm unless asked."""

    def __init__(self, norm: bool = False, dropout: float = 0.1, prepare: Callable[[Tensor], Example] = noisy) -> None:
        super().__init__()
        self.prepare = prepare
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8) if norm else nn.Identity(),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Conv2d(8, 3, 3, padding=1),
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        damaged, clean = self.prepare(images)
        return {"restore": (self.net(damaged).float() - clean).square().mean()}


def loop_config(out: Path, **changes: Any) -> ToyConfig:
    values: dict[str, Any] = {
        "out": out,
        "steps": 12,
        "batch_size": 8,
        "base_lr": 0.05,
        "precision": "float32",
        "log_every": 5,
        "checkpoint": {"every": 4},
        "wandb": {"mode": "disabled"},
    }
    return ToyConfig.model_validate(values | changes)
