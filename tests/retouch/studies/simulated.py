"""Studies on a simulated machine: all that costs time moves a clock, and all else is the study's own code."""

from __future__ import annotations

import math
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from common.config import validate
from common.data import build_source, load_images
from common.engine.loop import Trained
from common.machine.distributed import World
from common.runs.tracking import Tracker
from finetune.config import DAMAGES
from finetune.data import LabeledData, load_labeled, open_sources
from finetune.embedding import Embedding
from finetune.metrics import score
from pretrain.config import PretrainConfig
from retouch.studies import budget, estimates, final, judge, outcome, run
from retouch.studies.config import StudyConfig
from retouch.studies.contestants import (
    SAVE_SECONDS,
    Contestant,
    Learned,
    RawPixels,
    Restoring,
    Simple,
    Speed,
    Untrained,
    dictionary_of,
)
from retouch.studies.field import Field
from retouch.studies.fits import JudgeCost, ProbeKind
from retouch.studies.images import label_set
from retouch.studies.journal import BEAT, CLOCK, Clock, Journal, ProbedOnce, read_plan
from retouch.studies.judge import Judged, Probing
from retouch.studies.parts import Parts
from retouch.studies.plan import Plan
from retouch.studies.results import StudyReport, UnderDamage
from tests.retouch.reporting.runs import answers_of, probe_result

HERE = World(0, 1, torch.device("cpu"))
START = 15.0  # seconds until Python runs and images are decoded
PAGE = 6.0  # for the report
NETWORKS = ("denoise", "colorize", "mask", "mixed")
RIGHT = {"kmeans": 0.6, "random_patches": 0.55, "mask": 0.5, "mixed": 0.48, "denoise": 0.47, "colorize": 0.46}
COUNTS = {"judged": 2400, "fitted": 9600, "tested": 10_000, "labeled": 50_000}  # as CIFAR-10 in 20 minutes


class KilledError(Exception):
    """Kill -9."""


@dataclass
class Machine:
    """What takes how long, in seconds of a machine of speed 1."""

    speed: float = 1.0  # how many times as long everything takes
    drift: float = 1.0  # how many times as long again, once the race has begun
    tests: float = 1.0  # how many times as long as estimated tests take
    probes: float = 1.0  # likewise, linear probes and what a gain is worth
    busy: float = 1.0  # how many times as long steps take before the race, while they are timed
    timing: float = 1.2  # seconds to time the network from scratch
    slowed: tuple[float, float] = (math.inf, 1.0)  # from when on training steps take how many times as long
    killed: float | None = None  # when
    memory: int = 64 << 30  # bytes
    now: float = 0.0
    racing: bool = False
    done: dict[str, Trained] = field(default_factory=dict)  # as of the last checkpoint
    networks: float = 0.0  # seconds that they got, with the network from scratch
    trained: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))  # seconds of training alone
    worked: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    @property
    def pace(self) -> float:
        return self.speed * (self.drift if self.racing else 1.0)

    def work(self, seconds: float, what: str, *, paced: bool = True) -> float:
        taken = seconds * (self.pace if paced else 1.0)
        if self.killed is not None and self.now + taken > self.killed:
            self.now, self.killed = self.killed, None
            raise KilledError
        self.now += taken
        self.worked[what] += taken
        self.networks += taken if what in (*NETWORKS, "untrained", "scratch") else 0.0
        return taken


def step_of(name: str) -> float:
    return {"mask": 0.3, "colorize": 0.25}.get(name, 0.28)


def cost_of(one: Contestant) -> JudgeCost:
    """Of judging a contestant on a machine of speed 1."""
    if isinstance(one, RawPixels):
        return JudgeCost(width=3072, extraction=0.1, fitting=2.0)
    learned = dictionary_of(one)
    if learned is None:
        return JudgeCost(width=5376, extraction=2.5, fitting=3.0)
    atoms, width = learned.network.atoms, learned.network.atoms * learned.network.grid**2
    return JudgeCost(width=width, extraction=0.007 * atoms, fitting=2.0 * width / 3600)


class FakeJudge:
    """Takes time, and answers as its contestants are known to."""

    def __init__(self, machine: Machine, parts: Any, labels: torch.Tensor, rows: torch.Tensor) -> None:
        self.machine, self.parts, self.labels, self.rows = machine, parts, labels, rows

    def validate(self, one: Contestant) -> Judged:
        machine, cost = self.machine, cost_of(one)
        extraction = machine.work(cost.extraction, one.name)
        fitting = machine.work(cost.fitting, one.name)
        right = RIGHT.get(one.name, 0.65 if "kmeans" in one.name else 0.4)
        return Judged({"color": right}, JudgeCost(width=cost.width, extraction=extraction, fitting=fitting))

    def test(self, one: Contestant) -> dict[str, judge.Tested]:
        self.machine.work(estimates.testing_seconds(self.parts, cost_of(one)) * self.machine.tests, one.name)
        right = RIGHT.get(one.name, 0.4)
        return {"color": judge.Tested(None, answers_of(self.labels, right, 8), None)}  # type: ignore[arg-type]

    def probe(self, one: Contestant, kind: ProbeKind | None, damaged: int = 0) -> Probing:
        tested, again = self.test(one), {}
        if damaged:
            passes = len(DAMAGES) * damaged / COUNTS["judged"]
            self.machine.work(passes * cost_of(one).extraction * self.machine.tests, "damage")
            found = score(tested["color"].predictions, self.labels, 8)
            again["color"] = UnderDamage(clean=found, damaged={"gray": found})
        if kind is None:
            return Probing(tested, {}, [], [], again)
        self.machine.work(estimates.probing_seconds(self.parts, [cost_of(one)], kind) * self.machine.probes, "probe")
        outcome = ProbedOnce(outcome=probe_result()[0].linear)
        return Probing(tested, {"color": outcome}, [Embedding(torch.zeros(50, 2), self.rows[:50])], [0], again)

    def worth(self, one: Contestant, *given: Any) -> dict[str, Any]:
        self.machine.work(estimates.worth_seconds(self.parts) / self.machine.pace * self.machine.probes, "worth")
        return {}


def labeled_images() -> SimpleNamespace:
    data = LabeledData(train="shapes:train:90", test="shapes:test:60", task="color", image_size=16, workers=0)
    labeled = load_labeled(open_sources(data, 0), data, 16, 0)
    sets = (label_set(labeled, judged=60, fitted=70, tested=50, seed=0),)
    return SimpleNamespace(
        size=16, pool=load_images(build_source("shapes"), 16, limit=90), sets=sets, repeated=0, **COUNTS
    )


def parts_of(config: StudyConfig, machine: Machine, images: SimpleNamespace) -> Parts:
    """A study as it begins, or goes on."""
    out = config.out

    def settings_of(name: str, **fit: Any) -> PretrainConfig:
        return validate(PretrainConfig, {"out": out / "contestants" / name, "steps": 100, **fit})

    dictionary = {"fit": {"kind": "patch_dictionary", "network": {"grid": 3}}}
    network = SimpleNamespace(view="rgb")
    names = [name for name in config.contestants if name in NETWORKS]
    ready = (RawPixels("pixels", 16), Untrained("untrained", network))  # type: ignore[arg-type]
    simple = tuple(
        Simple(name, settings_of(name, **dictionary), images.pool, HERE)
        for name in ("random_patches", "kmeans")
        if name in config.contestants
    )
    restoring = tuple(Restoring(name, settings_of(name), images.pool, HERE, "untrained") for name in names)
    journal = Journal(out, config.seconds, 0.0)
    journal.clock = FakeClock(config.seconds, machine, journal.clock.spent)
    study = SimpleNamespace(log=lambda *given, **named: None, tracker=Tracker.disabled(out))
    field_ = Field(ready, simple, restoring, ())
    [part] = images.sets
    fake: Any = FakeJudge(machine, None, part.images.tasks["color"][1].values, part.images.test.kept)
    parts = Parts(config, HERE, study, images, field_, fake, journal, None)  # type: ignore[arg-type]
    fake.parts = parts
    return parts


class FakeClock(Clock):
    """The machine's clock. A process began when its images were decoded, and knows what earlier ones have noted."""

    def __init__(self, budget_: float, machine: Machine, spent: float) -> None:
        super().__init__(budget_, machine.now - START * machine.speed, spent)
        self.machine = machine

    @property
    def taken(self) -> float:
        return self.spent + self.machine.now - self.started


def patched(patch: pytest.MonkeyPatch, machine: Machine) -> None:
    """Everything that takes time takes it of this machine."""

    def speed(one: Learned) -> Speed:
        learned = dictionary_of(one)
        step = step_of(one.name) if learned is None else 0.0004 * learned.network.atoms
        measured = [machine.work(machine.busy * seconds, "measuring") for seconds in (0.3, 6 * step)]
        return Speed(measured[0], measured[1] / 6, machine.pace * cost_of(one).extraction / COUNTS["judged"])

    def fit_simple(one: Simple) -> bool:
        learned = dictionary_of(one)
        assert learned is not None
        if one.name not in machine.done:
            machine.work(3.0 + 100 * 0.0004 * learned.network.atoms, one.name)
            machine.done[one.name] = Trained(100, 100, True, 0.0, None, None)
        return True

    def train(name: str, steps: int, until: int, step: float, saved: int, most: float | None) -> Trained:
        now = machine.done.get(name, Trained(0, steps, True, 0.0, None, None))
        while now.step < until and (most is None or now.seconds < most):
            seconds = machine.work(step * (machine.slowed[1] if machine.now >= machine.slowed[0] else 1.0), name)
            machine.trained[name] += seconds
            now = Trained(now.step + 1, steps, True, now.seconds + seconds, None, None)
            if now.step % saved == 0:
                machine.done[name] = now
        machine.done[name] = now
        return now

    def fit(one: Restoring, steps: int, until: int, step: float = 0.0, most: float | None = None) -> Trained:
        machine.racing = True
        machine.work(0.5, one.name)
        saved = max(1, int(SAVE_SECONDS / step))
        found = train(one.name, steps, until, step_of(one.name), saved, most)
        machine.work(2.0, one.name)
        return found

    def scratch(config: StudyConfig, field_: Field, sets: Any, size: int, plan: Plan) -> Any:
        found = train("scratch", plan.scratch, plan.scratch, 0.2, 50, plan.scratch_most)
        machine.work(15.0, "scratch")
        [part] = sets
        said = {"color": answers_of(part.images.tasks["color"][1].values, 0.45, 8)}
        return said, plan.model_copy(update={"scratch_ends": {"color": found.step}})

    def scratch_pace(*given: Any) -> float:
        busy = 1.0 if machine.racing else machine.busy
        return 0.2 * machine.work(busy * machine.timing, "measuring") / machine.timing

    patch.setattr(Learned, "speed", speed)
    patch.setattr(Learned, "encoder", lambda one: SimpleNamespace(view="rgb"))
    patch.setattr(RawPixels, "encoder", lambda one: SimpleNamespace(view="rgb"))
    patch.setattr(Simple, "fit", fit_simple)
    patch.setattr(Restoring, "fit", fit)
    patch.setattr(budget, "scratch_pace", scratch_pace)
    patch.setattr(estimates, "available_memory", lambda: machine.memory)
    patch.setattr(final, "run_scratch", scratch)
    patch.setattr(outcome, "scratch_seconds", lambda *given: machine.trained["scratch"])


def studied(machine: Machine, images: SimpleNamespace, seconds: float = 1200.0, **changes: Any) -> StudyReport:
    """A whole study on this machine; one that is killed is started again."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        values = {"out": folder, "labels": {"train": "shapes"}, "budget": f"{seconds}s"}
        values |= {"contestants": ["random_patches", "kmeans", *NETWORKS, "scratch"], **changes}
        config = validate(StudyConfig, values)
        patched(patch, machine)
        machine.now = START * machine.speed
        try:
            report = run.answer(parts_of(config, machine, images), None)
        except KilledError:
            (config.out / CLOCK).write_text(f'{{"spent": {machine.now - BEAT}}}')
            machine.now += START * machine.speed
            report = run.answer(parts_of(config, machine, images), None)
        assert report is not None
        plan = read_plan(config.out)
        assert plan.scratch_settled
        machine.work(PAGE, "page", paced=False)
    return report
