"""What a study keeps on disk: its plan, every judgment, and the time that it has taken."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from pydantic import Field, ValidationError

from common.errors import UserError, one_line
from common.files import refuse_stream, write_json
from common.runs.results import Record
from finetune.records import Checks
from finetune.results import Probed
from retouch.studies.fits import JudgeCost
from retouch.studies.plan import Plan, Wider
from retouch.studies.results import PLAN, UnderDamage

JUDGED, CLOCK = "judged.json", "clock.json"
BEAT = 5.0  # seconds between two records of the time spent: if the process is killed, as many may go uncounted


class Judgment(Record):
    """The validation of a contestant at one point of its training."""

    name: str
    rung: int | None  # from 1; None for contestants that are judged once
    steps: int  # of its training
    seconds: float  # of its training
    accuracy: dict[str, float]  # validation, by task
    cost: JudgeCost
    took: float = 0.0  # seconds of the rung: training, saving and judging (0 in older files)

    @property
    def mean(self) -> float:
        """Mean accuracy over the tasks, by which all choices are made."""
        return sum(self.accuracy.values()) / len(self.accuracy)


class ProbedOnce(Record):
    """The linear probe of the winner on one task."""

    outcome: Probed
    checks: Checks | None = None


class Memory(Record):
    """``judged.json``."""

    spent: float = 0.0  # seconds, by all processes so far
    judgments: tuple[Judgment, ...] = ()
    wider: Wider | None = None  # the dictionary to learn again; set before that starts
    probed: dict[str, ProbedOnce] = Field(default_factory=dict)  # by task, once the winner is probed
    damage: dict[str, UnderDamage] = Field(default_factory=dict)  # likewise, on damaged images


class Clock:
    """The time taken and left, over all processes that worked on a study."""

    def __init__(self, budget: float, started: float, spent: float = 0.0) -> None:
        """``started``: when this process began, by ``time.monotonic``; ``spent``: seconds of earlier processes."""
        self.budget, self.started, self.spent = budget, started, spent

    @property
    def taken(self) -> float:
        return self.spent + time.monotonic() - self.started

    @property
    def left(self) -> float:
        return self.budget - self.taken


class TimedTest(NamedTuple):
    """A test of this process, in seconds."""

    took: float
    estimated: float  # at the machine's speed before the race


class Journal:
    """The files of one study, and what this process has measured of its end (``tests``)."""

    def __init__(self, folder: Path, budget: float, started: float) -> None:
        self.folder = folder
        self.memory = _read_memory(folder / JUDGED)
        self.clock = Clock(budget, started, max(self.memory.spent, _read_clock(folder / CLOCK)))
        self.tests = list[TimedTest]()

    @property
    def plan(self) -> Plan | None:
        """The plan, if there is one."""
        path = self.folder / PLAN
        return read_plan(path) if path.is_file() else None

    def followed(self, given: Plan | None) -> Plan | None:
        """The plan to follow: its own if it was interrupted, since that may have settled more than a given one."""
        return self.plan or given

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Record the time spent every few seconds, so that work that is killed counts as well."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(BEAT):
                with suppress(OSError):  # a full disk is reported when results are written
                    write_json(self.folder / CLOCK, {"spent": round(self.clock.taken, 2)})

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def save_plan(self, plan: Plan) -> None:
        write_json(self.folder / PLAN, plan.model_dump(mode="json"))
        self.save()

    def save(self) -> None:
        """Write the judgments and the time spent."""
        self.memory = self.memory.model_copy(update={"spent": round(self.clock.taken, 2)})
        write_json(self.folder / JUDGED, self.memory.model_dump(mode="json"))

    def add(self, judgment: Judgment) -> None:
        self.memory = self.memory.model_copy(update={"judgments": (*self.memory.judgments, judgment)})
        self.save()

    def keep(self, wider: Wider) -> None:
        """Record which dictionary is learned again."""
        self.memory = self.memory.model_copy(update={"wider": wider})
        self.save()

    def keep_probe(self, probed: Mapping[str, ProbedOnce], damage: Mapping[str, UnderDamage]) -> None:
        """Record the results of the winner's linear probe, and those on damaged images."""
        self.memory = self.memory.model_copy(update={"probed": dict(probed), "damage": dict(damage)})
        self.save()

    def of(self, name: str, rung: int | None = None) -> Judgment | None:
        """The judgment of a contestant after a rung, if there is one."""
        return next((one for one in self.memory.judgments if (one.name, one.rung) == (name, rung)), None)

    @property
    def costs(self) -> list[JudgeCost]:
        """The cost of every judgment before the race; a network costs as much as its untrained twin."""
        return [one.cost for one in self.memory.judgments if one.rung is None]

    @property
    def judged(self) -> list[str]:
        """All judged contestants, in the order of their first judgments."""
        return list(dict.fromkeys(one.name for one in self.memory.judgments))

    def last(self, name: str) -> Judgment:
        """The last judgment of a contestant."""
        return [one for one in self.memory.judgments if one.name == name][-1]

    @property
    def race_taken(self) -> float:
        """Seconds that the race has taken so far."""
        return sum(one.took for one in self.memory.judgments if one.rung is not None)


def read_plan(path: Path) -> Plan:
    """Read a ``plan.json``, or that of the study around it.

    Raises:
        UserError: there is no such file, or it was not written by a study.
    """
    path = path / PLAN if path.is_dir() else path
    refuse_stream(path)
    try:
        return Plan.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"plan: no such file: {path}; give the {PLAN} of a study") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"plan: {path} cannot be read: {one_line(error)}") from None
    except ValidationError as error:
        if any(one["loc"] == ("version",) and one["type"] != "missing" for one in error.errors()):
            raise UserError(
                f"plan: {path} is of another version of Retouch, which planned in another way; start a new study"
            ) from None
        raise UserError(f"plan: {path} is not a plan of retouch study; give the {PLAN} of a study") from None


def _read_clock(path: Path) -> float:
    """The last recorded seconds spent; 0 if they cannot be read."""
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))["spent"])
    except (OSError, ValueError, KeyError, TypeError):  # judged.json has the time of the last judgment
        return 0.0


def _read_memory(path: Path) -> Memory:
    try:
        return Memory.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return Memory()
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({one_line(error, 100)}); start over with overwrite=true") from None
