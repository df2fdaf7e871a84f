"""The contestants: each gives a frozen encoder, whose features are judged."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch

from common.data import Images, Loader
from common.data.rows import even_rows
from common.encoders import Encoder, EncoderConfig, build_encoder
from common.encoders.load import load_encoder
from common.engine.loop import Trained
from common.engine.pace import measure_pace
from common.engine.settings import StopConfig
from common.errors import UserError
from common.machine.distributed import World
from common.machine.precision import autocast, resolve_precision
from common.pixels import to_float
from common.recipes import stage_config
from common.runs.folder import changes, write_settings
from common.runs.results import RESULTS
from common.runs.tracking import WandbConfig
from finetune.baselines import Pixels
from pretrain.config import GradientPretraining, PretrainConfig
from pretrain.linear import PatchDictionaryFit
from pretrain.run import pretrain
from retouch.studies.config import StudyConfig
from retouch.studies.plan import Wider
from retouch.studies.results import CONTESTANTS, SCRATCH, Kind

log = logging.getLogger("retouch")

TIMED_IMAGES = 64  # images whose features are timed
SAVE_SECONDS = 20.0  # of training between two checkpoints: the most that is lost if the process is killed
SIMPLE: dict[str, tuple[str, tuple[str, ...]]] = {  # recipes with changes, by the name of the contestant
    "random_patches": ("patch_dictionary", ("fit.learn=random", "steps=null")),
    "kmeans": ("patch_dictionary", ()),
    "pca": ("pca", ()),
}
MAPS = ("avg+avg2+max", "avg+max", "avg")  # poolings of a network's maps: the first that is narrow enough
FIXED = ("pca", "ica")  # ways to learn a dictionary with a fixed number of atoms
TIMES = (8, 6, 4, 3, 2)  # atoms of a wider dictionary, as a multiple of its recipe's
FEWEST_CELLS = 2  # per side, over which its codes are averaged
CODES = ("flatten", *MAPS)  # poolings of codes whose positions have a meaning: pixels, components, a grid of atoms


class Speed(NamedTuple):
    """Seconds on this machine."""

    start: float  # before the first step
    step: float  # of one step
    image: float  # for the features of an image


@dataclass(frozen=True)
class Contestant(ABC):
    """A method that competes."""

    name: str
    kind: ClassVar[Kind]
    poolings: ClassVar[tuple[str, ...]] = MAPS

    @abstractmethod
    def encoder(self) -> Encoder:
        """Its encoder as it is now, frozen."""


@dataclass(frozen=True)
class RawPixels(Contestant):
    """The pixels of the image."""

    kind: ClassVar[Kind] = "pixels"
    poolings: ClassVar[tuple[str, ...]] = CODES
    size: int

    def encoder(self) -> Encoder:
        return Pixels(self.size).freeze()


@dataclass(frozen=True)
class Ready(Contestant):
    """A network that is not trained in the study: an untrained or a pretrained one."""

    network: Encoder

    def encoder(self) -> Encoder:
        return self.network


class Untrained(Ready):
    """A network before its first training step."""

    kind: ClassVar[Kind] = "untrained"


class Pretrained(Ready):
    """A timm model with pretrained weights."""

    kind: ClassVar[Kind] = "pretrained"


@dataclass(frozen=True)
class Learned(Contestant):
    """A method that learns without labels in the study, in an ordinary run folder of ``retouch pretrain``."""

    config: PretrainConfig
    pool: Images
    here: World

    def encoder(self) -> Encoder:
        return load_encoder(self.config.out)

    def speed(self) -> Speed:
        """How fast it is on this machine, from a few real steps of a copy and the features of some images."""
        config = self.config
        learner = config.method.build(config.data.image_size, config.augment, self.here, config.seed)
        learner.attach(self.pool)
        loader = Loader(learner.images, batch_size=config.batch_size, seed=config.seed)
        start, step = measure_pace(learner, loader)
        images = to_float(self.pool.rows(even_rows(len(self.pool), TIMED_IMAGES))).to(self.here.device)
        encoder = learner.encoder.eval()
        precision = resolve_precision("auto", self.here.device)  # the same as the judge's
        with torch.inference_mode(), autocast(self.here.device, precision):
            encoder.layers(images)
            begun = time.perf_counter()
            encoder.layers(images)
        return Speed(start, step, (time.perf_counter() - begun) / len(images))

    def _run(self, **settings: object) -> Trained:
        """Start the run, or resume it."""
        config = self.config.model_copy(update=settings)
        resumed = (config.out / "config.yaml").is_file()
        if resumed and not changes(config, config.free_keys | {"steps"}):
            write_settings(config)  # the number of steps may have changed: a later rung gets the time that is left
        return pretrain(config.model_copy(update={"resume": resumed}), self.pool).training


class Simple(Learned):
    """A method with a fitting rule of its own, which is fitted once."""

    kind: ClassVar[Kind] = "simple"
    poolings: ClassVar[tuple[str, ...]] = CODES

    @property
    def steps(self) -> int:
        """Steps of its recipe; 0 if it does not learn from a stream of batches."""
        per_epoch = -(-len(self.pool) // self.config.batch_size)
        return self.config.total_steps(per_epoch) if self.config.method.streams else 0

    def fit(self) -> bool:
        """Fit it, unless it is fitted already; False if a signal stopped it."""
        return (self.config.out / RESULTS).is_file() or self._run().finished


class Wide(Simple):
    """A dictionary with more atoms than its recipe has. All its features are judged, however many there are."""

    poolings: ClassVar[tuple[str, ...]] = ("flatten",)

    @property
    def features(self) -> int:
        """The number of features."""
        learned = dictionary_of(self)
        assert learned is not None
        return learned.network.channels * learned.network.grid**2


@dataclass(frozen=True)
class Restoring(Learned):
    """An autoencoder, trained by gradient for as long as it stays in the race."""

    kind: ClassVar[Kind] = "restoring"
    twin: str  # the name of its untrained network

    def fit(self, steps: int, until: int, step: float = 0.0, most: float | None = None) -> Trained:
        """Train to step ``until`` of ``steps`` in total.

        Args:
            step: seconds per step, from which the checkpoint interval is derived; 0: the recipe's interval.
            most: seconds of training from its start, after which it ends all the same.
        """
        saved = self.config.checkpoint.every if not step else max(1, int(SAVE_SECONDS / step))
        checkpoint = self.config.checkpoint.model_copy(update={"every": saved})
        return self._run(steps=steps, epochs=None, stop=StopConfig(at=until, after=most), checkpoint=checkpoint)


# ---- wider dictionaries


def dictionary_of(one: Contestant) -> PatchDictionaryFit | None:
    """How a contestant learns its dictionary; None if it has none, or one whose number of atoms is fixed."""
    method = one.config.method if isinstance(one, Simple) else None
    return method if isinstance(method, PatchDictionaryFit) and method.learn not in FIXED else None


def wider_ones(one: Contestant) -> list[Wider]:
    """Dictionaries with more atoms than a contestant's, roughly the best first (by atoms times cells per side)."""
    learned = dictionary_of(one)
    if learned is None:
        return []
    atoms, grid = learned.network.atoms, learned.network.grid
    cells = range(grid, min(grid, FEWEST_CELLS) - 1, -1)
    found = [Wider(of=one.name, atoms=times * atoms, grid=side) for times in TIMES for side in cells]
    return sorted(found, key=lambda one: -one.atoms * one.grid)


def widened(one: Contestant, wider: Wider) -> Wide:
    """The contestant for a wider dictionary.

    Raises:
        UserError: the plan is from another study, in which this contestant had another recipe.
    """
    learned = dictionary_of(one)
    if learned is None or not isinstance(one, Simple):
        raise UserError(
            f"plan: it learns {wider.of} with more atoms, but {wider.of} is no dictionary of patches here; remove plan"
        )
    network = learned.network.model_copy(update={"atoms": wider.atoms, "grid": wider.grid})
    changed = {"fit": learned.model_copy(update={"network": network}), "out": one.config.out.with_name(wider.name)}
    return Wide(wider.name, one.config.model_copy(update=changed), one.pool, one.here)


# ---- from settings


def recipe_of(name: str, config: StudyConfig) -> PretrainConfig:
    """The settings of a contestant's recipe.

    Raises:
        UserError: there is no such recipe, or it cannot compete.
    """
    source, changes = SIMPLE.get(name, (name, ()))
    found = stage_config(PretrainConfig, source, changes)
    if found.data.other is not None or found.method.second != "none" or found.method.loaded_size(1) != 1:
        raise UserError(f"contestants: {name} learns from two views or sources, but a study has one; remove it")
    if isinstance(found, GradientPretraining) and (found.encoder.path or found.encoder.pretrained):
        raise UserError(
            f"contestants: {name} starts from trained weights, but a study compares each network with the same network "
            "untrained; remove it, or set pretrained=timm/NAME to add a pretrained model"
        )
    if found.seeds > 1:
        raise UserError(
            f"contestants: {name} has seeds={found.seeds}, but a study trains each contestant once; set seeds=1 in it"
        )
    return found


def title_of(name: str) -> str:
    """The name of a contestant: for a file, its name without the ending."""
    return Path(name).stem if name.endswith((".yaml", ".yml")) else name


def check_contestants(config: StudyConfig) -> list[PretrainConfig]:
    """The recipes' settings of all contestants that learn without labels.

    Raises:
        UserError: names every contestant that does not exist or cannot compete.
    """
    problems, found = [], []
    for name in config.contestants:
        if name == SCRATCH:
            continue
        try:
            found.append(recipe_of(name, config))
        except UserError as error:
            problems += error.lines
    if problems:
        raise UserError(*problems)
    return found


def check_pretrained(config: StudyConfig) -> None:
    """Check that timm has the pretrained model, without downloading its weights.

    Raises:
        UserError: it does not.
    """
    if config.pretrained is not None:
        try:
            build_encoder(EncoderConfig(name=config.pretrained), image_size=32)
        except UserError as error:
            if "timm has no" in str(error):
                raise UserError(*(line.replace("encoder.name", "pretrained") for line in error.lines)) from None


def settled(config: StudyConfig, recipe: PretrainConfig, pool: Images, size: int, name: str) -> PretrainConfig:
    """A recipe with this study's images, seed and folder. Only the study itself is tracked with W&B."""
    spec = pool.source.spec if config.data.source is None else config.data.source
    data = recipe.data.model_copy(
        update={"source": spec, "image_size": size, "limit": None, "image": config.data.image, "root": config.data.root}
    )
    out = config.out / CONTESTANTS / name
    return recipe.model_copy(
        update={"data": data, "out": out, "seed": config.seed, "watch": None, "wandb": WandbConfig(mode="disabled")}
    )
