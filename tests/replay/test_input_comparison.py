"""Whether two live runs handled the same events: by the digests of their journals, or one by one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.core.events import Event, Kline
from agent.replay.input_comparison import compare_inputs
from agent.store.database import Database, open_database
from agent.store.journal import Journal
from agent.store.recorder import Recorder
from agent.store.runs import Run, RunKind
from tests.store.store_samples import T0


def bar(number: int) -> Event:
    start = T0 + number * 60_000
    return Kline(
        "BTCUSDT", 60_000, start, start + 60_000, start + 60_000, 1.0, 2.0, 1.0, 2.0, float(number), 5.0
    )


BARS = [bar(number) for number in range(20)]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with closing(open_database(f"sqlite:///{tmp_path / 'store.db'}")) as opened:
        yield opened


def live_run(database: Database, name: str, events: list[Event]) -> Run:
    """Record a live run that handled `events` and decided nothing."""
    run = Run(name, RunKind.LIVE, T0, "sma_cross")
    journal = Journal(database, name) if events else None
    with Recorder(database, run) as recorder:
        if journal is not None:
            journal.append(events)
            recorder.event_seq = len(events)
        return recorder.finish(first_event_at=T0, last_event_at=T0, final_equity=1, metrics={})  # type: ignore[arg-type]


def test_equal_journals_are_known_by_their_digest(database: Database) -> None:
    a, b = live_run(database, "a", BARS), live_run(database, "b", BARS)
    found = compare_inputs(database, a, b).comparison
    assert found.same
    assert found.detail == "the journals are equal: 20 events with the same digest"


@pytest.mark.parametrize(
    ("other", "first", "ends"),
    [
        ([*BARS[:7], replace(BARS[7], close=9.0), *BARS[8:]], 8, False),
        (BARS[:12], 13, True),
        ([BARS[1], BARS[0], *BARS[2:]], 1, False),
    ],
)
def test_the_first_differing_event_is_named(
    database: Database, other: list[Event], first: int, ends: bool
) -> None:
    a, b = live_run(database, "a", BARS), live_run(database, "b", other)
    found = compare_inputs(database, a, b).comparison
    assert (found.same, found.first, found.checked) == (False, first, first - 1)
    assert found.a == BARS[first - 1]
    assert (found.b is None) == ends


def test_events_up_to_a_decision_are_enough(database: Database) -> None:
    """The event of the decision is returned; what comes after it doesn't matter."""
    a, b = live_run(database, "a", BARS), live_run(database, "b", [*BARS[:10], *BARS[11:]])
    found = compare_inputs(database, a, b, until=10)
    assert (found.comparison.same, found.comparison.checked, found.event) == (True, 10, BARS[9])
    assert compare_inputs(database, a, b, until=11).comparison.first == 11
