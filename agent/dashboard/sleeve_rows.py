"""Rows of the sleeves, if several strategies share the account: each has a ledger of its own."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any, Self

import msgspec
from msgspec import UNSET

from agent.config import Config
from agent.core.events import (
    CashAdjustment,
    Command,
    Fill,
    FundingPayment,
    RiskEvent,
    RiskState,
    StrategyChange,
)
from agent.core.portfolio import Portfolio
from agent.core.risk import NOTES
from agent.core.settings import SleeveConfig
from agent.core.strategy_version import label_of
from agent.core.venue import OPENING


class SleeveRow(msgspec.Struct, frozen=True):
    """One sleeve: its virtual portfolio at the last marks, and its risk state."""

    name: str
    strategy: str
    state: str  # of risk; leaving or removed after a removal
    rule: str
    capital: Decimal
    equity: float
    profit: float
    exposure: float
    positions: dict[str, Decimal]  # signed quantities of open positions, by symbol


class SleeveLedgers:
    """Ledgers of the sleeves, folded from the decisions that name them."""

    def __init__(self, config: Config, symbols: Iterable[str]) -> None:
        self._symbols = tuple(symbols)
        self._capital = config.account.initial_capital
        self._portfolios: dict[str, Portfolio] = {}
        self._strategies: dict[str, str] = {}
        self._states: dict[str, tuple[str, str]] = {}  # risk state and its rule
        self._leaving: set[str] = set()
        for settings in config.sleeves:
            if settings.enabled:
                self._begin(settings)

    def _begin(self, settings: SleeveConfig) -> None:
        self._portfolios[settings.name] = Portfolio(self._capital * settings.share, self._symbols)
        self._strategies[settings.name] = settings.strategy.name
        self._states[settings.name] = RiskState.ACTIVE.value, ""

    def mark(self, symbol: str, price: float) -> None:
        """Mark the positions in `symbol`."""
        for portfolio in self._portfolios.values():
            portfolio.positions[symbol].mark = price

    def on_command(self, command: Command) -> None:
        """Follow the addition or removal of a sleeve."""
        name = command.args.get("sleeve", "")
        if command.action == "add-sleeve" and name not in self._portfolios:
            try:
                settings = SleeveConfig.model_validate_json(command.args.get("definition", ""))
            except ValueError:
                return  # the core has not added it either
            self._begin(settings)
        elif command.action == "remove-sleeve" and name in self._portfolios:
            self._leaving.add(name)

    def on_fill(self, fill: Fill) -> Decimal | None:
        """Book a fill; return the profit that it realises, None if it opened or enlarged a position."""
        portfolio = None if fill.sleeve is UNSET else self._portfolios.get(fill.sleeve)
        if portfolio is None or fill.symbol not in portfolio.positions:
            return None
        position = portfolio.positions[fill.symbol]
        reduces = position.qty * fill.side.sign < 0
        realised = portfolio.apply(fill)
        if position.mark != position.mark:
            position.mark = float(fill.price)
        return realised if reduces else None

    def on_payment(self, payment: FundingPayment) -> None:
        """Book a funding payment."""
        if payment.sleeve is not UNSET and payment.sleeve in self._portfolios:
            self._portfolios[payment.sleeve].pay(payment)

    def on_cash(self, adjustment: CashAdjustment) -> None:
        """Follow a change of cash without a trade; the first balance at a venue is the sleeves' capital."""
        if adjustment.reason == OPENING:
            self._capital += adjustment.amount
        if adjustment.sleeve is not UNSET and adjustment.sleeve in self._portfolios:
            self._portfolios[adjustment.sleeve].transfer(adjustment.amount)

    def on_risk(self, event: RiskEvent) -> None:
        """Note the change of a sleeve's risk state."""
        if event.sleeve is not UNSET and not event.symbol and event.rule not in NOTES:
            self._states[event.sleeve] = event.state.value, event.rule

    def on_strategy(self, change: StrategyChange) -> None:
        """Note that another strategy decides in a sleeve."""
        if change.sleeve is not UNSET and change.sleeve in self._strategies:
            self._strategies[change.sleeve] = label_of(change.strategy, change.class_name)

    def rows(self) -> list[SleeveRow]:
        """Return a row for each sleeve; empty without sleeves."""
        return [self._row(name, portfolio) for name, portfolio in self._portfolios.items()]

    def _row(self, name: str, portfolio: Portfolio) -> SleeveRow:
        state, rule = self._states[name]
        if name in self._leaving:
            state, rule = ("leaving" if portfolio.open else "removed"), ""
        equity = portfolio.equity()
        return SleeveRow(
            name=name,
            strategy=self._strategies[name],
            state=state,
            rule=rule,
            capital=portfolio.initial,
            equity=equity,
            profit=equity - float(portfolio.initial),
            exposure=portfolio.gross_notional(),
            positions={position.symbol: position.qty for position in portfolio.open},
        )

    def copy(self) -> Self:
        """Return an independent copy."""
        twin: Any = object.__new__(type(self))
        vars(twin).update(vars(self))
        twin._portfolios = {name: copy_portfolio(one) for name, one in self._portfolios.items()}
        twin._strategies, twin._states = dict(self._strategies), dict(self._states)
        twin._leaving = set(self._leaving)
        found: Self = twin
        return found


def copy_portfolio(portfolio: Portfolio) -> Portfolio:
    """Copy a ledger field by field, since `deepcopy` can't copy compiled classes."""
    twin = Portfolio(portfolio.initial, portfolio.positions)
    for name in ("cash", "cash_float", "realised", "fees", "funding", "slippage", "turnover", "version"):
        setattr(twin, name, getattr(portfolio, name))
    for symbol, position in portfolio.positions.items():
        for name in ("qty", "size", "cost", "mark", "entry_ts"):
            setattr(twin.positions[symbol], name, getattr(position, name))
    twin.open = [twin.positions[position.symbol] for position in portfolio.open]
    return twin
