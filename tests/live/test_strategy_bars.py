"""A live strategy's history: filled before trading, continued by restarts, and the same when verified."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from agent.core.bar_history import BarSeries
from agent.core.events import MINUTE_MS, Command, Kline, Order, RiskEvent
from agent.core.risk import SHORT_HISTORY
from agent.core.strategy import Bar, Market, Strategy
from agent.live.app import make_agent
from agent.live.daemon import Daemon
from agent.live.market_data import warm_up_plan
from agent.replay.verify import verify
from agent.sandbox import Sandbox
from agent.store.database import Database
from agent.store.journal import read_journal
from agent.store.queries import find_run, read_rows
from tests.support.live import handled, living, load_words, options, settings, until

QUARTER = 15 * MINUTE_MS


class Follows(Strategy):
    """Trades in the direction of the last bars of 15 minutes."""

    intervals: Sequence[str] = ("15m",)
    warm_up = {"15m": 40}

    def on_bar(self, bar: Bar, market: Market) -> None:
        closes = market.bars(bar.symbol, "15m", 4).close
        self.plot("mean", closes.mean())
        self.target(bar.symbol, weight=0.2 if bar.close > closes.mean() else -0.2)


class WantsMore(Follows):
    """Needs more history than the venue has."""

    warm_up = {"15m": 120}


def quarters(sandbox: Sandbox, symbol: str, starts: Sequence[float]) -> list[float]:
    """Return the closes of the sandbox's bars of 15 minutes with these starts."""
    series = sandbox.market.quotes[symbol].series
    return [series.bar(series.index_at(int(start) + QUARTER - MINUTE_MS)).close for start in starts]


def series_of(daemon: Daemon) -> BarSeries:
    """Return the history of 15 minutes; reading it, unlike `market.bars`, changes no state."""
    history = daemon.pipeline.engine.states["BTCUSDT"].history
    assert history is not None
    return history.series["15m"]


@pytest.mark.slow
@pytest.mark.parametrize("directly", [False, True])
async def test_the_history_is_there_before_trading_starts(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, directly: bool
) -> None:
    if directly:
        monkeypatch.setattr(warm_up_plan, "MOST_BARS", 100)
    name = "tests.live.test_strategy_bars:Follows"
    async with Sandbox(options()) as sandbox:
        config = settings(sandbox.rest_url, tmp_path, strategy={"name": name, "params": {}})
        daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
        async with living(daemon):
            await until(lambda: not daemon.status().warming_up and handled(daemon) > 40)
            bars = series_of(daemon).last(40)
            assert (bars.start[1:] - bars.start[:-1]).tolist() == [QUARTER] * 39
            assert bars.close.tolist() == quarters(sandbox, "BTCUSDT", bars.start.tolist())
            assert bars.missing.tolist() == [0] * 40
        second = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
        async with living(second):
            await until(lambda: not second.status().warming_up and handled(second) > 40)
            assert series_of(second).count > 40
    run = find_run(database)
    events = [event for _, event in read_journal(database, run.id)]
    read_directly = {event.interval for event in events if isinstance(event, Kline)} == {60_000, QUARTER}
    assert read_directly is directly
    done = [event for event in events if isinstance(event, Command) and event.action == "warm-up-done"]
    assert [command.args for command in done] == [{"15m": "40"}] * 2
    first = next(event for event in events if event is done[0])
    orders = list(read_rows(database, run.id, Order))
    assert orders
    assert all(order.ts >= first.available_at for order in orders)
    assert not [one for one in read_rows(database, run.id, RiskEvent) if one.rule == SHORT_HISTORY]
    assert verify(database, run, trust_strategy=True).identical


async def test_too_little_history_is_stated(database: Database, tmp_path: Path) -> None:
    name = "tests.live.test_strategy_bars:WantsMore"
    async with Sandbox(options()) as sandbox:
        config = settings(sandbox.rest_url, tmp_path, strategy={"name": name, "params": {}})
        daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
        async with living(daemon):
            await until(lambda: not daemon.status().warming_up and handled(daemon) > 5)
    run = find_run(database)
    stated = {
        one.symbol: one.detail for one in read_rows(database, run.id, RiskEvent) if one.rule == SHORT_HISTORY
    }
    assert set(stated) == {"BTCUSDT", "ETHUSDT"}
    assert stated["BTCUSDT"].endswith("of 120 bars of 15m are at hand for the warm-up")
    assert verify(database, run, trust_strategy=True).identical
