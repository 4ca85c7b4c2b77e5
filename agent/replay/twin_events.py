"""The record of a venue run as its twins read it: configuration, and events with their decisions."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from decimal import Decimal

from agent.config import Config, parse
from agent.core.engine import CORE
from agent.core.errors import UsageError
from agent.core.events import (
    AccountSnapshot,
    CashAdjustment,
    Command,
    Decision,
    Event,
    Funding,
    Kline,
    Order,
)
from agent.core.instruments import with_first_rules
from agent.data.funding import constant_funding
from agent.store.database import Database
from agent.store.journal import read_journal
from agent.store.queries import read_decisions
from agent.store.runs import Run, RunKind


def has_twin(run: Run) -> bool:
    """Return True of a run at a venue."""
    return run.kind is RunKind.LIVE and run.config.get("execution", {}).get("mode") == "testnet"


def run_config(run: Run) -> Config:
    """Return the configuration of a run at a venue. Raises UsageError on paper and for a run with sleeves."""
    settings = {name: section for name, section in run.config.items() if name != "window"}
    config = parse(settings, where=f"run {run.id}")
    if not has_twin(run):
        raise UsageError(
            f"run {run.id} traded on paper, so it has no twin",
            hint="a run with execution.mode = testnet has one; `tapewire runs` lists them",
        )
    if config.sleeves:
        raise UsageError(
            f"run {run.id} has sleeves, and only a run of one strategy has a twin",
            hint="tapewire slippage compares the orders of a run with sleeves",
        )
    return with_first_rules(config) if CORE not in run.versions else config


def recorded_events(
    database: Database, run: Run, config: Config
) -> Generator[tuple[int, Event, list[Decision]], None, None]:
    """Yield each event of the journal with its number and the decisions that it led to.

    Of a run that did not record changes of cash, the first account snapshot leads to one.
    """
    capital = _FirstBalance(config)
    decisions = iter(read_decisions(database, run.id))
    following = next(decisions, None)
    for seq, event in read_journal(database, run.id):
        led_to: list[Decision] = []
        while following is not None and following.event_seq <= seq:
            led_to.append(following.decision)
            following = next(decisions, None)
        yield seq, event, capital.stated(event, led_to)


class _FirstBalance:
    """States the capital of runs that did not record changes of cash: the balance when they began."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._known = False

    def stated(self, event: Event, decisions: list[Decision]) -> list[Decision]:
        """Return the decisions of an event, with the change of cash that it implies."""
        if self._known:
            return decisions
        if isinstance(event, Command) and event.action == "life":
            self._known = event.states_cash
        elif isinstance(event, AccountSnapshot):
            self._known = True
            account = self._config.account
            amount = event.balances.get(account.currency, Decimal(0)) - account.initial_capital
            reason = "the account's balance when the run began"
            return [CashAdjustment(event.ts, account.currency, amount, reason), *decisions]
        return decisions


class PaperFunding:
    """The configured funding rate at every stamp that the market has passed; see docs/assumptions.md."""

    def __init__(self, config: Config) -> None:
        linear = config.market.category == "linear"
        self._symbols = config.market.symbols if linear and config.paper.funding_rate else ()
        self._rate, self._interval = float(config.paper.funding_rate), config.paper.funding_interval
        self._since = 0

    def due(self, kline: Kline) -> Iterator[Funding]:
        """Yield the stamps that a closed bar shows to have passed."""
        since, self._since = self._since, max(kline.ts, self._since)
        if since and self._symbols:
            for stamp in constant_funding(self._symbols, self._rate, self._interval, since + 1, kline.ts + 1):
                yield Funding(stamp.symbol, stamp.ts, kline.available_at, stamp.rate)


def is_strategys(order: Order) -> bool:
    """Return whether an order is the strategy's (or a flatten's), and none that protects a position."""
    return not order.oco and order.reason != "liquidation"
