"""The table of round trips: every order and filter, sums, CSV, and a fold that goes on where it ended."""

from __future__ import annotations

import csv
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from io import StringIO
from typing import Any, get_args

import pytest

from agent.analysis.trades import RoundTrip
from agent.api.round_trips import CSV_COLUMNS, RoundTrips, selected, trade_table, trades_as_csv
from agent.api.route_table import BASE, TradeColumn, TradeFilter, TradeTableQuery
from agent.api.run_messages import CausingHeadline, TradeEntry
from agent.core.events import Decision, Side
from agent.store.database import Database, open_database
from agent.store.queries import find_run, read_decisions
from agent.store.recorder import Recorder
from agent.store.runs import Run, RunKind
from tests.api.api_harness import api_served
from tests.cli.conftest import Outcome

URL = "sqlite:///var/tapewire.db"
HOUR = 3_600_000


def trip(number: int, pnl: str, **fields: Any) -> TradeEntry:
    """Return a round trip that begins at hour `number` and lasts as many hours."""
    headlines = fields.pop("headlines", ())
    values: dict[str, Any] = {
        "symbol": "BTCUSDT",
        "side": Side.BUY,
        "entry_ts": HOUR * number,
        "exit_ts": 2 * HOUR * number,
        "entry_price": Decimal(100),
        "exit_price": Decimal(101),
        "qty": Decimal(number),
        "pnl": Decimal(pnl),
        "fees": Decimal("0.1") * number,
        "funding": Decimal("-0.01"),
        "slippage": Decimal(0),
        "reason": "bullish signal",
        "exit_reason": "stop",
    } | fields
    trade = RoundTrip(**values)
    return TradeEntry(number, 10 * number, trade, trade.return_on_notional, trade.holding_time, headlines)


def titled(*titles: str) -> tuple[CausingHeadline, ...]:
    return tuple(CausingHeadline(title, title, "https://wire.example/1") for title in titles)


TRIPS = [
    trip(1, "5", headlines=titled("Fund buys bitcoin", "Older")),
    trip(2, "-3", symbol="ETHUSDT", side=Side.SELL, exit_reason="signal faded"),
    trip(3, "0", symbol="ETHUSDT"),
    trip(4, "1.5", exit_ts=None, exit_price=None, exit_reason=""),
    trip(5, "-7", side=Side.SELL, reason="bearish signal"),
]


def numbers(**query: Any) -> list[int]:
    return [entry.seq for entry in selected(TRIPS, TradeFilter(**query))]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, [5, 4, 3, 2, 1]),
        ({"order": "ascending"}, [1, 2, 3, 4, 5]),
        ({"sort": "exit-time"}, [5, 3, 2, 1, 4]),  # open ones last, in either order
        ({"sort": "exit-time", "order": "ascending"}, [1, 2, 3, 5, 4]),
        ({"sort": "pnl"}, [1, 4, 3, 2, 5]),
        ({"sort": "return", "order": "ascending"}, [2, 5, 3, 4, 1]),
        ({"sort": "duration"}, [5, 3, 2, 1, 4]),
        ({"sort": "headline"}, [1, 2, 3, 4, 5]),
        ({"sort": "exit-reason", "order": "ascending"}, [2, 1, 3, 5, 4]),
        ({"symbol": "ETHUSDT"}, [3, 2]),
        ({"side": "short"}, [5, 2]),
        ({"result": "won"}, [1]),
        ({"result": "lost"}, [5, 2]),
        ({"result": "even"}, [3]),
        ({"result": "open"}, [4]),
        ({"search": "BITCOIN fund"}, [1]),
        ({"search": "signal faded"}, [2]),
        ({"search": "older"}, [1]),
        ({"search": "bearish nothing"}, []),
        ({"side": "long", "result": "won", "symbol": "BTCUSDT"}, [1]),
    ],
)
def test_the_table_is_sorted_and_filtered(query: dict[str, Any], expected: list[int]) -> None:
    assert numbers(**query) == expected


@pytest.mark.parametrize("column", get_args(TradeColumn))
def test_every_column_sorts_in_both_orders(column: TradeColumn) -> None:
    upwards, downwards = numbers(sort=column, order="ascending"), numbers(sort=column)
    assert sorted(upwards) == sorted(downwards) == [1, 2, 3, 4, 5]
    assert upwards != downwards or column == "headline"


def test_sums_are_of_all_that_match_and_are_closed() -> None:
    table = trade_table(TRIPS, TradeTableQuery(limit=2, offset=1))
    assert [entry.seq for entry in table.items] == [4, 3]
    assert (table.total, table.matching, table.closed, table.won) == (5, 5, 4, 1)
    assert (table.pnl, table.fees, table.funding) == (Decimal(-5), Decimal("1.1"), Decimal("-0.04"))
    assert trade_table(TRIPS, TradeTableQuery(offset=99)).items == ()


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("x")'])
def test_csv_has_no_formula_and_loses_no_text(text: str) -> None:
    hostile = trip(1, "-5", reason=text, headlines=titled(text))
    (row,) = csv.DictReader(StringIO(trades_as_csv([hostile]), newline=""))
    assert tuple(row) == CSV_COLUMNS
    assert row["reason"] == row["headline"] == f"'{text}"
    assert (row["pnl"], row["funding"]) == ("-5", "-0.01")  # a number stays a number


def test_csv_states_times_durations_and_decimals_in_full() -> None:
    rows = list(csv.DictReader(StringIO(trades_as_csv([TRIPS[1], TRIPS[3]]))))
    assert rows[0]["entry_time"] == "1970-01-01T02:00:00Z"
    assert rows[0] | {"side": "short", "duration_s": "7200.0", "fees": "0.2", "qty": "2"} == rows[0]
    assert (rows[1]["exit_time"], rows[1]["exit_price"], rows[1]["duration_s"]) == ("", "", "")


# -- recorded runs ---------------------------------------------------------------------------------------


def copied(database: Database, source: Run, decisions: list[tuple[int, Decision]]) -> Recorder:
    """Return a recorder of a run with the first half of the decisions."""
    recorder = Recorder(
        database, Run("20260101-000000-aaaaaaaa", RunKind.LIVE, 1, source.strategy), batch=None
    )
    for event, decision in decisions:
        recorder.event_seq = event
        recorder.decision(decision)
    recorder.flush()
    return recorder


def test_a_fold_goes_on_where_it_ended(backtested: Callable[..., Outcome]) -> None:
    with closing(open_database(URL)) as database:
        source = find_run(database)
        decisions = [(one.event_seq, one.decision) for one in read_decisions(database, source.id)]
        whole = RoundTrips(database).of(source)
        recorder = copied(database, source, decisions[: len(decisions) // 2])
        growing = RoundTrips(database)
        half = growing.of(recorder.run)
        assert 0 < len(half) < len(whole)
        assert growing.of(recorder.run) is half  # nothing was recorded since
        for event, decision in decisions[len(decisions) // 2 :]:
            recorder.event_seq = event
            recorder.decision(decision)
            recorder.flush()
            growing.of(recorder.run)
        found = growing.of(recorder.run)
        assert [entry.trade for entry in found] == [entry.trade for entry in whole]
        assert [entry.seq for entry in found] == [entry.seq for entry in whole]


async def test_headlines_are_those_of_the_report(backtested: Callable[..., Outcome]) -> None:
    from agent.analysis.report.report_loader import load_report_data

    with closing(open_database(URL)) as database:
        data = load_report_data(database)
        entries = RoundTrips(database).of(data.run)
    caused = [entry for entry in entries if entry.headlines]
    assert len(caused) > 3
    for entry in caused:
        titles = {one.title for one in data.headlines[entry.trade.entry_order]}
        assert {one.title for one in entry.headlines} <= titles


async def test_the_page_of_a_run_reads_the_table_and_csv_with_the_same_filters(
    backtested: Callable[..., Outcome],
) -> None:
    with closing(open_database(URL)) as database:
        async with api_served(database) as served, served.session("read") as http:
            query = {"side": "long", "sort": "pnl", "order": "ascending"}
            path = f"{BASE}/runs/latest"
            async with http.get(f"{path}/trade-table", params=query | {"limit": 1_000}) as response:
                table = await response.json()
                assert response.headers["ETag"]
            async with http.get(f"{path}/trades.csv", params=query) as response:
                assert response.content_type == "text/csv"
                assert response.headers["Content-Disposition"].startswith('attachment; filename="2')
                rows = list(csv.DictReader(StringIO(await response.text())))
            async with http.get(f"{path}/trade-table", params={"symbol": "DOGEUSDT"}) as response:
                assert response.status == 400
    profits = [Decimal(entry["trade"]["pnl"]) for entry in table["items"]]
    assert len(profits) > 1
    assert profits == sorted(profits) == [Decimal(row["pnl"]) for row in rows]
    assert Decimal(table["pnl"]) == sum(profits)
