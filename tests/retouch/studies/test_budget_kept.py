"""A study takes its budget: simulated on machines that are fast or slow, become so meanwhile, or are switched off.

All that costs time moves a clock; what is planned, chosen, kept on disk and continued is the study's own code.
"""

from __future__ import annotations

import re
import tempfile
from collections import defaultdict
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

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
from retouch.studies import budget, final, judge, outcome, run
from retouch.studies.config import StudyConfig
from retouch.studies.contestants import (
    SAVE_SECONDS,
    Contestant,
    Field,
    Learned,
    RawPixels,
    Restoring,
    Simple,
    Speed,
    Untrained,
    dictionary_of,
)
from retouch.studies.images import label_set
from retouch.studies.journal import BEAT, CLOCK, Clock, Journal, ProbedOnce, read_plan
from retouch.studies.judge import Judged, Probing
from retouch.studies.parts import Parts
from retouch.studies.plan import DAMAGED, RACE_SHARE, JudgeCost, ProbeKind
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
        self.machine.work(budget.testing_seconds(self.parts, cost_of(one)) * self.machine.tests, one.name)
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
        self.machine.work(budget.probing_seconds(self.parts, [cost_of(one)], kind) * self.machine.probes, "probe")
        outcome = ProbedOnce(outcome=probe_result()[0].linear)
        return Probing(tested, {"color": outcome}, [Embedding(torch.zeros(50, 2), self.rows[:50])], [0], again)

    def worth(self, one: Contestant, *given: Any) -> dict[str, Any]:
        self.machine.work(budget.worth_seconds(self.parts) / self.machine.pace * self.machine.probes, "worth")
        return {}


@pytest.fixture(scope="module")
def images() -> SimpleNamespace:
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

    def fit(one: Restoring, steps: int, until: int, step: float = 0.0) -> Trained:
        machine.racing = True
        before = machine.done.get(one.name, Trained(0, steps, True, 0.0, None, None))
        machine.work(0.5, one.name)
        while before.step < until:
            some = min(until - before.step, max(1, int(SAVE_SECONDS / step)))
            seconds = machine.work(some * step_of(one.name), one.name)
            machine.trained[one.name] += seconds
            before = Trained(before.step + some, steps, True, before.seconds + seconds, None, None)
            machine.done[one.name] = before
        machine.work(2.0, one.name)
        return before

    def scratch(config: StudyConfig, field_: Field, sets: Any, size: int, steps: int) -> dict[str, torch.Tensor]:
        done = machine.done.get("scratch", Trained(0, steps, True, 0.0, None, None)).step
        while done < steps:
            some = min(steps - done, 50)
            machine.trained["scratch"] += machine.work(some * 0.2, "scratch")
            done += some
            machine.done["scratch"] = Trained(done, steps, True, 0.0, None, None)
        machine.work(15.0, "scratch")
        [part] = sets
        return {"color": answers_of(part.images.tasks["color"][1].values, 0.45, 8)}

    def scratch_pace(*given: Any) -> float:
        return machine.work((1.0 if machine.racing else machine.busy) * 1.2, "measuring") / 6

    patch.setattr(Learned, "speed", speed)
    patch.setattr(Learned, "encoder", lambda one: SimpleNamespace(view="rgb"))
    patch.setattr(RawPixels, "encoder", lambda one: SimpleNamespace(view="rgb"))
    patch.setattr(Simple, "fit", fit_simple)
    patch.setattr(Restoring, "fit", fit)
    patch.setattr(budget, "scratch_pace", scratch_pace)
    patch.setattr(budget, "available_memory", lambda: machine.memory)
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


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finetune.metrics.RESAMPLES", 100)


LEAST = 0.88  # of the budget: a tenth more would be a promise broken, a little less is not
speeds, drifts = st.floats(0.5, 1.3), st.floats(0.5, 2.0)
errors = st.floats(0.6, 1.1)


@settings(max_examples=40, deadline=None)
@given(speeds, drifts, errors, st.floats(0.4, 1.1))
@example(1.0, 0.5, 1.0, 0.5)
@example(1.0, 2.0, 1.0, 1.0)
@example(1.125, 2.0, 0.609375, 1.0)  # takes 0.898 of it
def test_a_study_takes_its_budget_on_fast_and_slow_machines(
    images: SimpleNamespace, speed: float, drift: float, tests: float, probes: float
) -> None:
    machine = Machine(speed, drift, tests, probes)
    studied(machine, images)
    assert LEAST * 1200 <= machine.now <= 1.1 * 1200, machine


@settings(max_examples=20, deadline=None)
@given(st.floats(1.0, 4.0), errors)
@example(4.0, 0.6)
def test_a_study_takes_its_budget_even_if_steps_were_timed_on_a_busy_machine(
    images: SimpleNamespace, busy: float, tests: float
) -> None:
    machine = Machine(1.0, 1.0, tests, busy=busy)
    studied(machine, images)
    assert LEAST * 1200 <= machine.now <= 1.1 * 1200, machine


@settings(max_examples=30, deadline=None)
@given(st.floats(180.0, 900.0), st.floats(0.5, 1.2), st.floats(0.7, 1.1), st.floats(0.8, 1.1), st.floats(1.0, 1.5))
def test_a_small_budget_is_taken_as_well(
    images: SimpleNamespace, seconds: float, speed: float, drift: float, tests: float, busy: float
) -> None:
    machine = Machine(speed, drift, tests, tests, busy)
    studied(machine, images, seconds)
    assert machine.now <= 1.1 * seconds, machine
    if machine.trained:  # if no network fits, nothing else can use its time
        assert machine.now >= 0.8 * seconds, machine


def test_time_is_found_for_the_network_from_scratch_after_the_first_rung(images: SimpleNamespace) -> None:
    machine = Machine(tests=0.8, probes=0.8)
    report = studied(machine, images, 240.0)  # when it is planned, there is too little
    assert machine.trained["scratch"] > 0.5 * max(machine.trained.values())
    assert not [line for line in report.left_out if line.startswith("scratch")]


def test_the_network_from_scratch_is_trained_after_all_if_there_is_time_at_the_end(
    images: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retouch.studies.plan.YIELDED", 10.0)  # never reserved later
    monkeypatch.setattr("retouch.studies.plan.FAIR", (0.1, 3.0))
    machine = Machine(tests=0.5, probes=0.5)
    report = studied(machine, images, 240.0)
    assert machine.trained["scratch"] > 0, report.left_out
    assert not [line for line in report.left_out if line.startswith("scratch")]
    assert machine.now <= 1.1 * 240


@settings(max_examples=40, deadline=None)
@given(speeds, errors, st.floats(20.0, 1150.0))
def test_a_study_that_is_killed_takes_its_budget_all_the_same(
    images: SimpleNamespace, speed: float, tests: float, killed: float
) -> None:
    machine = Machine(speed, 1.0, tests, killed=killed)
    studied(machine, images)
    assert LEAST * 1200 <= machine.now <= 1.1 * 1200, machine


@settings(max_examples=30, deadline=None)
@given(st.floats(0.5, 1.2), st.sampled_from([900.0, 1200.0, 3600.0]))
def test_the_networks_get_half_of_the_budget(images: SimpleNamespace, speed: float, seconds: float) -> None:
    machine = Machine(speed)
    studied(machine, images, seconds)
    assert machine.networks >= 0.97 * RACE_SHARE * seconds, machine


@settings(max_examples=30, deadline=None)
@given(speeds, drifts, st.floats(0.8, 1.2))
@example(1.0, 1.0, 1.5)  # the usual probe would take what is left for it
@example(1.0, 1.0, 1.8)
def test_the_network_from_scratch_trains_about_as_long_as_a_finalist(
    images: SimpleNamespace, speed: float, drift: float, tests: float
) -> None:
    machine = Machine(speed, drift, tests)
    report = studied(machine, images)
    trained = dict(machine.trained)
    scratch, longest = trained.pop("scratch", 0.0), max(trained.values())
    if "scratch" in {one.name for one in report.contenders}:
        assert 0.45 * longest <= scratch <= 3.1 * longest, (machine, trained, scratch)
    else:
        assert any(line.startswith("scratch: ") for line in report.left_out)
    assert drift > 1.2 or scratch, (machine, report.left_out)


def test_a_budget_without_time_for_a_network_says_which_would_be_enough(images: SimpleNamespace) -> None:
    report = studied(Machine(), images, 130.0)
    assert all(one.kind != "restoring" for one in report.contenders)
    said = re.fullmatch(
        r"Not answered: 130 s are too few to train a network on these images; try budget=(\d+)m\.", report.verdict[0]
    )
    assert said is not None
    minutes = int(said[1])
    assert 3 <= minutes <= 5  # with 150 s, one of the networks can be trained
    longer = studied(Machine(), images, 60.0 * minutes)
    assert any(one.kind == "restoring" for one in longer.contenders)
    assert not longer.verdict[0].startswith("Not answered")


@pytest.mark.parametrize("kept", [None, 55.0])  # 55: reserved for networks, but too little when it comes to planning
def test_simple_methods_get_the_time_that_networks_cannot_use(
    images: SimpleNamespace, kept: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kept is not None:
        monkeypatch.setattr(run, "kept_seconds", lambda *_: kept)
    machine = Machine()
    report = studied(machine, images, 140.0)
    assert "random_patches" in {one.name for one in report.contenders}  # it takes a third of the budget
    assert not any(line.startswith("random_patches:") for line in report.left_out)
    assert machine.now <= 1.1 * 140


def test_the_winner_is_tested_on_damaged_images_in_the_time_that_was_planned(
    images: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine()
    report = studied(machine, images)
    assert 0 < machine.worked["damage"] <= 0.05 * 1200
    assert list(report.damage) == ["color"]
    assert not [line for line in report.left_out if "damaged" in line]
    slow = Machine()
    monkeypatch.setattr("retouch.studies.plan.DAMAGE_SHARE", 0.001)
    report = studied(slow, images)
    assert slow.worked["damage"] == 0
    assert report.damage == {}
    assert f"{report.winner} on damaged test images: needs too much time" in report.left_out


def test_as_many_images_are_damaged_as_there_is_time_for(images: SimpleNamespace) -> None:
    cost = SimpleNamespace(extraction=2.4)  # a second for 1,000 images
    parts: Any = SimpleNamespace(images=images, journal=SimpleNamespace(costs=[cost]))
    assert budget.damage_seconds(parts, 1000) == pytest.approx(3 * 1.0)
    counts = [budget.damaged_images(parts, seconds) for seconds in (60.0, 1.5, 0.61, 0.59, 0.0, -1.0)]
    assert counts == [DAMAGED, 500, 203, 0, 0, 0]


@pytest.mark.parametrize(
    ("memory", "contestants", "planted", "said"),
    [
        (1 << 20, None, {}, "the linear probe of kmeans on all labeled images: needs too much time or memory"),
        (64 << 30, None, {"BASELINE_SHARE": 1e-4}, "kmeans: "),
        (
            *(64 << 30, ("kmeans", "scratch"), {}),
            "scratch: it uses the network of a contestant that restores images, but none competes",
        ),
        (64 << 30, None, {"FEWEST_STEPS": 100_000}, "mask: needs at least "),
    ],
    ids=["no memory", "a slow baseline", "no network", "too few steps"],
)
def test_what_is_left_out_is_said_with_its_cause(
    memory: int,
    contestants: tuple[str, ...] | None,
    planted: dict[str, float],
    said: str,
    images: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in planted.items():
        monkeypatch.setattr(f"retouch.studies.plan.{name}", value)
    change: dict[str, Any] = {} if contestants is None else {"contestants": contestants}
    left_out = studied(Machine(memory=memory), images, **change).left_out
    assert [line for line in left_out if line.startswith(said)], left_out
