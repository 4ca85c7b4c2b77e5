"""The strategy of one sleeve is replaced while the agent runs, and a sleeve that is added has its history."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agent.cli.main import build
from agent.core.errors import ConfigError, TapewireError, UsageError, VenueError
from agent.core.events import (
    Command,
    Kline,
    Order,
    PastBars,
    RiskEvent,
    RiskState,
    StrategyChange,
)
from agent.core.risk import SHORT_HISTORY
from agent.core.strategy import Bar, Market, Strategy
from agent.dashboard.dashboard_state import DashboardState
from agent.dashboard.page_rows import run_header
from agent.live.app import make_agent
from agent.live.daemon import Daemon
from agent.live.market_data import backfill
from agent.replay.explanation import explain_orders
from agent.replay.order_history import order_history
from agent.replay.recorded_inputs import load_inputs
from agent.replay.verify import verify
from agent.replay.what_if import Change, fold_on
from agent.sandbox import Sandbox
from agent.store.database import Database, open_database
from agent.store.queries import find_run, read_decisions, read_rows
from agent.store.runs import Run
from tests.live.test_sleeves import engine_of, flip, live_config
from tests.live.test_strategy_bars import QUARTER, quarters
from tests.live.test_strategy_reload import FIRST, SECOND
from tests.support.live import handled, journal, living, load_words, of, options, until

HERE = "tests.live.test_sleeve_strategies"


class Quarters(Strategy):
    """Trades in the direction of the last bars of 15 minutes, and counts the bars that it has seen."""

    intervals = ("15m",)
    warm_up = {"15m": 40}

    def __init__(self, params: Any = None) -> None:
        super().__init__(params)
        self.minutes = 0

    def on_kline(self, kline: Kline, market: Market) -> None:
        self.minutes += kline.symbol == "BTCUSDT"

    def on_bar(self, bar: Bar, market: Market) -> None:
        closes = market.bars(bar.symbol, "15m", 4).close
        self.target(bar.symbol, weight=0.2 if bar.close > closes.mean() else -0.2, reason="quarters")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    with closing(open_database(f"sqlite:///{tmp_path / 'store.db'}")) as database:
        yield database


@pytest.fixture
async def sandbox() -> Any:
    async with Sandbox(options()) as sandbox:
        yield sandbox


def reasons(database: Database, sleeve: str) -> list[str]:
    """Return the reasons of a sleeve's orders, each when it first occurs."""
    rows = (row.decision for row in read_decisions(database, find_run(database).id))
    found = [one.reason for one in rows if isinstance(one, Order) and one.sleeve == sleeve and one.reason]
    return list(dict.fromkeys(found))


def explained(database: Database, sleeve: str, reason: str, folder: Path) -> tuple[str, str, bool]:
    """Explain the first order of a sleeve with a reason: its sleeve, the callback, and whether its size is
    derived again.
    """
    run = find_run(database)
    history = order_history(database, run)
    orders = history.orders.values()
    wanted = next(one for one in orders if (one.order.sleeve, one.order.reason) == (sleeve, reason))
    (found,) = explain_orders(database, run, history, [wanted], folder=folder)
    assert found.target is not None
    assert found.size is not None
    return found.sleeve, found.target.callback, found.size.confirmed


def ready(daemon: Daemon, bars: int) -> bool:
    return handled(daemon) >= bars and not daemon.status().warming_up


@pytest.mark.slow
async def test_the_strategy_of_one_sleeve_is_replaced_and_the_run_is_decided_again_alike(
    sandbox: Sandbox, store: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("agent.toml").write_text(
        f'[live]\nfolder = "{tmp_path}"\n[store]\nurl = "sqlite:///{tmp_path / "store.db"}"\n'
    )
    mine = tmp_path / "mine.py"
    mine.write_text(FIRST)

    async def tapewire(*arguments: str) -> str:
        given = [*arguments, "-c", "agent.toml"]
        result = await asyncio.to_thread(CliRunner().invoke, build(), given, env={"COLUMNS": "400"})
        return str(result.exception) if isinstance(result.exception, TapewireError) else result.stdout

    own = {"name": "own", "strategy": {"name": str(mine), "params": {}}, "share": 0.4}
    config = live_config(sandbox, tmp_path, flip("one", 0.5), own)
    daemon = make_agent(config, store, load_model=load_words, clock=sandbox.clock)
    pages: list[DashboardState] = []

    def observe(run: Run) -> DashboardState:
        pages.append(DashboardState(run_header(run, config), config))
        return pages[-1]

    daemon.observe_run(observe)
    async with living(daemon):
        await until(lambda: ready(daemon, 10))
        other = engine_of(daemon).sleeves["one"].engine
        before = other.strategy
        assert "name the sleeve whose strategy is changed" in await tapewire("strategy", "use", "mine.py")
        text = await tapewire("strategy", "set", "weight=0.3", "--sleeve", "ovn")
        assert text.startswith("the agent has no sleeve 'ovn'; the old strategy stays (did you mean own?")
        mine.write_text("def on_kline(:\n")
        text = await tapewire("strategy", "use", "mine.py", "--sleeve", "own")
        assert "SyntaxError" in text
        assert "the old strategy stays" in text
        assert not engine_of(daemon).sleeves["own"].engine.version
        mine.write_text(SECOND)  # the file with which the sleeve began
        text = await tapewire("strategy", "use", "mine.py", "--sleeve", "own", "--set", "weight=0.3")
        version = engine_of(daemon).sleeves["own"].engine.version
        assert text == f"mine.py:Mine {version['sha256'][:12]} decides in sleeve own with weight=0.3\n"
        assert version["sleeve"] == "own"
        await until(lambda: "second" in reasons(store, "own"))
        reply = json.loads(await tapewire(*("strategy", "set", "weight=0.1", "--sleeve", "own", "--json")))
        assert (reply["sleeve"], reply["state"], reply["params"]) == ("own", "ACTIVE", {"weight": 0.1})
        assert [one.strategy for one in daemon.status().sleeves][1] == "mine.py:Mine"
        assert (other.strategy is before, other.version) == (True, {})
    assert [row.strategy for row in pages[0].changes()["sleeves"]][1] == "mine.py:Mine"
    mine.unlink()
    daemon = make_agent(config, store, load_model=load_words, clock=sandbox.clock)
    async with living(daemon):  # from the snapshot, with the stored sources
        assert daemon.pipeline.snapshots.status.resumed_from
        engine = engine_of(daemon).sleeves["own"].engine
        assert json.loads(engine.version["params"]) == {"weight": 0.1}
        await until(lambda: ready(daemon, 1))
        await daemon.command("halt", {"sleeve": "own"}, by="test")
        third = tmp_path / "third.py"
        third.write_text(FIRST.replace('"first"', '"third"'))
        text = await tapewire("strategy", "use", "third.py", "--sleeve", "own", "--flatten")
        assert "the sleeve is HALTED: it opens nothing until tapewire sleeve resume own" in text
        await until(lambda: not engine.portfolio.open)
        assert engine_of(daemon).sleeves["one"].engine.risk.state is RiskState.ACTIVE
        await daemon.command("resume", {"sleeve": "own"}, by="test")
        await until(lambda: "third" in reasons(store, "own"))
    run = find_run(store)
    changes = list(read_rows(store, run.id, StrategyChange))
    assert [(one.strategy, one.flatten, one.sleeve) for one in changes] == [
        ("mine.py", False, "own"),
        ("mine.py", False, "own"),
        ("third.py", True, "own"),
    ]
    proof = verify(store, run, folder=tmp_path)
    assert proof.identical
    assert proof.snapshots
    refused = [one.args for one in of(Command, journal(store)) if one.action == "strategy-refused"]
    assert [one.get("sleeve") for one in refused] == [None, None, "own"]
    lines = (await tapewire("strategy", "list", "--run", run.id)).splitlines()
    assert [line.split("  ")[1] for line in lines if line.startswith("20")] == [
        *("one: tests.live.test_sleeves:Flip", f"own: {mine}"),
        *("own: mine.py:Mine", "own: mine.py:Mine", "own: third.py:Mine"),
    ]
    assert explained(store, "own", "third", tmp_path) == ("own", "on_kline", True)
    source = load_inputs(store, run, tmp_path)
    for begins in (1, len(source.events) // 2, len(source.events)):
        lives = fold_on(source, Change(), begins=begins)
        assert lives.difference is None
        assert lives.as_it_was.decisions[-1].digest.hex() == run.chain_head


async def test_bars_that_a_sleeve_s_next_strategy_needs_are_read_from_the_venue(
    sandbox: Sandbox, store: Database, tmp_path: Path
) -> None:
    one = flip("one", 0.5) | {"symbols": ["BTCUSDT"]}
    config = live_config(sandbox, tmp_path, one, flip("other", 0.4))
    daemon = make_agent(config, store, load_model=load_words, clock=sandbox.clock)
    async with living(daemon):
        await until(lambda: ready(daemon, 10))
        reply = await daemon.command(
            "use-strategy", {"strategy": f"{HERE}:Quarters", "sleeve": "one"}, by="test"
        )
        assert reply["short"] == []
        engine = engine_of(daemon).sleeves["one"].engine
        history = engine.states["BTCUSDT"].history
        assert history is not None
        bars = history.series["15m"].last(40)
        assert (bars.start[1:] - bars.start[:-1]).tolist() == [QUARTER] * 39
        assert bars.close.tolist() == quarters(sandbox, "BTCUSDT", bars.start.tolist())
        await until(lambda: "quarters" in reasons(store, "one"))
    past = of(PastBars, journal(store))
    assert {bars.symbol for bars in past} == {"BTCUSDT"}  # the sleeve trades nothing else
    assert not any("past bars" in name for name in engine_of(daemon).counts)
    assert verify(store, find_run(store), trust_strategy=True).identical


@pytest.mark.slow
async def test_a_sleeve_that_is_added_has_the_history_of_a_start(
    sandbox: Sandbox, store: Database, tmp_path: Path
) -> None:
    config = live_config(sandbox, tmp_path, flip("one", 0.5))
    daemon = make_agent(config, store, load_model=load_words, clock=sandbox.clock)
    arguments = {"strategy": f"{HERE}:Quarters", "share": "0.2"}
    async with living(daemon):
        await until(lambda: ready(daemon, 10))
        reply = await daemon.command("add-sleeve", {"sleeve": "late"} | arguments, by="test")
        assert reply["short"] == []
        engine = engine_of(daemon).sleeves["late"].engine
        strategy = engine.strategy
        assert isinstance(strategy, Quarters)
        seen = strategy.minutes
        assert seen >= 40 * 15  # they were passed to the strategy, bar by bar
        history = engine.states["BTCUSDT"].history
        assert history is not None
        bars = history.series["15m"].last(40)
        assert bars.close.tolist() == quarters(sandbox, "BTCUSDT", bars.start.tolist())
        assert bars.missing.tolist() == [0] * 40
        features = engine.market.features("BTCUSDT")
        assert all(value == value for value in features)
        await until(lambda: "quarters" in reasons(store, "late"))
    added = next(one for one in of(Command, journal(store)) if one.action == "add-sleeve")
    assert json.loads(added.args["needs"]) == {"15m": "40"}
    run = find_run(store)
    rows = [row.decision for row in read_decisions(store, run.id)]
    orders = [one for one in rows if isinstance(one, Order) and one.sleeve == "late"]
    assert min(one.ts for one in orders) >= added.available_at
    assert not [one for one in rows if isinstance(one, RiskEvent) and one.rule == SHORT_HISTORY]
    daemon = make_agent(config, store, load_model=load_words, clock=sandbox.clock)
    async with living(daemon):
        resumed = engine_of(daemon).sleeves["late"].engine.strategy
        assert isinstance(resumed, Quarters)
        assert resumed.minutes >= seen
        await until(lambda: ready(daemon, 5))
    proof = verify(store, find_run(store), trust_strategy=True)
    assert proof.identical
    assert proof.snapshots
    assert explained(store, "late", "quarters", tmp_path) == ("late", "on_bar", True)
    rows = [row.decision for row in read_decisions(store, run.id)]
    assert not [one for one in rows if isinstance(one, RiskEvent) and one.rule == SHORT_HISTORY]


async def test_without_an_answer_of_the_venue_a_sleeve_begins_with_the_run_s_own_bars_and_it_is_stated(
    sandbox: Sandbox, store: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = live_config(sandbox, tmp_path, flip("one", 0.5))
    daemon = make_agent(config, store, load_model=load_words, clock=sandbox.clock)
    async with living(daemon):
        await until(lambda: ready(daemon, 10))

        async def fail(*_: Any) -> Any:
            raise VenueError("the venue does not answer")

        monkeypatch.setattr(backfill.KlineHistory, "fetch", fail)
        arguments = {"sleeve": "late", "strategy": f"{HERE}:Quarters", "share": "0.2"}
        reply = await daemon.command("add-sleeve", arguments, by="test")
        assert {symbol for symbol, _ in reply["short"]} == {"BTCUSDT", "ETHUSDT"}
    rows = [row.decision for row in read_decisions(store, find_run(store).id)]
    stated = [one for one in rows if isinstance(one, RiskEvent) and one.rule == SHORT_HISTORY]
    assert {(one.symbol, one.sleeve) for one in stated} == {("BTCUSDT", "late"), ("ETHUSDT", "late")}
    assert stated[0].detail.endswith("of 40 bars of 15m are at hand for the warm-up")
    assert verify(store, find_run(store), trust_strategy=True).identical


async def test_an_added_sleeve_goes_on_with_its_source_after_its_file_has_changed(
    sandbox: Sandbox, store: Database, tmp_path: Path
) -> None:
    file = tmp_path / "added.py"
    file.write_text(FIRST)
    config = live_config(sandbox, tmp_path, flip("one", 0.5))
    daemon = make_agent(config, store, load_model=load_words, clock=sandbox.clock)
    async with living(daemon):
        await until(lambda: ready(daemon, 10))
        arguments = {"sleeve": "late", "strategy": str(file), "share": "0.2"}
        await daemon.command("add-sleeve", arguments, by="test")
        await until(lambda: "first" in reasons(store, "late"))
        with pytest.raises(ConfigError, match="unknown parameter wait"):
            await daemon.command("set-strategy", {"sleeve": "late", "params": '{"wait": "1"}'}, by="test")
        file.write_text(SECOND)
        await daemon.command("set-strategy", {"sleeve": "late", "params": '{"weight": "0.1"}'}, by="test")
        await daemon.command("remove-sleeve", {"sleeve": "late"}, by="test")
        with pytest.raises(UsageError, match=r"is being removed|no sleeve"):
            await daemon.command("set-strategy", {"sleeve": "late", "params": '{"weight": "1"}'}, by="test")
    daemon = make_agent(config, store, load_model=load_words, clock=sandbox.clock)
    async with living(daemon):
        await until(lambda: ready(daemon, 5))
    assert reasons(store, "late")[0] == "first"
    assert "second" not in reasons(store, "late")
    assert verify(store, find_run(store), folder=tmp_path, trust_strategy=False).identical is True
