"""The contestants: each gives a frozen encoder, whose features are judged."""

from __future__ import annotations

import copy
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch

from common.data import Images, Loader
from common.data.rows import even_rows
from common.encoders import Encoder, EncoderConfig, build_encoder
from common.encoders.load import load_encoder
from common.encoders.statistics import share_statistics
from common.engine.loop import Trained
from common.engine.pace import measure_pace
from common.engine.settings import StopConfig
from common.errors import UserError
from common.machine.distributed import World
from common.machine.precision import autocast, resolve_precision
from common.pixels import in_chunks, to_float
from common.recipes import stage_config
from common.runs.folder import changes, write_settings
from common.runs.results import RESULTS
from common.runs.tracking import WandbConfig
from common.waiting import within
from finetune.baselines import STATISTICS_IMAGES, Pixels
from pretrain.config import GradientPretraining, PretrainConfig
from pretrain.linear import PatchDictionaryFit
from pretrain.method import MethodLearner
from pretrain.run import pretrain
from retouch.studies.config import StudyConfig
from retouch.studies.plan import Wider
from retouch.studies.results import CONTESTANTS, SCRATCH, Kind

log = logging.getLogger("retouch")

DOWNLOAD_SHARE = 0.05  # of the budget, for downloading pretrained weights
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


@dataclass(frozen=True)
class Field:
    """All contestants except the network trained on the labels alone, and a line about each that was left out."""

    ready: tuple[Contestant, ...]  # raw pixels, untrained and pretrained networks
    simple: tuple[Simple, ...]
    restoring: tuple[Restoring, ...]
    left_out: tuple[str, ...]

    @property
    def all(self) -> tuple[Contestant, ...]:
        """All of them, baselines first."""
        return (*self.ready, *self.simple, *self.restoring)

    def named(self, name: str) -> Contestant:
        """The contestant of this name."""
        return next(one for one in self.all if one.name == name)


def line_up(config: StudyConfig, pool: Images, size: int, here: World) -> Field:
    """Prepare all contestants; those that cannot learn from these images are left out, with the reason."""
    ready: list[Contestant] = [RawPixels("pixels", size)]
    twins: dict[tuple[str, str], Encoder] = {}
    simple, waiting, left_out = [], [], []
    for name in config.contestants:
        if name == SCRATCH:
            continue
        title = title_of(name)
        settings = settled(config, recipe_of(name, config), pool, size, title)
        try:
            if problems := settings.method.check(size, len(pool)):
                raise UserError(*problems)
            learner = settings.method.build(size, settings.augment, here, config.seed)
            learner.attach(pool)
        except UserError as error:
            left_out.append(f"{title}: {' '.join(line.strip() for line in error.lines)}")
            continue
        if not isinstance(settings, GradientPretraining):
            simple.append(Simple(title, settings, pool, here))
            continue
        key = (learner.encoder.config.model_dump_json(), learner.encoder.view)
        if key not in twins:
            twins[key] = before_training(learner, pool, here)
        waiting.append((title, settings, key))
    names = dict(zip(twins, _twin_names(list(twins.values())), strict=True))
    ready += [Untrained(names[key], twin) for key, twin in twins.items()]
    restoring = [Restoring(title, settings, pool, here, names[key]) for title, settings, key in waiting]
    if config.pretrained is not None:
        found = _pretrained(config.pretrained, size, DOWNLOAD_SHARE * config.seconds)
        if isinstance(found, str):
            left_out.append(found)
        else:
            ready.append(Pretrained(config.pretrained.removeprefix("timm/"), found))
    for line in left_out:
        log.info("left out: %s", line)
    return Field(tuple(ready), tuple(simple), tuple(restoring), tuple(left_out))


def before_training(learner: MethodLearner, pool: Images, here: World) -> Encoder:
    """The network before its first step, frozen, with the statistics of the pool.

    A mean image, or another statistic that is not a learned weight, is measured when the learner starts.
    """
    images = to_float(pool.rows(even_rows(len(pool), STATISTICS_IMAGES)))
    encoder = learner.encoder.to(here.device)
    twin = copy.deepcopy(encoder)
    if encoder.statistics:
        learner.start()
    share_statistics(twin, encoder, (some.to(here.device) for some in in_chunks(images)))
    return twin.freeze()


def _twin_names(twins: Sequence[Encoder]) -> list[str]:
    """``untrained``, plus view and number where there are several untrained networks."""
    views = {twin.view for twin in twins}
    networks = [twin.config.model_dump_json() for twin in twins]
    several = list(dict.fromkeys(networks))
    names = []
    for twin, network in zip(twins, networks, strict=True):
        view = f"_{twin.view}" if len(views) > 1 else ""
        number = f"_{several.index(network) + 1}" if len(several) > 1 else ""
        names.append(f"untrained{view}{number}")
    return names


def _pretrained(name: str, size: int, seconds: float) -> Encoder | str:
    """The model with its weights, or why it is left out: downloading them may take this many seconds at most."""
    title = name.removeprefix("timm/")
    try:
        return within(
            seconds, lambda: build_encoder(EncoderConfig(name=name, pretrained=True), image_size=size)
        ).freeze()
    except UserError as error:
        return f"{title}: {' '.join(line.strip() for line in error.lines)}"
    except TimeoutError:
        # its thread goes on, and would print its retries
        logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
        return f"{title}: its weights could not be downloaded within {seconds:.0f} s; check the internet connection"
