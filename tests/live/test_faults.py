"""Faults between agent and exchange: the agent keeps running, misses no available data and reports them.

For every fault: each bar is journalled once and in order or lies in a gap, closed bars equal the exchange's,
each headline is journalled once, and the run verifies.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from agent.core.events import Command, Event, Gap, Kline, News, Sentiment
from agent.live.app import make_agent
from agent.sandbox import Sandbox
from agent.sandbox.faults import parse_fault
from agent.store.database import Database
from tests.support.live import (
    SENTIMENT,
    assert_sound,
    handled,
    journal,
    living,
    load_words,
    of,
    options,
    settings,
    until,
)

Sources = dict[str, dict[str, Any]]
BARS = 24  # closed bars to wait for


class Row(NamedTuple):
    """A fault, and a predicate on the sources' health that shows that it occurred and was handled."""

    fault: str
    sign: Callable[[Sources], bool]
    gaps: bool = False  # bars are missing that no source has
    live: bool = False  # begins once the warm-up is over; then history is read once more


def bybit(field: str, least: int = 1) -> Callable[[Sources], bool]:
    return lambda sources: sources["bybit"][field] >= least


def rss(field: str, least: int = 1) -> Callable[[Sources], bool]:
    return lambda sources: sources["rss"][field] >= least


def nothing(_: Sources) -> bool:
    return True


STREAM, HISTORY, FEED = "on=ws/public/kline*", "on=rest/v5/market/kline", "on=feeds/all.rss"
ROWS = [
    Row(f"drop,{STREAM},p=0.3,after=20", bybit("backfilled", 121)),
    Row(f"delay,{STREAM},ms=40,p=0.2,after=10", nothing),
    Row(f"duplicate,{STREAM},p=0.5", bybit("duplicates")),
    Row(f"reorder,{STREAM},p=0.3,after=10", nothing),
    Row(f"corrupt,{STREAM},p=0.2,after=10", bybit("corrupt")),
    Row(f"truncate,{STREAM},p=0.2,after=10", bybit("corrupt")),
    Row(f"close,{STREAM},count=3,p=0.1,after=20", bybit("reconnects")),
    Row("stall,on=ws/public/*,ms=700,count=1,after=40", bybit("reconnects")),
    Row("drop,on=ws/public/ack,count=1", nothing),
    Row("status,on=ws/public/connect,code=403,count=1", bybit("errors")),
    Row("status,on=ws/public/connect,code=429,count=1", bybit("errors")),
    Row("status,on=ws/public/connect,code=500,count=2", bybit("errors", 2)),
    Row("close,on=ws/public/connect,count=2", bybit("errors", 2)),
    Row(f"status,{HISTORY},code=403,count=1", bybit("errors")),
    Row(f"status,{HISTORY},code=429,count=1", bybit("errors")),
    Row(f"status,{HISTORY},code=503,count=3", bybit("errors", 3)),
    Row(f"timeout,{HISTORY},ms=2500,count=1", bybit("errors")),
    Row(f"close,{HISTORY},count=2", nothing),  # aiohttp retries by itself
    Row(f"retcode,{HISTORY},code=10006,count=2", bybit("errors", 2)),
    Row(f"retcode,{HISTORY},code=10016,count=2", bybit("errors", 2)),
    Row(f"retcode,{HISTORY},code=10000,count=2", bybit("errors", 2)),
    Row(f"lost,{HISTORY},count=2", bybit("errors", 2)),
    Row(f"corrupt,{HISTORY},count=2", bybit("errors", 2)),
    Row(f"truncate,{HISTORY},count=2", bybit("errors", 2)),
    Row("gap,on=market/BTCUSDT,count=2", nothing, live=True),
    Row("gap,on=market/BTCUSDT,count=2,after=2,rest=true", bybit("gaps"), gaps=True),
    Row("skew,ms=3000", nothing),
    Row("skew,ms=-3000", nothing),
    Row(f"status,{FEED},code=500,count=3", rss("errors", 3)),
    Row(f"status,{FEED},code=429,count=2", rss("errors", 2)),
    Row(f"close,{FEED},count=3", nothing),
    Row(f"timeout,{FEED},ms=200,count=1", nothing),
    Row(f"corrupt,{FEED},count=2", nothing),
    Row(f"truncate,{FEED},count=2", nothing),
]


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=[row.fault for row in ROWS])
async def test_the_agent_survives_the_fault(database: Database, tmp_path: Path, row: Row) -> None:
    fault = parse_fault(row.fault)
    async with Sandbox(options(news=True, faults=() if row.live else (fault,))) as sandbox:
        config = settings(sandbox.rest_url, tmp_path, strategy=SENTIMENT)
        daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)

        def sources() -> Sources:
            return {source["name"]: source for source in daemon.status().producers}

        def struck() -> bool:
            return row.fault.startswith("skew") or sandbox.venue.faults.state()[0]["hits"] > 0

        async with living(daemon):
            if row.live:
                await until(lambda: handled(daemon) > 0)
                known = sources()["bybit"]["backfilled"]
                sandbox.venue.faults.add([fault])
                await until(lambda: sources()["bybit"]["backfilled"] > known)
            await until(lambda: handled(daemon) >= BARS and struck() and row.sign(sources()))
            await until(lambda: of(Sentiment, journal(database)))
            failures = [source["failures"] for source in daemon.status().producers]
    assert failures == [0, 0, 0]  # the sources recover without the supervisor
    events = assert_sound(database, "latest", config)
    assert [event.action for event in of(Command, events)] == [
        "life",
        "warm-up",
        "model-in-use",
        "warm-up-done",
        "stop",
    ]
    assert bool(of(Gap, events)) == row.gaps
    assert_true_to(sandbox, events)
    assert len({news.id for news in of(News, events)}) == len(of(News, events))


def assert_true_to(sandbox: Sandbox, events: list[Event]) -> None:
    for bar in of(Kline, events):
        if bar.confirm:
            series = sandbox.market.quotes[bar.symbol].series
            truth = series.bar(series.index_at(bar.start))
            assert (bar.open, bar.high, bar.low, bar.close) == (
                truth.open,
                truth.high,
                truth.low,
                truth.close,
            )
