"""Settings of ``retouch search``."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field

from common.config import MANY, HomePath
from common.machine.precision import Precision
from common.runs.folder import StageConfig
from finetune.predict.config import NewImages
from finetune.probes.search import LayerChoice, PoolingName

NEIGHBORS, SHEET = "neighbors.csv", "neighbors.png"


class SearchConfig(StageConfig):
    """``retouch search``: the nearest images of each query, as ``OUT/neighbors.csv`` and one contact sheet."""

    stage: ClassVar[str] = "search"
    takes_run: ClassVar[bool] = True
    writes: ClassVar[tuple[str, ...]] = (*StageConfig.writes, NEIGHBORS, SHEET)
    free_keys: ClassVar[frozenset[str]] = StageConfig.free_keys | {"data.workers", "feature_cache", "cache_folder"}

    run: HomePath
    """A finished run, its encoder/ folder, or hf:USER/NAME."""
    query: Annotated[str, BeforeValidator(str)]
    """One image, or a folder, list or zip file of images."""
    data: NewImages
    """The images to search in."""
    top: int = Field(default=10, gt=0, le=1000)
    """Images found per query; the contact sheet shows the first ten."""
    components: int | None = Field(default=None, gt=0, le=MANY)
    """Whitened components of the features to compare; by default the features themselves, minus their mean."""
    layer: LayerChoice = -1
    """The map to compare: a number from the first (0) or the last (-1), all, or lastN."""
    pooling: PoolingName = "avg"
    """How a map becomes features: avg, avg2 (2x2 cells), max, flatten, or several joined by +."""
    precision: Precision = "auto"
    """Precision of the encoder; auto: bfloat16 where the machine is fast at it, else float32."""
    feature_cache: bool = True
    """Keep features, so that the next search in the same images is quick."""
    cache_folder: HomePath | None = None
    """Folder of kept features; by default RETOUCH_CACHE or ~/.cache/retouch."""
