"""The arithmetic of a budget: what is planned takes the time that there is, and never more."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retouch.studies.config import seconds_of
from retouch.studies.fits import PROBES, JudgeCost, fit_bytes, fit_seconds, probe_seconds, ridge_work, wider_cost
from retouch.studies.plan import RULER_STEPS, SAVING, Plan, Purse, Rung, Sizes, Timing, sizes
from retouch.studies.rungs import (
    FEWEST_STEPS,
    adapted,
    enter,
    first_steps,
    kept_seconds,
    least_seconds,
    race_seconds,
    rung_ends,
    rungs_of,
    survivors,
    whole_seconds,
)

seconds = st.floats(0.0, 30.0)
timing = st.builds(Timing, start=seconds, step=st.floats(0.001, 5.0), judge=seconds)
field = st.dictionaries(st.text("abcdef", min_size=1, max_size=3), timing, min_size=1, max_size=8)


@pytest.mark.parametrize(("text", "expected"), [("90s", 90), ("20m", 1200), ("1h", 3600), ("1.5h", 5400), ("45 s", 45)])
def test_lengths_of_time_are_read(text: str, expected: float) -> None:
    assert seconds_of(text) == expected


@pytest.mark.parametrize("text", ["", "m", "20x", "-5s", "0", "0m", "1h30", "nan"])
def test_what_is_no_length_of_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="such as 90s, 20m or 1h"):
        seconds_of(text)


def test_a_length_of_time_without_a_unit_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a unit: budget=2m for minutes, or budget=2s for seconds"):
        seconds_of("2")


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        *((0, []), (1, [1, 1]), (2, [2, 2]), (3, [3, 2]), (4, [4, 2])),
        *((5, [5, 3, 2]), (8, [8, 4, 2]), (9, [9, 5, 3, 2])),
    ],
)
def test_the_better_half_stays_and_two_train_to_the_end_in_two_rungs_at_least(count: int, expected: list[int]) -> None:
    assert survivors(count) == expected


def test_each_rung_adds_three_times_as_much_training_as_the_one_before() -> None:
    assert rung_ends(2, 40.0) == [10.0, 40.0]
    assert rung_ends(3, 130.0) == pytest.approx([10.0, 40.0, 130.0])


def test_a_race_worked_by_hand() -> None:
    four = [Timing(start=1.0, step=0.1, judge=2.0, test=5.0)] * 4
    # four train for 10 s, two for 30 s more, and each time all are started, measured, judged and saved; then all tested
    idle = 1 + 2 + SAVING + RULER_STEPS * 0.1
    race = 4 * 10 + 2 * 30 + 6 * idle + 4 * 5
    assert race_seconds(40.0, four) == pytest.approx(race)
    assert race_seconds(40.0, four, scratch=True) == pytest.approx(race + 40)  # as long as a finalist


@given(field, st.floats(1.0, 5000.0), st.booleans())
def test_the_race_takes_the_time_that_there_is(timings: dict[str, Timing], available: float, scratch: bool) -> None:
    every = list(timings.values())
    whole = whole_seconds(available, every, scratch=scratch)
    if whole > 0:
        assert race_seconds(whole, every, scratch=scratch) == pytest.approx(available, rel=1e-6)
    else:
        assert race_seconds(0.0, every, scratch=scratch) >= available - 1e-6


@given(field, st.floats(1.0, 5000.0))
def test_whoever_enters_can_be_judged_and_whoever_does_not_is_named(
    timings: dict[str, Timing], available: float
) -> None:
    inside, left_out = enter(timings, available)
    assert len(inside) + len(left_out) == len(timings)
    assert [line.partition(":")[0] for line in left_out] == [
        name for name in sorted(timings, key=lambda name: -least_seconds([timings[name]])) if name not in inside
    ]
    assert all(": needs at least " in line and " s of training, judging and testing" in line for line in left_out)
    if inside:
        every = list(inside.values())
        whole = whole_seconds(available, every)
        assert all(first_steps(one, whole, len(survivors(len(every)))) >= FEWEST_STEPS for one in every)


@given(field, st.floats(100.0, 5000.0))
def test_rungs_in_steps_take_no_longer_than_in_seconds(timings: dict[str, Timing], whole: float) -> None:
    steps, rungs = rungs_of(timings, whole)
    assert len(rungs) == len(survivors(len(timings)))
    for name, one in timings.items():
        taken = [rung.steps[name] for rung in rungs]
        assert taken == sorted(taken)
        assert taken[-1] == steps[name] == max(1, int(whole / one.step))
        assert all(count * one.step <= rung.seconds + one.step for count, rung in zip(taken, rungs, strict=True))


def planned(timings: dict[str, Timing], whole: float) -> Plan:
    steps, rungs = rungs_of(timings, whole)
    counts = Sizes(judged=1, fitted=1, tested=1)
    return Plan(image_size=16, sizes=counts, simple=(), steps=steps, rungs=rungs, scratch=0, probe=False)


@given(field, st.floats(100.0, 2000.0), st.floats(-50.0, 5000.0))
def test_later_rungs_take_the_time_that_is_left_be_it_less_or_more_than_planned(
    timings: dict[str, Timing], whole: float, available: float
) -> None:
    plan = planned(timings, whole)
    stay = dict(list(timings.items())[: survivors(len(timings))[1]])
    found = adapted(plan, 1, stay, available, 0.0)
    assert found.rungs[0] == plan.rungs[0]
    assert found.steps == plan.steps
    needed = 0.0
    counts = survivors(len(timings))[1:]
    for number, (before, rung) in enumerate(pairwise(found.rungs), start=1):
        assert before.seconds <= rung.seconds
        for name in stay:
            assert before.steps[name] <= rung.steps[name]
            assert found.whole(name, number + 1) == found.rungs[-1].steps[name]  # where its schedule ends
            assert found.whole(name, 1) == plan.steps[name]
        needed += counts[number - 1] * (rung.seconds - before.seconds)
        idle = sorted((one.idle for one in stay.values()), reverse=True)
        needed += sum(idle[: counts[number - 1]])
    shortest = sum(sum(sorted((one.idle for one in stay.values()), reverse=True)[:count]) for count in counts)
    assert needed == pytest.approx(max(available, shortest), abs=1e-6)


@given(field, st.floats(1.0, 5000.0), st.floats(0.0, 5000.0))
def test_what_the_networks_keep_is_their_share_of_the_budget_or_most_of_what_is_left(
    timings: dict[str, Timing], share: float, left: float
) -> None:
    kept = kept_seconds(list(timings.values()), share, left)
    assert kept <= left + 1e-6
    if kept:
        assert enter(timings, kept)[0]
        assert kept >= min(share, 0.8 * left) - 1e-6
    else:
        assert not enter(timings, 0.9 * left)[0]


@given(st.floats(-10, 100), st.floats(0, 100), st.floats(0, 100))
def test_a_purse_gives_nothing_of_what_is_kept(left: float, kept: float, asked: float) -> None:
    purse = Purse(left, kept)
    given_ = purse.take(asked, 0.5)
    assert given_ == (asked < min(0.5 * left, left - kept))
    assert purse.left == left - (asked if given_ else 0)
    assert purse.left >= min(left, kept)


def test_a_contestant_that_turned_out_slower_takes_fewer_steps() -> None:
    timings = {name: Timing(start=0.0, step=0.1, judge=0.0) for name in "abc"}
    plan = planned(timings, 40.0)
    slower = {"a": timings["a"], "b": Timing(start=0.0, step=0.2, judge=0.0)}
    idle = sum(one.idle for one in slower.values())
    last = adapted(plan, 1, slower, 60.0 + idle, 0.0).rungs[-1].steps
    assert last == {"a": 400, "b": 100 + 150, "c": 400}


@pytest.mark.parametrize(("available", "reserved"), [(60.0, False), (150.0, True)])
def test_time_for_the_network_from_scratch_is_reserved_later_if_the_finalists_lose_little_by_it(
    available: float, reserved: bool
) -> None:
    timings = {name: Timing(start=0.0, step=0.1, judge=0.0, saving=0.0) for name in "ab"}
    plan = planned(timings, 40.0).model_copy(update={"scratch_settled": False})  # 10 s, then 30 s each
    found = adapted(plan, 1, timings, available, 9.0)
    idle = sum(one.idle for one in timings.values())
    # with it, 2 * (x - 10) + x + 9 + idle = available
    whole = (available - 9.0 - idle + 20.0) / 3 if reserved else (available - idle + 20.0) / 2
    assert found.rungs[-1].seconds == pytest.approx(whole)
    assert found.scratch_seconds == pytest.approx(whole if reserved else 0.0)
    settled = plan.model_copy(update={"scratch_settled": True})  # none was asked for
    assert adapted(settled, 1, timings, available, 9.0).scratch_seconds == 0.0


@given(st.floats(1.0, 1e5), st.floats(1.0, 1e5))
def test_a_larger_budget_uses_no_fewer_images(one: float, other: float) -> None:
    small, large = sizes(min(one, other)), sizes(max(one, other))
    assert (small.judged, small.fitted, small.tested) <= (large.judged, large.fitted, large.tested)
    assert large.judged <= 4000


def test_costs_of_tests_follow_from_what_judging_took() -> None:
    cost = JudgeCost(width=100, extraction=2.0, fitting=4.0)
    same = fit_seconds(cost, 1000, 1000, 0, strengths=6, few=5000)
    assert same == pytest.approx(2.0 + 4.0 * (1 + ridge_work(1000, 100, 1) / (5 * ridge_work(800, 100, 6))))
    assert fit_seconds(cost, 1000, 1000, 500, strengths=6, few=5000) == pytest.approx(same + 1.0)


def test_a_probe_costs_what_a_test_has_not_paid_for() -> None:
    cost = JudgeCost(width=100, extraction=2.0, fitting=4.0)
    work = (ridge_work(9000, 100, 6) + ridge_work(10_000, 100, 1)) / (5 * ridge_work(800, 100, 6))
    by_ridge = probe_seconds(cost, 1000, 4000, 10_000, "ridge", strengths=6, few=5000)
    assert by_ridge == pytest.approx(2.0 * 6000 / 1000 + 4.0 * work)
    usual = probe_seconds(cost, 1000, 10_000, 10_000, "logistic", strengths=6, few=5000)
    assert usual == pytest.approx(PROBES["logistic"].fits * 4.0 * work)


def test_costs_of_a_wider_dictionary_follow_from_those_of_a_narrow_one() -> None:
    cost = JudgeCost(width=3600, extraction=2.0, fitting=4.0)
    found = wider_cost(cost, 2400, 6400, 0.003, strengths=6, few=5000)
    more, known = (4 * 1920**2 * width + 6 * 1920**3 / 3 for width in (6400, 3600))  # more features than rows
    assert found.model_dump() == pytest.approx({"width": 6400, "extraction": 7.2, "fitting": 4.0 * more / known})


def test_a_fit_takes_features_a_copy_and_what_solves_it() -> None:
    assert fit_bytes(10_000, 100, 1000, copies=2) == 4 * 100 * 31_000 + 24 * 100**2
    assert fit_bytes(100, 1000, 50, copies=5) == 4 * 1000 * 650 + 16 * 100 * 1100


def test_a_plan_survives_its_file() -> None:
    plan = planned({"a": Timing(start=0.1, step=0.2, judge=0.3)}, 50.0)
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    assert isinstance(plan.rungs[0], Rung)


def test_the_most_that_a_rung_may_take_by_hand() -> None:
    timing = Timing(start=2.0, step=0.1, judge=9.0)
    found = Plan(
        image_size=32,
        sizes=Sizes(judged=1, fitted=1, tested=1),
        simple=(),
        steps={"mask": 100},
        rungs=(Rung(seconds=10.0, steps={"mask": 25}), Rung(seconds=40.0, steps={"mask": 100})),
        scratch=0,
        probe=False,
        timings={"mask": timing},
    )
    assert found.most_seconds("mask", 1, 0.0) == pytest.approx(1.5 * (10 + 2 + 12 * 0.1) + 1)
    assert found.most_seconds("mask", 2, 14.0) == pytest.approx(14 + 1.25 * (30 + 2 + 12 * 0.1) + 1)
