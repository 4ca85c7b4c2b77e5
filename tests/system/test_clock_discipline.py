"""The agent's time follows the majority of system clock, venue's clock and monotonic progress."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.events import HOUR_MS, MINUTE_MS
from agent.system.clock_discipline import TOLERANCE, DisciplinedClock

T0 = 1_790_409_600_000
SECOND_MS = 1_000


class ClockHarness:
    """True time, and three sources with errors, all in ms."""

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
        """Error of the agent's time."""
        return self.clock.now() - T0 - self.time

    def measure(self, *, took: float = 40.0, skewed: float = 0.0) -> None:
        sent = self.clock.steady()
        self.time += took / 2 + skewed
        stamp = round(T0 + self.time + self.venue)
        self.time += took / 2 - skewed
        self.clock.add_measurement(stamp, sent)

    def advance(self, seconds: float, *, venue: bool = True) -> None:
        """Advance time; check the clocks each second, measure the venue every 30 seconds."""
        for second in range(int(seconds)):
            self.time += 1_000
            if venue and second % 30 == 0:
                self.measure()
            self.clock.check()

    def receive(self, late: float = 50.0) -> None:
        """Receive a message of the stream."""
        self.clock.add_stamp(round(T0 + self.time + self.venue - late))

    @property
    def trouble(self) -> str:
        return self.clock.check().trouble


def synchronised(**wrong: float) -> ClockHarness:
    harness = ClockHarness(**wrong)
    harness.measure()
    harness.advance(60)
    return harness


@pytest.mark.parametrize("step", [26 * HOUR_MS, -2 * HOUR_MS, 5 * SECOND_MS, -30 * 24 * HOUR_MS])
def test_a_step_of_the_system_clock_changes_only_the_status(step: int) -> None:
    harness = synchronised()
    harness.system = step
    assert harness.trouble == "system"
    harness.advance(120)
    assert abs(harness.error) < 100
    assert harness.clock.check().system_ms == pytest.approx(step, abs=100)
    harness.system = 0
    assert harness.trouble == ""
    assert harness.clock.steps == 0


def test_a_wrong_venue_clock_is_outvoted_and_reported() -> None:
    harness = synchronised()
    harness.venue = HOUR_MS
    harness.advance(3_600)
    assert abs(harness.error) < 100
    assert harness.trouble == "venue"
    harness.venue = 0.0
    harness.advance(60)
    assert harness.trouble == ""


def test_system_and_venue_are_followed_after_a_suspension_that_the_steady_clock_missed() -> None:
    harness = synchronised()
    harness.time += 8 * HOUR_MS
    harness.lost = 8 * HOUR_MS
    assert harness.trouble == "system"
    harness.measure()
    assert abs(harness.error) < 100
    assert harness.trouble == ""
    assert harness.clock.steps == 1


@pytest.mark.parametrize("wrong", [26 * HOUR_MS, -2 * HOUR_MS, -3 * SECOND_MS])
def test_the_venue_is_followed_if_the_system_clock_is_wrong_at_the_start(wrong: int) -> None:
    harness = ClockHarness(system=wrong)
    assert harness.trouble == "unconfirmed"
    assert harness.clock.latest(0) is None
    harness.measure()
    assert abs(harness.error) < 100
    assert harness.trouble == "system"
    assert harness.clock.latest(5_000) == harness.clock.now() + 5_000


@pytest.mark.parametrize("wrong", [26 * HOUR_MS, -2 * HOUR_MS])
def test_the_stream_corrects_a_wrong_system_clock_at_a_start_without_a_measurement(wrong: int) -> None:
    harness = ClockHarness(system=wrong)
    for _ in range(5):
        harness.receive()
    assert abs(harness.error) < 200


@pytest.mark.parametrize("wrong", [12 * SECOND_MS, -12 * SECOND_MS, 26 * HOUR_MS])
def test_a_system_clock_corrected_before_the_venue_answers_is_followed(wrong: int) -> None:
    """Messages of the stream can't show an error of 12 s, since they may be that late."""
    harness = ClockHarness(system=wrong)
    harness.advance(60, venue=False)
    harness.system = 0
    harness.advance(2, venue=False)
    for _ in range(5):
        harness.receive()
    assert abs(harness.error) < 100
    assert harness.trouble == ""


@pytest.mark.parametrize(
    ("late", "system"), [(0.4, 0.0), (1.5, 0.0), (1.5, -1.0), (14.0, -14.0), (50.0, -49.0)]
)
def test_late_messages_set_the_time_only_until_it_is_measured(late: float, system: float) -> None:
    """After a suspension a backlog of messages arrives. A system clock that is wrong by as much seems to
    confirm them, and would outvote the venue's answers.
    """
    harness = synchronised()
    harness.time += 100 * SECOND_MS
    harness.lost, harness.system = 100 * SECOND_MS, system * SECOND_MS
    for _ in range(5):
        harness.receive(late * SECOND_MS)
    assert harness.clock.steps == 1
    harness.measure()
    assert abs(harness.error) < 100
    assert harness.trouble == ("system" if system < -2 else "")
    assert harness.clock.steps == (2 if late > 2 else 1)  # a small correction is no jump


def test_one_message_from_the_future_changes_nothing() -> None:
    harness = synchronised()
    for ahead in (0, 40 * MINUTE_MS, 0, 0, 40 * MINUTE_MS, 0, 0):
        harness.receive(late=-ahead)
    assert abs(harness.error) < 100
    assert harness.trouble == ""


def test_late_messages_change_nothing() -> None:
    harness = synchronised()
    for late in range(1_000, 60_000, 1_000):
        harness.receive(late=late)
    assert abs(harness.error) < 100


def test_a_slow_measurement_is_ignored() -> None:
    harness = synchronised()
    sent = harness.clock.steady()
    harness.time += 6_000
    assert not harness.clock.add_measurement(T0 + 10 * HOUR_MS, sent)
    assert abs(harness.error) < 100


@pytest.mark.parametrize("drift", [300e-6, -300e-6])
def test_drift_of_the_steady_clock_is_corrected_without_a_step(drift: float) -> None:
    harness = synchronised()
    harness.drift = drift
    before, steps = harness.clock.now(), []
    for _ in range(180):
        harness.advance(60)
        steps.append(harness.clock.now() - before)
        before = harness.clock.now()
    assert abs(harness.error) < 200
    assert all(abs(step - 60_000) < 150 for step in steps)
    assert harness.clock.steps == 0


def test_after_a_long_absence_of_the_venue_a_drifted_system_clock_is_corrected() -> None:
    harness = synchronised()
    for _ in range(60 * 60):
        harness.advance(4, venue=False)
        harness.system += 1.6  # 400 ppm, which the agent follows without another source
    assert harness.error > TOLERANCE
    harness.measure()
    assert abs(harness.error) < 100


def system_steps(harness: ClockHarness, by: float) -> None:
    harness.system = by


def measured(harness: ClockHarness, by: float) -> None:
    harness.measure(took=20 + abs(by) % 4_000)


def passed(harness: ClockHarness, by: float) -> None:
    harness.advance(abs(by) % 300, venue=False)


def received(harness: ClockHarness, by: float) -> None:
    harness.receive(late=abs(by) % 20_000)


ACTIONS = st.sampled_from([system_steps, measured, passed, received])
BY = st.floats(-30 * 24 * HOUR_MS, 30 * 24 * HOUR_MS)


@given(st.lists(st.tuples(ACTIONS, BY), max_size=30))
def test_no_system_clock_misleads_the_agent_if_the_venue_is_right(
    actions: list[tuple[Callable[[ClockHarness, float], None], float]],
) -> None:
    harness = synchronised()
    for action, by in actions:
        action(harness, by)
        assert abs(harness.error) <= 2 * TOLERANCE
    harness.system = 0.0
    harness.advance(31)
    assert abs(harness.error) <= TOLERANCE
    assert harness.trouble == ""
