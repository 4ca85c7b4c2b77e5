"""The twin beside a running agent: what it judges, its alarm, and that it disturbs nothing."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from agent.analysis.twin_report import attribute_run
from agent.config import Config, parse
from agent.core.errors import ConfigError
from agent.core.events import MINUTE_MS, Amend, Command, RiskEvent, RiskState
from agent.core.risk import TWIN
from agent.live.app import make_agent
from agent.live.interfaces.status import TwinStatus
from agent.live.live_twin import LEAST_ORDERS, LiveTwin
from agent.live.model_drift import CLEARED, RAISED
from agent.replay.twin import fold_twin
from agent.replay.twin_events import recorded_events
from agent.sandbox import Sandbox
from agent.store.database import Database, open_database
from agent.store.queries import find_run, read_decisions
from agent.store.runs import Run
from tests.conftest import ROOT
from tests.live.gateway.churning_strategy import churn, venue_settings
from tests.live.services.metrics.test_metrics import METRICS, Asked, value
from tests.support.killing import KEYS
from tests.support.live import assert_sound, journal, living, load_words, options, settings, until
from tests.support.recorded_venue import BEGIN, Venue, configuration, record
from tests.support.venue_agent import twin_settings

SYMBOLS = ("BTCUSDT", "ETHUSDT")
MARKET = churn(limit=False)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    with closing(open_database(f"sqlite:///{tmp_path / 'runs.db'}")) as opened:
        yield opened


def observed(store: Database, run: Run, config: Config, *, restart: int = 0) -> LiveTwin:
    """Let a twin observe a recorded run; with `restart` it is made anew after this event, and is behind until
    ten events later.
    """
    twin = LiveTwin.of_run(config, store, run, restart)
    for seq, event, decisions in recorded_events(store, run, config):
        if seq <= restart:
            continue
        if restart and seq == restart + 10:
            assert twin.status().behind == restart
            assert twin.status().difference is None
            asyncio.run(twin.catch_up())
        twin.event(seq, event)
        for decision in decisions:
            twin.decision(seq, decision)
    assert not twin.status().problem
    return twin


def judged(store: Database, venue: Venue, minutes: int = 60, **sections: Any) -> tuple[LiveTwin, TwinStatus]:
    config = configuration(SYMBOLS, MARKET, **sections)
    twin = observed(store, record(store, config, venue, minutes=minutes), config)
    return twin, twin.status()


def test_equal_rules_are_no_alarm(store: Database) -> None:
    twin, found = judged(store, Venue())
    assert found.orders > LEAST_ORDERS
    assert (found.mean_bps, found.low, found.high) == (0, 0, 0)
    assert twin.due_alarm() is None


@pytest.mark.parametrize(
    ("rules", "cause", "bps"),
    [({"half_spread_bps": 4.5}, "spread", -4.0), ({"taker_fee": "0.0011"}, "fee", -5.5)],
)
def test_a_planted_cause_is_named_once(
    store: Database, rules: dict[str, Any], cause: str, bps: float
) -> None:
    twin, found = judged(store, Venue(rules=rules))
    assert found.mean_bps == pytest.approx(bps, abs=0.1)
    assert found.causes_bps[cause] == pytest.approx(bps, abs=0.1)
    args = twin.due_alarm()
    assert args is not None
    assert (args["rule"], args["state"]) == (TWIN, RAISED)
    assert f"{cause} -" in args["detail"]
    assert twin.due_alarm() is None
    assert twin.status().outside


def test_it_is_cleared_once_the_mean_is_allowed_again(store: Database) -> None:
    config = configuration(SYMBOLS, MARKET, twin={"window": 60})
    worse = record(store, config, Venue(rules={"half_spread_bps": 4.5}), minutes=60, run_id="worse")
    later = BEGIN + 60 * MINUTE_MS
    equal = record(store, config, Venue(), minutes=60, run_id="equal", begin=later)
    twin = observed(store, worse, config)
    assert twin.due_alarm() is not None
    for seq, event, decisions in recorded_events(store, equal, config):
        twin.event(seq, event)
        for decision in decisions:
            twin.decision(seq, decision)
    args = twin.due_alarm()
    assert args is not None
    assert args["state"] == CLEARED


@pytest.mark.parametrize(("high", "alarms"), [(6.0, False), (2.0, True)])
def test_fitted_costs_allow_their_interval(store: Database, high: float, alarms: bool) -> None:
    costs = {"runs": ["a"], "half_spread_bps": [0.2, high]}
    twin, found = judged(store, Venue(rules={"half_spread_bps": 4.5}), costs=costs)
    assert (found.allowed_low, found.allowed_high) == pytest.approx((-(high - 0.5) - 1.0, 0.3 + 1.0))
    assert (twin.due_alarm() is not None) is alarms


def test_few_orders_are_not_judged(store: Database) -> None:
    twin, found = judged(store, Venue(rules={"half_spread_bps": 40.0}), minutes=10)
    assert 0 < found.orders < LEAST_ORDERS
    assert found.low is None
    assert twin.due_alarm() is None


def test_it_agrees_with_the_twin_of_the_record(store: Database) -> None:
    config = configuration(SYMBOLS, churn(), twin={"window": 1_000})
    run = record(store, config, Venue(rules={"latency": 2_250, "half_spread_bps": 2.5}), minutes=120)
    found = observed(store, run, config).status()
    report = attribute_run(fold_twin(store, run, anew=False))
    values = [
        float(order.difference)
        / float(order.venue_qty or order.paper_qty)
        / (order.venue_price or order.paper_price or 1)
        for order in report.orders
        if order.venue_qty or order.paper_qty
    ]
    # the last orders of each symbol wait for a next decision
    compared = values[: found.orders]
    assert len(values) - found.orders <= 4
    assert found.mean_bps == pytest.approx(1e4 * sum(compared) / len(compared), rel=0.1)


@pytest.mark.parametrize("restart", [1, 1_500, 4_000])
def test_a_restart_continues_as_if_there_had_been_none(store: Database, restart: int) -> None:
    config = configuration(SYMBOLS, churn())
    run = record(store, config, Venue(rules={"latency": 2_250, "half_spread_bps": 2.5}), minutes=60)
    found = observed(store, run, config, restart=restart).status()
    assert found == observed(store, run, config).status()
    assert found.orders > LEAST_ORDERS
    assert not found.behind


def amounts(store: Database, run: Run) -> tuple[Decimal, dict[str, Decimal]]:
    """Return what `tapewire twin RUN --own-orders` says of a run."""
    report = attribute_run(fold_twin(store, run, anew=False))
    return report.difference, {cause: amount for cause, amount in report.causes.items() if amount}


@pytest.mark.slow
@pytest.mark.parametrize("minutes", [7, 40])
@pytest.mark.parametrize(
    "venue",
    [
        Venue(rules={"latency": 2_250, "half_spread_bps": 2.5, "taker_fee": "0.0011"}),
        Venue(reject=9, executions=3),
        Venue(gap=(20, 50)),
        Venue(rules={"liquidity": "participation", "max_participation": 0.05}),
        Venue(funding_rate="0.0003"),
    ],
    ids=["costs", "rejected", "gap", "partial", "funding"],
)
def test_its_amounts_are_those_of_the_record(store: Database, venue: Venue, minutes: int) -> None:
    """To the last digit, also of prices that the twin beside the agent has forgotten."""
    config = configuration(SYMBOLS, churn(), paper={"funding_rate": "0.0001"})
    run = record(store, config, venue, minutes=minutes)
    found = observed(store, run, config).status()
    assert (found.difference, found.causes) == amounts(store, run)


def test_an_error_ends_the_twin_and_not_the_agent(store: Database) -> None:
    config = configuration(SYMBOLS, MARKET)
    run = record(store, config, minutes=5)
    twin = LiveTwin(config)
    for seq, event, decisions in recorded_events(store, run, config):
        twin.event(seq, event)
        for decision in decisions:
            twin.decision(seq, decision)
        if seq == 10:
            twin.decision(seq, Amend("o", "UNTRADED", 0))
    assert twin.status().problem == "KeyError: 'UNTRADED'"
    assert twin.status().orders == 0
    assert twin.due_alarm() is None


def test_a_run_on_paper_has_no_twin() -> None:
    with pytest.raises(ConfigError, match="the run trades on paper and has no twin"):
        parse({"twin": {"enabled": True}}, where="test").check_live()
    parse({"twin": {"enabled": True}, "execution": {"mode": "testnet"}}, where="test").check_live()


@pytest.mark.slow
async def test_an_agent_whose_fees_are_unexpected_raises_the_alarm(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAPEWIRE_API_KEY", "sandbox-key")
    monkeypatch.setenv("TAPEWIRE_API_SECRET", "sandbox-secret")
    # far above what the moments of fills differ by on a busy machine
    async with Sandbox(options(speed=240, taker_fee=Decimal("0.003"))) as sandbox:
        config = settings(
            sandbox.rest_url,
            tmp_path,
            paper={"taker_fee": "0", "maker_fee": "0", "latency": 0, "slippage": "none"},
            twin={"enabled": True},
            **venue_settings(sandbox.rest_url, strategy=churn(limit=False)),
            **METRICS,
        )
        daemon = make_agent(config, database, load_model=load_words, clock=sandbox.clock)
        async with living(daemon):
            asked = Asked(daemon)
            await until(lambda: any(one.rule == TWIN for one in risk_events(database)))
            samples = await asked.samples()
            status = daemon.status()
    assert status.twin is not None
    assert status.twin.outside
    assert not status.twin.problem
    assert value(samples, "tapewire_twin_outside") == 1
    assert value(samples, "tapewire_twin_orders") >= LEAST_ORDERS
    assert value(samples, "tapewire_twin_cause_bps", cause="fee") < -10  # 30 bps of what both filled
    (alarm,) = [one for one in risk_events(database) if one.rule == TWIN]
    assert alarm.state is RiskState.ACTIVE
    assert "orders at the venue differ from paper by -" in alarm.detail
    assert_sound(database, "latest", config)


@pytest.mark.slow
async def test_a_killed_agent_goes_on_with_its_twin(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 in the middle of trading; the next life's amounts are those of the whole record."""
    for name, value_ in KEYS.items():
        monkeypatch.setenv(name, value_)
    async with Sandbox(options(speed=120)) as sandbox:
        clock = sandbox.clock.now(), time.time_ns() // 1_000_000
        arguments = [sandbox.rest_url, tmp_path, *clock, 120]
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.support.venue_agent", *map(str, arguments), cwd=ROOT
        )
        executions = sandbox.venue.account.executions
        try:
            await until(lambda: len(executions) >= 12)
        finally:
            child.kill()
            await child.wait()
        before = find_run(database)
        lost = len(executions)
        daemon = make_agent(
            twin_settings(sandbox.rest_url, tmp_path), database, load_model=load_words, clock=sandbox.clock
        )
        async with living(daemon):
            twin = daemon.life.twin
            assert twin is not None
            await until(lambda: len(executions) >= lost + 12 and not twin.status().behind)
    run = find_run(database)
    assert run.id == before.id
    found = twin.status()
    assert not found.problem
    assert found.difference
    assert (found.difference, found.causes) == amounts(database, run)
    assert found.causes["fee"] < 0
    lives = [event for event in journal(database, run.id) if isinstance(event, Command)]
    assert sum(event.action == "life" for event in lives) == 2


def risk_events(database: Database) -> list[RiskEvent]:
    decisions = (item.decision for item in read_decisions(database, find_run(database).id))
    return [decision for decision in decisions if isinstance(decision, RiskEvent)]
