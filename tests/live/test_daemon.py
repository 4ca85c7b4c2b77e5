"""The daemon against a sandbox exchange on loopback: it journals, decides and records, also over restarts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from agent.analysis.report.report_loader import load_report_data
from agent.core.errors import ConfigError, ModelError, SafetyError
from agent.core.events import Command, Fill, Funding, FundingPayment, Kline, News, Order, RiskState, Sentiment
from agent.live.app import make_agent
from agent.sandbox import Sandbox
from agent.store.database import Database
from agent.store.queries import find_run, list_runs, read_decisions
from agent.store.runs import RunStatus
from agent.system.clock import WallClock
from tests.support.live import (
    SENTIMENT,
    SYMBOLS,
    Words,
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


async def test_a_run_is_journalled_recorded_and_verified(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    config = settings(sandbox.rest_url, tmp_path)
    daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
    async with living(daemon, complete=True):
        await until(lambda: handled(daemon) >= 40)
    run = find_run(database)
    assert run.status is RunStatus.COMPLETE
    events = assert_sound(database, run.id, config)
    actions = [event.action for event in of(Command, events)]
    assert actions == ["life", "warm-up", "warm-up-done", "stop"]
    history = [
        e for e in events[: events.index(of(Command, events)[2])] if isinstance(e, Kline) and e.confirm
    ]
    for symbol in SYMBOLS:
        # 60, or without the last bar if it closed less than bybit.settle before the request
        assert len([bar for bar in history if bar.symbol == symbol]) >= 59
    orders = [item for item in read_decisions(database, run.id) if isinstance(item.decision, Order)]
    assert orders
    assert orders[0].event_seq > len(history)


async def test_journalled_bars_equal_the_source_file(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    daemon = make_agent(
        settings(sandbox.rest_url, tmp_path), database, load_model=load_words, clock=sandbox.clock
    )
    async with living(daemon):
        await until(lambda: handled(daemon) >= 30)
    for symbol in SYMBOLS:
        series = sandbox.market.quotes[symbol].series
        bars = [e for e in journal(database) if isinstance(e, Kline) and e.confirm and e.symbol == symbol]
        assert len(bars) > 70
        for bar in bars:
            truth = series.bar(series.index_at(bar.start))
            assert (bar.start, bar.open, bar.high, bar.low, bar.close) == (
                truth.start,
                truth.open,
                truth.high,
                truth.low,
                truth.close,
            )


def decided(database: Database, kind: type) -> list[Any]:
    return of(kind, [item.decision for item in read_decisions(database, find_run(database).id)])


async def test_headlines_are_scored_once_and_traded_on(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    config = settings(sandbox.rest_url, tmp_path, strategy=SENTIMENT)
    daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
    async with living(daemon):
        await until(lambda: daemon.pipeline.decisions > 12 and decided(database, Fill))
        await until(lambda: len(of(Sentiment, journal(database))) >= 8)
    events = assert_sound(database, "latest", config)
    news, sentiments = of(News, events), of(Sentiment, events)
    assert len({item.id for item in news}) == len(news)
    assert len({item.news_id for item in sentiments}) == len(sentiments)
    first = {item.id: item.available_at for item in news}
    assert all(item.available_at >= first[item.news_id] and item.latency_ms > 0 for item in sentiments)
    assert {item.model for item in sentiments} == {"starter"}


async def test_a_restart_continues_the_run(sandbox: Sandbox, database: Database, tmp_path: Path) -> None:
    config = settings(sandbox.rest_url, tmp_path, strategy=SENTIMENT)
    lives = []
    for _ in range(3):
        daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
        async with living(daemon):
            await until(lambda: handled(daemon) >= 20)  # noqa: B023
        lives.append(find_run(database))
        assert lives[-1].status is RunStatus.INTERRUPTED
        assert_sound(database, lives[-1].id, config)
    assert len(list_runs(database)) == 1
    assert [run.events for run in lives] == sorted({run.events for run in lives})
    events = journal(database)
    assert len({news.id for news in of(News, events)}) == len(of(News, events))
    assert {news.id for news in of(News, events[: lives[1].events])} <= {
        s.news_id for s in of(Sentiment, events)
    }


async def test_a_run_that_would_decide_differently_is_not_resumed(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    for params in ({"fast": 2, "slow": 5}, {"fast": 3, "slow": 5}):
        config = settings(sandbox.rest_url, tmp_path, strategy={"name": "sma_cross", "params": params})
        daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
        async with living(daemon):
            await until(lambda: handled(daemon) >= 4)  # noqa: B023
    assert [run.params["fast"] for run in list_runs(database)] == [3, 2]


async def test_a_new_run_begins_after_a_complete_one_or_on_request(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    config = settings(sandbox.rest_url, tmp_path)
    for complete, new in ((True, False), (False, False), (False, True)):
        daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock, new=new)
        async with living(daemon, complete=complete):
            await until(lambda: handled(daemon) >= 2)  # noqa: B023
    assert len({run.id for run in list_runs(database)}) == 3


async def test_a_second_agent_in_the_same_folder_is_refused(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    config = settings(sandbox.rest_url, tmp_path)
    first = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
    async with living(first):
        with pytest.raises(SafetyError, match=r"an agent is running already, process \d+"):
            await make_agent(config, database, load_model=load_words, clock=sandbox.clock).run(
                asyncio.Event()
            )
    assert len(list_runs(database)) == 1


@pytest.mark.slow
async def test_an_unreachable_exchange_delays_only_the_warm_up(database: Database, tmp_path: Path) -> None:
    async with Sandbox(options()) as gone:
        port = gone.port
    daemon = make_agent(settings(f"http://127.0.0.1:{port}", tmp_path), database, load_model=load_words)
    async with living(daemon):
        await until(lambda: daemon.status().producers[0]["errors"] >= 2)
        assert daemon.status().warming_up
        async with Sandbox(options(port=port)):
            await until(lambda: not daemon.status().warming_up)
    told = [event.action for event in of(Command, journal(database))]
    assert [action for action in told if action != "alarm"] == ["life", "warm-up", "warm-up-done", "stop"]


async def test_funding_is_paid_at_its_stamps(sandbox: Sandbox, database: Database, tmp_path: Path) -> None:
    config = settings(
        sandbox.rest_url,
        tmp_path,
        strategy={"name": "buy_and_hold", "params": {}},
        paper={"funding_interval": "10m", "funding_rate": "0.0001"},
    )
    daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
    async with living(daemon):
        await until(lambda: decided(database, FundingPayment) and len(of(Funding, journal(database))) >= 6)
    events = assert_sound(database, "latest", config)
    stamps = [event.ts for event in of(Funding, events)]
    assert all(ts % 600_000 == 0 for ts in stamps)
    assert stamps == sorted(stamps)
    assert len(set(stamps)) == len(stamps) / 2  # both symbols


async def test_a_live_runs_report_has_prices_and_a_point_per_bar(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    daemon = make_agent(
        settings(sandbox.rest_url, tmp_path), database, load_model=load_words, clock=sandbox.clock
    )
    async with living(daemon):
        await until(lambda: handled(daemon) >= 40)
    data = load_report_data(database)
    assert set(data.prices) == set(SYMBOLS)
    assert min(len(series.ts) for series in data.prices.values()) >= 15
    assert len(data.equity.ts) <= max(len(series.ts) for series in data.prices.values()) + 4
    assert all(ts % 60_000 == 0 for ts in data.equity.ts)


async def test_open_bars_are_sampled_if_configured(
    sandbox: Sandbox, database: Database, tmp_path: Path
) -> None:
    config = settings(
        sandbox.rest_url,
        tmp_path,
        live={"open_bars_every": "10m", "score_wait": "1ms", "folder": str(tmp_path)},
    )
    daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
    async with living(daemon):
        await until(lambda: handled(daemon) >= 30)
    bars = of(Kline, journal(database))
    open_bars = [bar for bar in bars if not bar.confirm]
    assert 0 < len(open_bars) < len(bars) / 2
    assert daemon.life.open_bars.left_out > len(open_bars)
    assert_sound(database, "latest", config)


@pytest.mark.parametrize(
    ("sections", "error"),
    [
        ({"market": {"category": "equity"}}, ConfigError),
        ({"strategy": SENTIMENT, "news": {"feeds": []}}, ConfigError),
        ({"strategy": SENTIMENT}, ModelError),
    ],
    ids=["equities are not live", "headlines without a feed", "a model that is no model"],
)
async def test_an_invalid_configuration_is_refused_at_the_start(
    database: Database, tmp_path: Path, sections: dict[str, object], error: type[Exception]
) -> None:
    def load(folder: str) -> Words:
        if error is ModelError:
            raise ModelError(f"{folder} is no model")
        return Words()

    daemon = make_agent(
        settings("http://127.0.0.1:9", tmp_path, **sections), database, load_model=load, clock=WallClock()
    )
    with pytest.raises(error):
        await daemon.run(asyncio.Event())
    assert list_runs(database) == []


async def test_an_error_of_the_strategy_halts_trading_and_the_agent_runs_on(
    sandbox: Sandbox, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [
        "from agent.core.strategy import Strategy",
        "class Failing(Strategy):",
        "    bars = 0",
        "    def on_kline(self, kline, market):",
        "        self.bars += 1",
        "        if market.risk_state == 'ACTIVE' and self.bars > 150:",
        "            1 / 0",
    ]
    (tmp_path / "failing_on_klines.py").write_text("\n".join(lines) + "\n")
    monkeypatch.chdir(tmp_path)
    config = settings(
        sandbox.rest_url, tmp_path, strategy={"name": "failing_on_klines:Failing", "params": {}}
    )

    daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
    async with living(daemon) as task:
        await until(lambda: daemon.pipeline.engine.risk.halted)
        seen = handled(daemon)
        await until(lambda: handled(daemon) >= seen + 20)  # the agent runs on, halted
        assert not task.done()
        status = daemon.status()
    assert (status.risk, status.risk_rule) == (RiskState.HALTED, "strategy")
    assert (
        f"{tmp_path / 'failing_on_klines.py'}, line 7: ZeroDivisionError: division by zero"
        in status.risk_detail
    )
    assert [e.action for e in of(Command, journal(database))].count("strategy-error") == 1
    assert_sound(database, "latest", config)

    # no crash loop: trading is still halted
    again = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
    async with living(again):
        await until(lambda: handled(again) >= 10)
        assert again.pipeline.engine.risk.rule == "strategy"
        await again.command("resume", by="a person")
        await until(lambda: [e.action for e in of(Command, journal(database))].count("strategy-error") == 2)
    assert_sound(database, "latest", config)
