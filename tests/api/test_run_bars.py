"""Bars folded to longer ones: as pandas folds them, until a moment, of files and of journals."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.api.problems import RequestProblem
from agent.api.route_table import BarsQuery
from agent.api.run_bars import RunBars, fold
from agent.core.events import Kline
from agent.store.database import Database, open_database
from agent.store.journal import read_journal
from agent.store.queries import find_run
from tests.cli.conftest import Outcome
from tests.dashboard.replays import record_venue_run
from tests.support.live import SAMPLES

MINUTE = 60_000
PRICES = st.lists(st.integers(1, 50), min_size=5, max_size=5)


@given(
    st.dictionaries(st.integers(0, 200), PRICES, max_size=40),
    st.sampled_from([1, 5, 15, 60]),
    st.integers(1, 50),
)
def test_folded_bars_are_those_of_pandas(drawn: dict[int, list[int]], factor: int, limit: int) -> None:
    starts = np.array(sorted(drawn), np.int64) * MINUTE
    values = np.array([drawn[key] for key in sorted(drawn)], float).reshape(-1, 5).T
    found = fold(starts, values, factor * MINUTE, limit)
    frame = pd.DataFrame(values.T, index=starts // (factor * MINUTE), columns=list("ohlcv"))
    expected = frame.groupby(level=0).agg({"o": "first", "h": "max", "l": "min", "c": "last", "v": "sum"})
    assert (
        found
        == [
            (period * factor * MINUTE, *row)
            for period, row in zip(expected.index, expected.values, strict=True)
        ][-limit:]
    )


@pytest.mark.parametrize(("interval", "factor"), [("5m", 5), ("1h", 60), (None, 1)])
def test_the_bars_of_a_backtest_come_from_its_file(
    backtested: Callable[..., Outcome], interval: Any, factor: int
) -> None:
    frame = pd.read_csv(SAMPLES / "ETHUSDT-1m.csv", parse_dates=["open_time"])
    opens = frame.open_time.dt.as_unit("ms").astype("int64")
    with closing(open_database("sqlite:///var/tapewire.db")) as database:
        run = find_run(database)
        bars = RunBars(database)
        query = BarsQuery("ETHUSDT", interval, limit=1_000)
        whole = bars.folded(run, query)
        until = whole.items[-3][0] + factor * MINUTE
        earlier = bars.folded(run, BarsQuery("ETHUSDT", interval, until, limit=1_000))
        with pytest.raises(RequestProblem, match="doesn't trade"):
            bars.folded(run, BarsQuery("DOGEUSDT"))
    assert earlier.items[-1] == whole.items[-3]
    start, opened, high, low, close, volume = whole.items[-2]
    own = frame[(opens >= start) & (opens < start + factor * MINUTE)]
    assert len(own) == factor
    assert (opened, close) == (own.open.iloc[0], own.close.iloc[-1])
    assert (high, low) == (own.high.max(), own.low.min())
    assert volume == pytest.approx(own.volume.sum())


def test_an_interval_that_is_no_multiple_is_refused(database: Database) -> None:
    run = record_venue_run(database)
    hourly = run.config | {"market": run.config["market"] | {"interval": "1h"}}
    from msgspec.structs import replace

    with pytest.raises(RequestProblem, match="bars of 1h can't be folded to 5m"):
        RunBars(database).folded(replace(run, config=hourly), BarsQuery(interval="5m"))


def test_the_bars_of_a_live_run_come_from_its_journal(database: Database) -> None:
    run = record_venue_run(database)
    journalled = [
        event
        for _, event in read_journal(database, run.id)
        if isinstance(event, Kline) and event.confirm and event.symbol == "BTCUSDT"
    ]
    bars = RunBars(database)
    found = bars.folded(run, BarsQuery(limit=1_000))
    assert [row[0] for row in found.items] == [bar.start for bar in journalled]
    assert [row[4] for row in found.items] == [bar.close for bar in journalled]
    assert bars.folded(run, BarsQuery(limit=1_000)) == found  # read once, and continued
    five = bars.folded(run, BarsQuery(interval="5m", limit=1_000))
    assert sum(row[5] for row in five.items) == pytest.approx(sum(bar.volume for bar in journalled))
