"""Round trips of two runs, matched by symbol, side and time of entry."""

from __future__ import annotations

from decimal import Decimal as D
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.analysis.comparison.matched_trades import match_trades
from agent.analysis.trades import RoundTrip
from agent.core.events import Side

TRIP = RoundTrip(
    "BTCUSDT",
    Side.BUY,
    1_000,
    5_000,
    D(100),
    D(110),
    D(2),
    D(19),
    D(1),
    D(0),
    D("0.5"),
    "why",
    "exit",
    "o1",
    "o2",
)


def trip(**changes: Any) -> RoundTrip:
    return replace(TRIP, **changes)


def test_equal_round_trips_of_two_runs_have_other_order_ids() -> None:
    found = match_trades([TRIP], [trip(entry_order="p1", exit_order="p2")], 0)
    assert (found.equal, found.differing, found.only_a, found.only_b) == (1, [], [], [])


@pytest.mark.parametrize(
    ("changes", "tolerance", "differs"),
    [
        ({"fees": D(2), "pnl": D(18)}, 0, ("pnl", "fees")),
        ({"exit_price": D(109), "exit_ts": 6_000}, 0, ("exit_ts", "exit_price")),
        ({"entry_ts": 1_400}, 500, ("entry_ts",)),
        ({"entry_ts": 1_400}, 399, None),
        ({"symbol": "ETHUSDT"}, 500, None),
        ({"side": Side.SELL}, 500, None),
        ({"exit_ts": None, "exit_price": None}, 0, ("exit_ts", "exit_price")),
    ],
)
def test_a_changed_round_trip(
    changes: dict[str, Any], tolerance: int, differs: tuple[str, ...] | None
) -> None:
    found = match_trades([TRIP], [trip(**changes)], tolerance)
    if differs is None:
        assert (found.differing, found.only_a, found.only_b) == ([], [TRIP], [trip(**changes)])
    else:
        assert [pair.differs for pair in found.differing] == [differs]
        assert found.differing[0].pnl == TRIP.pnl - found.differing[0].b.pnl
        assert (found.only_a, found.only_b) == ([], [])


def test_exact_times_match_before_near_ones() -> None:
    """The second trip of b is nearer to nothing else: its exact partner must not be taken by a near one."""
    a = [trip(entry_ts=900), trip(entry_ts=1_000)]
    b = [trip(entry_ts=1_000), trip(entry_ts=1_100)]
    found = match_trades(a, b, 300)
    assert found.equal == 1
    assert [(pair.a.entry_ts, pair.b.entry_ts) for pair in found.differing] == [(900, 1_100)]


def test_the_nearest_of_several_matches() -> None:
    found = match_trades([trip(entry_ts=1_000)], [trip(entry_ts=one) for one in (700, 1_100, 1_250)], 300)
    assert [(pair.a.entry_ts, pair.b.entry_ts) for pair in found.differing] == [(1_000, 1_100)]
    assert [one.entry_ts for one in found.only_b] == [700, 1_250]


_trips = st.lists(
    st.builds(
        trip,
        entry_ts=st.integers(0, 60),
        symbol=st.sampled_from(["BTCUSDT", "ETHUSDT"]),
        side=st.sampled_from(Side),
        pnl=st.decimals(-5, 5, places=1),
    ),
    max_size=25,
)


@given(a=_trips, b=_trips, tolerance=st.integers(0, 20))
def test_each_round_trip_is_listed_once(a: list[RoundTrip], b: list[RoundTrip], tolerance: int) -> None:
    found = match_trades(a, b, tolerance)
    pairs = found.equal + len(found.differing)
    assert pairs + len(found.only_a) == len(a)
    assert pairs + len(found.only_b) == len(b)
    for pair in found.differing:
        assert (pair.a.symbol, pair.a.side) == (pair.b.symbol, pair.b.side)
        assert abs(pair.a.entry_ts - pair.b.entry_ts) <= tolerance
        assert pair.differs
    for alone in found.only_a:  # nothing that is left in b has exactly its time
        assert all(
            (alone.symbol, alone.side, alone.entry_ts) != (one.symbol, one.side, one.entry_ts)
            for one in found.only_b
        )


@given(trips=_trips)
def test_a_run_against_itself_is_equal(trips: list[RoundTrip]) -> None:
    assert match_trades(trips, list(reversed(trips)), 0).only_a == []
    assert match_trades(trips, trips, 0).equal == len(trips)
