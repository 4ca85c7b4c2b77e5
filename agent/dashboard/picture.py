"""The state of the page: a fold over what the core hears and decides, the same one live and for a recorded run.

A `Picture` is a watcher. What it takes in costs O(1) an event, what it keeps is bounded, and nothing of it is asked of the
engine: so the page of a moment can be drawn again from the record alone, and is the page as it was then.
"""

from __future__ import annotations

from copy import deepcopy
from decimal import Decimal
from typing import Any, Final, Self

import numpy as np
from msgspec.structs import replace

from agent.analysis.thinning import ThinnedCurve
from agent.config import Config
from agent.core.events import (
    DAY_MS,
    AccountSnapshot,
    Amend,
    Cancel,
    CashAdjustment,
    Command,
    Decision,
    Direction,
    Event,
    Fill,
    FundingPayment,
    Gap,
    Kline,
    News,
    Order,
    OrderStatus,
    OrderUpdate,
    Prediction,
    RiskEvent,
    RiskState,
    Sentiment,
    Signal,
)
from agent.core.portfolio import Portfolio
from agent.core.risk import KILL, NOTES
from agent.core.symbols import SymbolMapper
from agent.dashboard.rows import Rows
from agent.dashboard.views import (
    AccountView,
    Act,
    Bar,
    Head,
    Headline,
    PredictionView,
    SignalView,
    Symbol,
    Trade,
    Working,
    act_of,
    headline_of,
    opinion_of,
    trade_of,
    working_of,
)

HEADLINES: Final = 80
FILLS: Final = 200
ACTS: Final = 100
CURVE: Final = 800
"""Rows and points kept."""

NOTHING: Final = -1
"""The version of a page that has seen nothing yet."""


class Picture:
    """`changes(since)` is what a page that has seen version `since` lacks."""

    def __init__(self, head: Head, config: Config, *, bars: int = 300) -> None:
        self.head = head
        self.version = 0
        self.seq = 0
        """Number of the last event."""
        self.now = 0
        self.warming = False
        self._bars_kept = bars
        self._mapper = SymbolMapper(config.market.symbols, config.instruments, config.signals.macro_keywords)
        self._portfolio = Portfolio(config.account.initial_capital, head.symbols)
        self._bars: dict[str, Rows[int, Bar]] = {symbol: Rows(bars) for symbol in head.symbols}
        self._day_open: dict[str, tuple[int, float]] = {}  # number of the day, first price of it
        self._closed: dict[str, int] = {}  # the bars before this time are final
        self._touched: dict[str, int] = dict.fromkeys(head.symbols, 0)  # version of the symbol's row
        self._signals: dict[str, SignalView] = {}
        self._predictions: dict[str, PredictionView] = {}
        self._headlines: Rows[str, Headline] = Rows(HEADLINES)
        self._trades: Rows[str, Trade] = Rows(FILLS)
        self._acts: Rows[str, Act] = Rows(ACTS)
        self._working: dict[str, Working] = {}
        self._working_version = 0
        self._curve = ThinnedCurve(CURVE)
        self._curve_version = 0
        self._period = 0  # of the bars being heard; the account is looked at when it ends
        self._sampled = -1  # number of the last period with a point in the curve
        self._day, self._day_equity = -1, self._portfolio.equity()
        self._peak = self._portfolio.equity()
        self._fills = 0
        self._risk = RiskState.ACTIVE
        self._rule = self._detail = ""
        self._since = 0
        self._margined = config.market.category == "linear"
        self._cash_stated = False  # the life that decides now records each change of cash
        self._accepting = config.execution.mode == "testnet"  # the next account as it is

    # -- what is heard -----------------------------------------------------------------------------------------------

    def event(self, seq: int, event: Event) -> None:
        """Take in what the core is about to handle."""
        self.version += 1
        self.seq = seq
        if event.available_at > self.now:
            self.now = event.available_at
        match event:
            case Kline():
                self._on_bar(event)
            case News():
                symbols = self._mapper.map(event.title, event.currencies)
                self._headlines.put(event.id, headline_of(event, symbols), self.version)
            case Sentiment():
                headline = self._headlines.get(event.news_id)
                if headline is not None:
                    self._headlines.put(
                        headline.id, replace(headline, opinion=opinion_of(event)), self.version
                    )
            case Command(action="warm-up" | "warm-up-done"):
                self.warming = event.action == "warm-up"
            case Command(action="heartbeat"):
                pass
            case Command() | Gap():
                if isinstance(event, Command) and event.action == "life":
                    self._cash_stated = event.states_cash
                self._accepting |= (
                    isinstance(event, Command) and event.action == "resume" and self._rule == "drift"
                )
                self._note(event.available_at, event)
            case AccountSnapshot():
                self._on_account(event)
            case _:  # what a venue reports of orders is decided on, once, and then heard as a decision
                pass

    def decision(self, seq: int, decision: Decision) -> None:
        """Take in what the core decided on the event."""
        self.version += 1
        match decision:
            case Signal():
                self._signals[decision.symbol] = SignalView(
                    decision.ts, decision.direction.value, decision.confidence, decision.bearish, decision.neutral,
                    decision.bullish, decision.actionable,
                )  # fmt: skip
                self._touch(decision.symbol)
                if decision.actionable or decision.direction is Direction.HOLD:
                    self._note(decision.ts, decision)
            case Prediction():
                self._predictions[decision.symbol] = PredictionView(
                    decision.ts, decision.down, decision.flat, decision.up
                )
                self._touch(decision.symbol)
            case Order():
                self._working[decision.id] = working_of(decision)
                self._working_version = self.version
                self._note(decision.ts, decision)
            case Cancel():
                self._note(decision.ts, decision)
            case Amend():
                self._on_amend(decision)
            case OrderUpdate():
                self._on_update(decision)
            case Fill():
                self._on_fill(seq, decision)
            case FundingPayment():
                self._portfolio.pay(decision)
                self._note(decision.ts, decision)
            case CashAdjustment():
                self._portfolio.transfer(decision.amount)
                self._note(decision.ts, decision)
            case RiskEvent():
                self._on_risk(decision)

    def _on_bar(self, bar: Kline) -> None:
        rows = self._bars.get(bar.symbol)
        if rows is None or bar.interval != self.head.interval or bar.start < self._closed.get(bar.symbol, 0):
            return
        if bar.available_at > self._period:
            if self._period and not self.warming:
                self._sample(self._period)
            self._period = bar.available_at
        if bar.confirm:
            self._closed[bar.symbol] = bar.start + bar.interval
        self._portfolio.positions[bar.symbol].mark = bar.close
        day = bar.start // DAY_MS
        if self._day_open.get(bar.symbol, (-1, 0.0))[0] != day:
            self._day_open[bar.symbol] = day, bar.open
        rows.put(bar.start, Bar(bar.start, bar.open, bar.high, bar.low, bar.close, bar.volume), self.version)
        self._touch(bar.symbol)

    def _sample(self, ts: int) -> None:
        """All bars of one moment are in: one look at the account in each period, as the record has it."""
        number = ts // self.head.interval
        if number == self._sampled:
            return
        self._sampled = number
        equity = self._portfolio.equity()
        if ts // DAY_MS != self._day:
            self._day, self._day_equity = ts // DAY_MS, equity
        self._peak = max(self._peak, equity)
        self._curve.extend(np.array([ts]), np.array([equity]))
        self._curve_version = self.version

    def _on_account(self, account: AccountSnapshot) -> None:
        """Money that came from outside, in lives that recorded no `CashAdjustment` (see `VenueExchange.on_account`)."""
        if self._cash_stated:
            return
        if self._accepting or account.foreign:
            ledger = self._portfolio
            wallet = (
                ledger.initial + ledger.realised - ledger.fees + ledger.funding
                if self._margined
                else ledger.cash
            )
            ledger.transfer(account.balances.get(self.head.currency, Decimal(0)) - wallet)
            self._accepting = False

    def _on_amend(self, amend: Amend) -> None:
        order = self._working.get(amend.order_id)
        if order is not None:
            qty, price = amend.qty or order.qty, order.price if amend.price is None else amend.price
            self._working[amend.order_id] = replace(order, qty=qty, price=price)
            self._working_version = self.version
        self._note(amend.ts, amend)

    def _on_update(self, update: OrderUpdate) -> None:
        order = self._working.get(update.order_id)
        if order is not None:
            if update.status.final:
                del self._working[update.order_id]
            else:
                self._working[update.order_id] = replace(
                    order, status=update.status.value, filled=update.filled
                )
            self._working_version = self.version
        if update.status in (OrderStatus.CANCELLED, OrderStatus.REJECTED):
            self._note(update.ts, update)

    def _on_fill(self, seq: int, fill: Fill) -> None:
        position = self._portfolio.positions.get(fill.symbol)
        if position is None:
            return
        reduces = position.qty * fill.side.sign < 0
        realised = self._portfolio.apply(fill)
        if position.mark != position.mark:
            position.mark = float(fill.price)
        self._fills += 1
        self._trades.put(fill.id, trade_of(fill, seq, realised if reduces else None), self.version)
        self._touch(fill.symbol)

    def _on_risk(self, event: RiskEvent) -> None:
        if event.rule == "warm-up":
            return
        # a resumption without its confirmation: the kill stands as it was
        refused = event.rule == self._rule == KILL
        if not event.symbol and not refused and event.rule not in NOTES:
            self._risk, self._rule, self._detail, self._since = (
                event.state,
                event.rule,
                event.detail,
                event.ts,
            )
        self._note(event.ts, event)

    def _touch(self, symbol: str) -> None:
        self._touched[symbol] = self.version

    def _note(self, at: int, message: Event | Decision) -> None:
        key = f"{self.seq}.{self.version}"
        self._acts.put(key, act_of(key, at, message), self.version)

    # -- what is shown -----------------------------------------------------------------------------------------------

    def changes(self, since: int = NOTHING, symbol: str = "", bars_since: int = NOTHING) -> dict[str, Any]:
        """What came after version `since`, and of the bars of `symbol` after `bars_since`; all of it from `NOTHING` on.

        Sections in which nothing changed are left out.
        """
        changed: dict[str, Any] = {"version": self.version}
        if since < self.version:
            changed["account"] = self.account()
        market = [self._symbol(name) for name, version in self._touched.items() if version > since]
        lists = {
            "market": market,
            "headlines": self._headlines.since(since),
            "trades": self._trades.since(since),
            "acts": self._acts.since(since),
        }
        changed |= {name: rows for name, rows in lists.items() if rows or since == NOTHING}
        if self._working_version > since:
            changed["orders"] = list(self._working.values())
        if self._curve_version > since:
            changed["curve"] = self._curve.points()
        if symbol in self._bars:
            bars = self._bars[symbol].since(bars_since)
            if bars or bars_since == NOTHING:
                changed["bars"] = {"symbol": symbol, "all": bars_since == NOTHING, "rows": bars}
        return changed

    def account(self) -> AccountView:
        """The account at the last marks."""
        portfolio = self._portfolio
        return AccountView(
            self.now, self.seq, self.warming, portfolio.initial, portfolio.equity(), portfolio.cash_float, portfolio.gross_notional(),
            self._day_equity, self._peak, portfolio.fees, portfolio.funding, portfolio.realised,
            self._fills, self._risk, self._rule, self._detail,
            self._since,
        )  # fmt: skip

    def positions(self) -> dict[str, Decimal]:
        """Signed quantities of what is held."""
        return {position.symbol: position.qty for position in self._portfolio.open}

    def _symbol(self, symbol: str) -> Symbol:
        position = self._portfolio.positions[symbol]
        known = position.mark == position.mark
        opened = self._day_open.get(symbol)
        last = self._closed.get(symbol)
        return Symbol(
            symbol,
            position.mark if known else None,
            position.mark / opened[1] - 1 if known and opened and opened[1] else None,
            None if last is None else last - self.head.interval,
            position.qty,
            position.entry_price,
            position.size * position.mark if known else 0.0,
            position.unrealised,
            self._signals.get(symbol),
            self._predictions.get(symbol),
        )

    def copy(self) -> Self:
        """The same picture, to go on from on its own."""
        twin = object.__new__(type(self))
        vars(twin).update(vars(self))
        twin._portfolio = _copied(self._portfolio)
        twin._bars = {symbol: rows.copy() for symbol, rows in self._bars.items()}
        twin._headlines, twin._trades, twin._acts = (
            self._headlines.copy(),
            self._trades.copy(),
            self._acts.copy(),
        )
        twin._curve = deepcopy(self._curve)
        for name in ("_day_open", "_closed", "_touched", "_signals", "_predictions", "_working"):
            setattr(twin, name, getattr(self, name).copy())
        return twin


def _copied(portfolio: Portfolio) -> Portfolio:
    """A ledger of its own with the same bookings: compiled classes can't be copied in the general way."""
    twin = Portfolio(portfolio.initial, portfolio.positions)
    for name in ("cash", "cash_float", "realised", "fees", "funding", "slippage", "turnover", "version"):
        setattr(twin, name, getattr(portfolio, name))
    for symbol, position in portfolio.positions.items():
        for name in ("qty", "size", "cost", "mark", "entry_ts"):
            setattr(twin.positions[symbol], name, getattr(position, name))
    twin.open = [twin.positions[position.symbol] for position in portfolio.open]
    return twin
