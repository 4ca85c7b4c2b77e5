"""Several strategies in one account in the running agent: restarts, commands, errors, the page's state."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agent.config import Config, parse
from agent.core.errors import SafetyError, UsageError
from agent.core.events import Command, Fill, Kline, RiskState
from agent.core.sleeves import SleevedEngine
from agent.core.strategy import Market, Strategy, StrategyParams
from agent.dashboard.dashboard_state import DashboardState
from agent.dashboard.page_rows import run_header
from agent.live.app import make_agent
from agent.live.daemon import Daemon
from agent.live.pipeline import Pipeline
from agent.live.session import open_run
from agent.live.sleeve_requests import checked_args
from agent.replay.verify import verify
from agent.sandbox import Sandbox
from agent.store.database import Database, open_database
from agent.store.queries import find_run, read_frame, read_rows
from agent.store.runs import Run
from agent.store.state_snapshots import list_snapshots
from tests.support.command_line import run_command
from tests.support.live import handled, journal, living, load_words, of, options, settings, until
from tests.support.sleeves import BTC, ETH, account, sleeve, sleeved_config
from tests.support.stories import Story

HERE = "tests.live.test_sleeves"


class FlipParams(StrategyParams):
    """`sign` of the first position; after `fails` bars the strategy raises an error (0: never)."""

    sign: int = 1
    fails: int = 0


class Flip(Strategy[FlipParams]):
    """Turns its position around on every third bar."""

    def __init__(self, params: FlipParams | None = None) -> None:
        super().__init__(params)
        self.bars = 0

    def on_kline(self, kline: Kline, market: Market) -> None:
        self.bars += 1
        if self.params.fails and self.bars > self.params.fails:
            raise RuntimeError("the third bar is unlucky")
        if self.bars % 3 == 0:
            side = self.params.sign if self.bars // 3 % 4 < 2 else -self.params.sign
            self.target(kline.symbol, weight=0.3 * side, stop=-0.05 * side)


def flip(name: str, share: float, **more: Any) -> dict[str, Any]:
    """Return the section of a sleeve that flips; `more` are its parameters."""
    return {"name": name, "strategy": {"name": f"{HERE}:Flip", "params": more}, "share": share}


def sleeved(config: Config, *sleeves: dict[str, Any]) -> Config:
    """Return the configuration with these sleeves, on paper."""
    raw = config.model_dump(mode="json")
    raw["execution"]["mode"] = "paper"
    return parse(raw | {"sleeves": list(sleeves)}, where="test")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    with closing(open_database(f"sqlite:///{tmp_path / 'sleeves.db'}")) as database:
        yield database


# -- the pipeline --------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_restart_continues_all_sleeves_from_the_snapshot(store: Database, tmp_path: Path) -> None:
    story = Story(4, tmp_path, minutes=120)
    config = sleeved(story.config, flip("one", 0.4), flip("other", 0.4, sign=-1))
    events, half = story.events, len(story.events) // 2
    run, resumes = open_run(config, store, new=True)
    assert not resumes
    with Pipeline(config, store, run, resume=False) as pipeline:
        for at in range(0, half, 7):
            await pipeline.feed([(event, 0.0) for event in events[at : min(at + 7, half)]])
        pipeline.end(complete=False)
    assert open_run(config, store) == (find_run(store), True)
    with Pipeline(config, store, find_run(store), resume=True) as pipeline:
        assert pipeline.snapshots.status.resumed_from == list_snapshots(store, run.id)[0].seq
        assert not pipeline.snapshots.status.problem
        for at in range(half, len(events), 7):
            await pipeline.feed([(event, 0.0) for event in events[at : at + 7]])
        engine = pipeline.engine
        assert isinstance(engine, SleevedEngine)
        pipeline.end(complete=True)
    proof = verify(store, find_run(store))
    assert proof.identical
    assert proof.snapshots == 1
    assert {fill.sleeve for fill in read_rows(store, run.id, Fill)} == {"one", "other"}
    samples = read_frame(store, run.id, "sleeve_equity")
    account = read_frame(store, run.id, "equity").set_index("ts").equity
    # every sample of the account is the sum of the sleeves' and of the idle fifth
    sums = samples.groupby("ts").equity.agg(["sum", "count"])
    both = sums[sums["count"] == 2]["sum"] + 0.2 * float(config.account.initial_capital)
    assert len(both) > 50
    assert account.loc[both.index].to_numpy() == pytest.approx(both.to_numpy(), abs=1e-6)


def test_a_run_with_other_sleeves_is_not_resumed(store: Database, tmp_path: Path) -> None:
    config = Story(4, tmp_path, minutes=3).config
    config = sleeved(config, flip("one", 0.4))
    run, _ = open_run(config, store, new=True)
    with Pipeline(config, store, run, resume=False) as pipeline:
        pipeline.end(complete=False)
    assert open_run(config, store)[1]
    for changed in (
        sleeved(config, flip("one", 0.5)),
        sleeved(config, flip("one", 0.4), flip("two", 0.1)),
        config.model_copy(update={"sleeves": ()}),
    ):
        assert not open_run(changed, store)[1]


# -- the agent -----------------------------------------------------------------------------------------------


def live_config(sandbox: Sandbox, folder: Path, *sleeves: dict[str, Any]) -> Config:
    limits = {"max_daily_loss": 1.0, "max_drawdown": 1.0}
    return sleeved(settings(sandbox.rest_url, folder, risk=limits), *sleeves)


def engine_of(daemon: Daemon) -> SleevedEngine:
    engine = daemon.pipeline.engine
    assert isinstance(engine, SleevedEngine)
    return engine


@pytest.fixture
async def sandbox() -> Any:
    async with Sandbox(options()) as sandbox:
        yield sandbox


@pytest.mark.slow
async def test_the_agent_trades_sleeves_and_its_page_shows_them_also_after_a_restart(
    sandbox: Sandbox, store: Database, tmp_path: Path
) -> None:
    config = live_config(sandbox, tmp_path, flip("one", 0.5), flip("other", 0.4, sign=-1))
    for attempt in range(2):
        daemon = make_agent(config, store, load_model=load_words, clock=sandbox.clock)
        states: list[DashboardState] = []

        def observe(run: Run, states: list[DashboardState] = states) -> DashboardState:
            states.append(DashboardState(run_header(run, config), config))
            return states[0]

        daemon.observe_run(observe)
        async with living(daemon):
            await until(lambda: handled(daemon) > 40)  # noqa: B023
            status = daemon.status()
            assert [one.name for one in status.sleeves] == ["one", "other"]
            assert status.idle is not None
            await daemon.command("pause", by="test")
        engine, rows = engine_of(daemon), states[0].changes()["sleeves"]
        for row in rows:
            ledger = engine.sleeves[row.name].engine.portfolio
            assert row.equity == pytest.approx(ledger.equity(), abs=1e-9), attempt
            assert row.positions == {one.symbol: one.qty for one in ledger.open}
            assert (row.capital, row.state) == (ledger.initial, "ACTIVE")
        account = states[0].account()
        assert account.equity == pytest.approx(engine.portfolio.equity(), abs=1e-9)
        assert (account.fees, account.realised) == (engine.portfolio.fees, engine.portfolio.realised)
        assert states[0].copy().changes()["sleeves"] == rows
    assert engine.crosses.totals.count > 0
    assert verify(store, find_run(store)).identical


async def test_sleeves_are_paused_resumed_added_and_removed_by_commands(
    sandbox: Sandbox, store: Database, tmp_path: Path
) -> None:
    later = flip("later", 0.2) | {"enabled": False}
    config = live_config(sandbox, tmp_path, flip("one", 0.5), later)
    path = tmp_path / "config.toml"
    path.write_text(f'[live]\nfolder = "{tmp_path}"\n')
    daemon = make_agent(config, store, load_model=load_words, clock=sandbox.clock)

    async def sleeve(*verb: str) -> Any:
        import asyncio

        arguments = ["sleeve", *verb, "--config", str(path)]
        result = await asyncio.to_thread(run_command, [*arguments, "--json"])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return json.loads(result.output)

    async with living(daemon):
        await until(lambda: handled(daemon) > 10 and not daemon.status().warming_up)
        engine = engine_of(daemon)
        assert [one["name"] for one in (await sleeve("list"))["sleeves"]] == ["one"]
        assert (await sleeve("pause", "one"))["state"] == "REDUCING"
        assert engine.risk.state is RiskState.ACTIVE
        assert (await sleeve("resume", "one"))["state"] == "ACTIVE"
        with pytest.raises(UsageError, match=r"no sleeve 'noe' \(did you mean one"):
            await sleeve("pause", "noe")
        assert (await sleeve("add", "later"))["state"] == "ACTIVE"
        arguments = ("--strategy", "sma_cross", "--share", "0.3", "--set", "fast=2", "--set", "slow=4")
        assert (await sleeve("add", "third", *arguments, "--limit", "max_drawdown=0.5"))["sleeve"] == "third"
        assert engine.sleeves["third"].engine.strategy.params.slow == 4
        with pytest.raises(UsageError, match=r"a share of 0\.1 is 1,000\.00 USDT, and 0\.00 are idle"):
            await sleeve("add", "fourth", "--strategy", "sma_cross", "--share", "0.1")
        with pytest.raises(UsageError, match="already"):
            await sleeve("add", "third", *arguments)
        seen = handled(daemon)
        await until(lambda: handled(daemon) > seen + 20)
        assert (await sleeve("remove", "later"))["state"] in ("leaving", "removed")
        await until(lambda: "later" not in engine.sleeves)
        with pytest.raises(UsageError, match="was removed in this run"):
            await sleeve("add", "later")
    assert engine.idle == engine.departed["later"].equity
    daemon = make_agent(config, store, load_model=load_words, clock=sandbox.clock)
    async with living(daemon):  # the sleeves of the journal are back after a restart
        assert list(engine_of(daemon).sleeves) == ["one", "third"]
        assert list(engine_of(daemon).departed) == ["later"]
        await daemon.command("kill", {"flatten": "true"}, by="test")
        await until(lambda: not engine_of(daemon).portfolio.open)
        with pytest.raises(SafetyError, match="HALTED by kill"):
            await daemon.command("resume", {"sleeve": "one"}, by="test")
    proof = verify(store, find_run(store))
    assert proof.identical
    assert proof.snapshots > 0
    added = [one for one in of(Command, journal(store)) if one.action == "add-sleeve"]
    assert [json.loads(one.args["definition"])["name"] for one in added] == ["later", "third"]


def test_a_sleeve_can_only_close_what_it_trades() -> None:
    config = sleeved_config(
        sleeve("both", 0.5), sleeve("btc", 0.5, symbols=[BTC]), market={"symbols": [BTC, ETH]}
    )
    engine, _ = account(config, {"both": {}, "btc": {}})
    wanted = {"sleeve": "both", "symbol": ETH}
    assert checked_args(engine, config, "flatten", wanted, reads_news=False) == wanted
    wanted["sleeve"] = "btc"
    with pytest.raises(UsageError, match=f"sleeve btc doesn't trade {ETH}"):
        checked_args(engine, config, "flatten", wanted, reads_news=False)


async def test_an_error_of_a_strategy_halts_its_sleeve_and_is_journalled(
    sandbox: Sandbox, store: Database, tmp_path: Path
) -> None:
    config = live_config(sandbox, tmp_path, flip("one", 0.5), flip("unlucky", 0.4, fails=200))
    daemon = make_agent(config, store, load_model=load_words, clock=sandbox.clock)
    async with living(daemon):
        await until(lambda: daemon.status().sleeves[1].risk is RiskState.HALTED)
        ledger = engine_of(daemon).sleeves["one"].engine.portfolio
        booked = ledger.version
        await until(lambda: ledger.version > booked + 3)
        assert daemon.status().risk is RiskState.ACTIVE
        assert daemon.status().sleeves[0].risk is RiskState.ACTIVE
        await daemon.command("resume", {"sleeve": "unlucky"}, by="test")
    errors = [one.args for one in of(Command, journal(store)) if one.action == "strategy-error"]
    assert errors[0]["sleeve"] == "unlucky"
    assert "RuntimeError: the third bar is unlucky" in errors[0]["detail"]
    assert verify(store, find_run(store)).identical


async def test_commands_for_a_sleeve_need_sleeves(sandbox: Sandbox, store: Database, tmp_path: Path) -> None:
    daemon = make_agent(
        settings(sandbox.rest_url, tmp_path), store, load_model=load_words, clock=sandbox.clock
    )
    async with living(daemon):
        for action in ("pause", "add-sleeve", "remove-sleeve"):
            with pytest.raises(UsageError, match="this agent has one strategy, and no sleeves"):
                await daemon.command(action, {"sleeve": "one"}, by="test")
