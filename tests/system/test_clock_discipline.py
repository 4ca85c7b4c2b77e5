"""The agent's time follows the majority of system clock, venue's clock and steady progress; one alone changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.events import HOUR_MS, MINUTE_MS
from agent.system.clock_discipline import TOLERANCE, DisciplinedClock

T0 = 1_790_409_600_000
SECOND_MS = 1_000


class World:
    """True time, and three sources that may be wrong about it: all in ms."""

    def __init__(self, *, system: float = 0.0) -> None:
        self.time = 0.0
        self.system = system  # error of the system clock
        self.venue = 0.0  # error of the venue's clock
        self.lost = 0.0  # steady time that was not counted
        self.drift = 0.0  # of the steady clock
        self.clock = DisciplinedClock(self, self.steady)

    def now(self) -> int:
        """The system clock."""
        return round(T0 + self.time + self.system)

    def steady(self) -> float:
        return (self.time * (1 + self.drift) - self.lost) / 1000

    @property
    def error(self) -> float:
        """Of the agent's time."""
        return self.clock.now() - T0 - self.time

    def measure(self, *, took: float = 40.0, skewed: float = 0.0) -> None:
        sent = self.clock.steady()
        self.time += took / 2 + skewed
        stamp = round(T0 + self.time + self.venue)
        self.time += took / 2 - skewed
        self.clock.measured(stamp, sent)

    def passes(self, seconds: float, *, venue: bool = True) -> None:
        """Time, with a look at the clocks each second and at the venue every thirty."""
        for second in range(int(seconds)):
            self.time += 1_000
            if venue and second % 30 == 0:
                self.measure()
            self.clock.check()

    def says(self, late: float = 50.0) -> None:
        """A message of the stream."""
        self.clock.heard(round(T0 + self.time + self.venue - late))

    @property
    def trouble(self) -> str:
        return self.clock.check().trouble


def settled(**wrong: float) -> World:
    world = World(**wrong)
    world.measure()
    world.passes(60)
    return world


@pytest.mark.parametrize("step", [26 * HOUR_MS, -2 * HOUR_MS, 5 * SECOND_MS, -30 * 24 * HOUR_MS])
def test_a_step_of_the_system_clock_changes_nothing_is_told_and_heals(step: int) -> None:
    world = settled()
    world.system = step
    assert world.trouble == "system"
    world.passes(120)
    assert abs(world.error) < 100
    assert world.clock.check().system_ms == pytest.approx(step, abs=100)
    world.system = 0
    assert world.trouble == ""
    assert world.clock.steps == 0


def test_a_venue_that_is_wrong_is_outvoted_and_told() -> None:
    world = settled()
    world.venue = HOUR_MS
    world.passes(3_600)
    assert abs(world.error) < 100
    assert world.trouble == "venue"
    world.venue = 0.0
    world.passes(60)
    assert world.trouble == ""


def test_after_a_suspension_that_the_steady_clock_missed_system_and_venue_are_followed_at_once() -> None:
    world = settled()
    world.time += 8 * HOUR_MS
    world.lost = 8 * HOUR_MS
    assert world.trouble == "system"
    world.measure()
    assert abs(world.error) < 100
    assert world.trouble == ""
    assert world.clock.steps == 1


@pytest.mark.parametrize("wrong", [26 * HOUR_MS, -2 * HOUR_MS, -3 * SECOND_MS])
def test_at_a_start_with_a_wrong_system_clock_the_venue_is_believed(wrong: int) -> None:
    world = World(system=wrong)
    assert world.trouble == "unconfirmed"
    assert world.clock.latest(0) is None
    world.measure()
    assert abs(world.error) < 100
    assert world.trouble == "system"
    assert world.clock.latest(5_000) == world.clock.now() + 5_000


@pytest.mark.parametrize("wrong", [26 * HOUR_MS, -2 * HOUR_MS])
def test_at_a_start_without_a_measurement_the_stream_shows_a_wrong_system_clock(wrong: int) -> None:
    world = World(system=wrong)
    for _ in range(5):
        world.says()
    assert abs(world.error) < 200


def test_one_message_from_the_future_moves_nothing() -> None:
    world = settled()
    for ahead in (0, 40 * MINUTE_MS, 0, 0, 40 * MINUTE_MS, 0, 0):
        world.says(late=-ahead)
    assert abs(world.error) < 100
    assert world.trouble == ""


def test_messages_that_come_late_move_nothing() -> None:
    world = settled()
    for late in range(1_000, 60_000, 1_000):
        world.says(late=late)
    assert abs(world.error) < 100


def test_a_measurement_that_took_too_long_is_none() -> None:
    world = settled()
    sent = world.clock.steady()
    world.time += 6_000
    assert not world.clock.measured(T0 + 10 * HOUR_MS, sent)
    assert abs(world.error) < 100


@pytest.mark.parametrize("drift", [300e-6, -300e-6])
def test_a_steady_clock_that_drifts_is_held_without_a_step(drift: float) -> None:
    world = settled()
    world.drift = drift
    before, steps = world.clock.now(), []
    for _ in range(180):
        world.passes(60)
        steps.append(world.clock.now() - before)
        before = world.clock.now()
    assert abs(world.error) < 200
    assert all(abs(step - 60_000) < 150 for step in steps)
    assert world.clock.steps == 0


def test_after_a_long_absence_of_the_venue_a_drifted_system_clock_is_corrected() -> None:
    world = settled()
    for _ in range(60 * 60):
        world.passes(4, venue=False)
        world.system += 1.6  # 400 ppm, which the agent follows as long as nothing else tells the time
    assert world.error > TOLERANCE
    world.measure()
    assert abs(world.error) < 100


def system_steps(world: World, by: float) -> None:
    world.system = by


def measured(world: World, by: float) -> None:
    world.measure(took=20 + abs(by) % 4_000)


def passed(world: World, by: float) -> None:
    world.passes(abs(by) % 300, venue=False)


def told(world: World, by: float) -> None:
    world.says(late=abs(by) % 20_000)


ACTS = st.sampled_from([system_steps, measured, passed, told])
BY = st.floats(-30 * 24 * HOUR_MS, 30 * 24 * HOUR_MS)


@given(st.lists(st.tuples(ACTS, BY), max_size=30))
def test_with_a_sound_venue_no_system_clock_leads_away(
    acts: list[tuple[Callable[[World, float], None], float]],
) -> None:
    world = settled()
    for act, by in acts:
        act(world, by)
        assert abs(world.error) <= 2 * TOLERANCE
    world.system = 0.0
    world.passes(31)
    assert abs(world.error) <= TOLERANCE
    assert world.trouble == ""
