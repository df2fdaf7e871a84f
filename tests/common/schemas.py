"""Small settings for the tests of configs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from common.config import Config


class Noise(Config):
    kind: Literal["noise"] = "noise"
    sigma: float = Field(default=0.1, gt=0)


class Holes(Config):
    kind: Literal["holes"] = "holes"
    ratio: float = Field(default=0.6, gt=0, lt=1)
    size: int = 4


Damage = Annotated[Noise | Holes, Field(discriminator="kind")]


class Restore(Config):
    kind: Literal["restore"] = "restore"
    damage: Damage = Noise()


class Sort(Config):
    kind: Literal["sort"] = "sort"


class Data(Config):
    source: str = "shapes"
    limit: int | None = None


class Example(Config):
    steps: int = Field(gt=0)
    base_lr: float = 1e-3
    data: Data = Data()
    damage: Damage = Noise()
    several: tuple[Damage, ...] = ()
    sizes: tuple[Annotated[int, Field(gt=0)], ...] = Field(default=(1,), min_length=1)
    betas: tuple[float, float] = (0.9, 0.99)
    task: Annotated[Restore | Sort, Field(discriminator="kind")] = Sort()


class Block(Config):
    short: ClassVar[str] = "path"

    path: Path | None = None
    scratch: bool = False


class Start(Config):
    encoder: Block


class Types(Config):
    """One field of each type that settings have."""

    text: str = ""
    folder: Path = Path("x")
    maybe: str | None = None
    number: int = 0
    rate: float = 0.0
    flag: bool = False
    choice: Literal["auto", "none"] = "auto"
    layer: int | str = 0
    layers: tuple[Annotated[int | str, Field()], ...] = ()
    names: str | list[str] | None = None
    anything: dict[str, Any] = Field(default_factory=dict)
    damage: Damage = Noise()
    several: tuple[Damage, ...] = ()
