"""The state of the page, folded from events and decisions, for the running agent and for recorded runs.

`DashboardState` observes the core: each event costs O(1), memory is bounded, and the engine is never queried.
So the page at any moment can be rebuilt from the journal alone, and equals the page that was live then.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final, Self

from msgspec import UNSET
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
    FillKind,
    FundingPayment,
    Gap,
    Kline,
    News,
    Notice,
    Order,
    OrderStatus,
    OrderUpdate,
    Plot,
    Prediction,
    RiskEvent,
    RiskState,
    Sentiment,
    Signal,
    StrategyChange,
)
from agent.core.portfolio import Portfolio
from agent.core.risk import KILL, NOTES
from agent.core.symbols import SymbolMapper
from agent.dashboard.page_rows import (
    AccountSummary,
    ActivityRow,
    CandleRow,
    FillRow,
    HeadlineRow,
    OrderRow,
    PredictionRow,
    RunHeader,
    SignalRow,
    StrategyRow,
    SymbolRow,
    VersionedRows,
    activity_row,
    fill_row,
    headline_row,
    order_row,
    scored_row,
    signal_row,
    strategy_row,
)
from agent.dashboard.plotted_rows import PlottedRows
from agent.dashboard.sleeve_rows import SleeveLedgers, copy_portfolio

HEADLINES: Final = 80
FILLS: Final = 200
ACTIVITIES: Final = 100
CURVE_POINTS: Final = 800
"""Maximum numbers of rows and points."""

NO_VERSION: Final = -1
"""The version of a page that has received nothing yet."""


class DashboardState:
    """What the page shows. `changes(since)` returns the difference to an earlier version."""

    def __init__(self, header: RunHeader, config: Config, *, bars: int = 300) -> None:
        self.header = header
        self.version = 0
        self.seq = 0
        """Number of the last event."""
        self.now = 0
        self.warming_up = False
        self._bar_limit = bars
        self._mapper = SymbolMapper(config.market.symbols, config.instruments, config.signals.macro_keywords)
        self._portfolio = Portfolio(config.account.initial_capital, header.symbols)
        self._sleeves = SleeveLedgers(config, header.symbols)
        self._bars: dict[str, VersionedRows[int, CandleRow]] = {
            symbol: VersionedRows(bars) for symbol in header.symbols
        }
        self._plots = PlottedRows(header.symbols, header.interval, bars)
        self._day_open: dict[str, tuple[int, float]] = {}  # day number and first price of the day
        self._closed: dict[str, int] = {}  # bars that start before this time are final
        self._symbol_versions: dict[str, int] = dict.fromkeys(header.symbols, 0)
        self._signals: dict[str, SignalRow] = {}
        self._predictions: dict[str, PredictionRow] = {}
        self._headlines: VersionedRows[str, HeadlineRow] = VersionedRows(HEADLINES)
        self._fills: VersionedRows[str, FillRow] = VersionedRows(FILLS)
        self._activities: VersionedRows[str, ActivityRow] = VersionedRows(ACTIVITIES)
        self._orders: dict[str, OrderRow] = {}
        self._orders_version = 0
        self._curve = ThinnedCurve(CURVE_POINTS)
        self._curve_version = 0
        # end of the bar period whose bars are arriving; equity is sampled when the next one begins
        self._period = 0
        self._sampled = -1  # number of the last period with a point in the curve
        self._day, self._day_equity = -1, self._portfolio.equity()
        self._peak = self._portfolio.equity()
        self._fill_count = 0
        self._risk = RiskState.ACTIVE
        self._rule = self._detail = ""
        self._since = 0
        self._margined = config.market.category == "linear"
        self._cash_recorded = False  # True if the current process records each change of cash
        self._accept_next_account = config.execution.mode == "testnet"
        self._strategy = StrategyRow(header.strategy, header.source, header.params, header.started_at, 0)
        self._strategy_version = 0

    # -- events and decisions --------------------------------------------------------------------------------

    def event(self, seq: int, event: Event) -> None:
        """Apply an event that the core is about to handle."""
        self.version += 1
        self.seq = seq
        if event.available_at > self.now:
            self.now = event.available_at
        match event:
            case Kline():
                self._on_bar(event)
            case News():
                symbols = self._mapper.map(event.title, event.currencies)
                self._headlines.put(event.id, headline_row(event, symbols), self.version)
            case Sentiment():
                headline = self._headlines.get(event.news_id)
                if headline is not None:
                    self._headlines.put(headline.id, scored_row(headline, event), self.version)
            case Command(action="warm-up" | "warm-up-done"):
                self.warming_up = event.action == "warm-up"
            case Command(action="heartbeat"):
                pass
            case Command() | Gap():
                if isinstance(event, Command) and event.action == "life":
                    self._cash_recorded = event.states_cash
                if isinstance(event, Command):
                    self._sleeves.on_command(event)
                if isinstance(event, Command) and event.action == "resume" and self._rule == "drift":
                    self._accept_next_account = True
                self._add_activity(event.available_at, event)
            case AccountSnapshot():
                self._on_account(event)
            case _:  # reports of a venue on orders: the decisions that follow them contain the result
                pass

    def decision(self, seq: int, decision: Decision) -> None:
        """Apply a decision that the core made on event `seq`."""
        self.version += 1
        match decision:
            case Signal():
                self._on_signal(decision)
            case Prediction():
                row = PredictionRow(decision.ts, decision.down, decision.flat, decision.up)
                self._predictions[decision.symbol] = row
                self._symbol_changed(decision.symbol)
            case Order():
                self._orders[decision.id] = order_row(decision)
                self._orders_version = self.version
                self._add_activity(decision.ts, decision)
            case Cancel():
                self._add_activity(decision.ts, decision)
            case Amend():
                self._on_amend(decision)
            case OrderUpdate():
                self._on_update(decision)
            case Fill():
                self._on_fill(seq, decision)
            case FundingPayment():
                self._portfolio.pay(decision)
                self._sleeves.on_payment(decision)
                self._add_activity(decision.ts, decision)
            case CashAdjustment():
                self._portfolio.transfer(decision.amount)
                self._sleeves.on_cash(decision)
                self._add_activity(decision.ts, decision)
            case RiskEvent():
                self._on_risk(decision)
            case Plot():
                self._plots.add(decision, self.version)
            case Notice():
                self._add_activity(decision.ts, decision)
            case StrategyChange():
                if not decision.sleeve:
                    self._strategy, self._strategy_version = strategy_row(decision, seq), self.version
                self._sleeves.on_strategy(decision)
                self._add_activity(decision.ts, decision)

    def _on_bar(self, bar: Kline) -> None:
        rows = self._bars.get(bar.symbol)
        if (
            rows is None
            or bar.interval != self.header.interval
            or bar.start < self._closed.get(bar.symbol, 0)
        ):
            return
        if bar.available_at > self._period:
            if self._period and not self.warming_up:
                self._sample_equity(self._period)
            self._period = bar.available_at
        if bar.confirm:
            self._closed[bar.symbol] = bar.start + bar.interval
        self._portfolio.positions[bar.symbol].mark = bar.close
        self._sleeves.mark(bar.symbol, bar.close)
        day = bar.start // DAY_MS
        if self._day_open.get(bar.symbol, (-1, 0.0))[0] != day:
            self._day_open[bar.symbol] = day, bar.open
        candle = CandleRow(bar.start, bar.open, bar.high, bar.low, bar.close, bar.volume)
        rows.put(bar.start, candle, self.version)
        self._symbol_changed(bar.symbol)

    def _sample_equity(self, ts: int) -> None:
        """Add one point per period to the curve, after all bars of the period, as the recorder does."""
        number = ts // self.header.interval
        if number == self._sampled:
            return
        self._sampled = number
        equity = self._portfolio.equity()
        if ts // DAY_MS != self._day:
            self._day, self._day_equity = ts // DAY_MS, equity
        self._peak = max(self._peak, equity)
        self._curve.add(ts, equity)
        self._curve_version = self.version

    def _on_account(self, account: AccountSnapshot) -> None:
        """Book outside changes of cash, unless this process records them (see `VenueExchange.on_account`)."""
        if self._cash_recorded:
            return
        if self._accept_next_account or account.foreign:
            ledger = self._portfolio
            wallet = ledger.cash
            if self._margined:
                wallet = ledger.initial + ledger.realised - ledger.fees + ledger.funding
            ledger.transfer(account.balances.get(self.header.currency, Decimal(0)) - wallet)
            self._accept_next_account = False

    def _on_signal(self, signal: Signal) -> None:
        self._signals[signal.symbol] = signal_row(signal)
        self._symbol_changed(signal.symbol)
        if signal.actionable or signal.direction is Direction.HOLD:
            self._add_activity(signal.ts, signal)

    def _on_amend(self, amend: Amend) -> None:
        order = self._orders.get(amend.order_id)
        if order is not None:
            qty, price = amend.qty or order.qty, order.price if amend.price is None else amend.price
            self._orders[amend.order_id] = replace(order, qty=qty, price=price)
            self._orders_version = self.version
        self._add_activity(amend.ts, amend)

    def _on_update(self, update: OrderUpdate) -> None:
        order = self._orders.get(update.order_id)
        if order is not None:
            if update.status.final:
                del self._orders[update.order_id]
            else:
                self._orders[update.order_id] = replace(
                    order, status=update.status.value, filled=update.filled
                )
            self._orders_version = self.version
        if update.status in (OrderStatus.CANCELLED, OrderStatus.REJECTED):
            self._add_activity(update.ts, update)

    def _on_fill(self, seq: int, fill: Fill) -> None:
        position = self._portfolio.positions.get(fill.symbol)
        if position is None:
            return
        profit = self._sleeves.on_fill(fill)
        if fill.kind is not FillKind.INTERNAL:  # which moves nothing into or out of the account
            reduces = position.qty * fill.side.sign < 0
            realised = self._portfolio.apply(fill)
            if fill.sleeve is UNSET:
                profit = realised if reduces else None
        if position.mark != position.mark:
            position.mark = float(fill.price)
        self._fill_count += 1
        self._fills.put(fill.id, fill_row(fill, seq, profit), self.version)
        self._symbol_changed(fill.symbol)

    def _on_risk(self, event: RiskEvent) -> None:
        if event.rule == "warm-up":
            return
        still_killed = event.rule == self._rule == KILL  # a resume without confirmation was refused
        if event.sleeve is not UNSET:
            self._sleeves.on_risk(event)
        elif not event.symbol and not still_killed and event.rule not in NOTES:
            self._risk, self._rule, self._detail, self._since = (
                event.state,
                event.rule,
                event.detail,
                event.ts,
            )
        self._add_activity(event.ts, event)

    def _symbol_changed(self, symbol: str) -> None:
        self._symbol_versions[symbol] = self.version

    def _add_activity(self, at: int, message: Event | Decision) -> None:
        key = f"{self.seq}.{self.version}"
        self._activities.put(key, activity_row(key, at, message), self.version)

    # -- output ----------------------------------------------------------------------------------------------

    def changes(
        self, since: int = NO_VERSION, symbol: str = "", bars_since: int = NO_VERSION
    ) -> dict[str, Any]:
        """Return the changes after version `since`, and the bars of `symbol` that changed after `bars_since`.

        From `NO_VERSION` on, everything is returned. Otherwise sections without changes are left out.
        """
        changed: dict[str, Any] = {"version": self.version}
        if since < self.version:
            changed["account"] = self.account()
            if sleeves := self._sleeves.rows():
                changed["sleeves"] = sleeves
        market = [
            self._symbol_row(name) for name, version in self._symbol_versions.items() if version > since
        ]
        lists = {
            "market": market,
            "headlines": self._headlines.since(since),
            "trades": self._fills.since(since),
            "acts": self._activities.since(since),
        }
        changed |= {name: rows for name, rows in lists.items() if rows or since == NO_VERSION}
        if self._orders_version > since:
            changed["orders"] = list(self._orders.values())
        if self._strategy_version > since:
            changed["strategy"] = self._strategy
        if self._curve_version > since:
            changed["curve"] = self._curve.points()
        if symbol in self._bars:
            bars = self._bars[symbol].since(bars_since)
            if bars or bars_since == NO_VERSION:
                changed["bars"] = {"symbol": symbol, "all": bars_since == NO_VERSION, "rows": bars}
        plots = self._plots.since(symbol, bars_since)
        if plots is not None and (plots or bars_since == NO_VERSION):
            changed["plots"] = {"symbol": symbol, "all": bars_since == NO_VERSION, "rows": plots}
        return changed

    def account(self) -> AccountSummary:
        """Return the account at the last marks, and the risk state."""
        portfolio = self._portfolio
        return AccountSummary(
            now=self.now,
            event=self.seq,
            warming=self.warming_up,
            initial=portfolio.initial,
            equity=portfolio.equity(),
            cash=portfolio.cash_float,
            exposure=portfolio.gross_notional(),
            day=self._day_equity,
            peak=self._peak,
            fees=portfolio.fees,
            funding=portfolio.funding,
            realised=portfolio.realised,
            fills=self._fill_count,
            risk=self._risk,
            rule=self._rule,
            detail=self._detail,
            since=self._since,
        )

    def positions(self) -> dict[str, Decimal]:
        """Return the signed quantities of open positions, by symbol."""
        return {position.symbol: position.qty for position in self._portfolio.open}

    def _symbol_row(self, symbol: str) -> SymbolRow:
        position = self._portfolio.positions[symbol]
        known = position.mark == position.mark
        opened = self._day_open.get(symbol)
        last = self._closed.get(symbol)
        return SymbolRow(
            symbol=symbol,
            mark=position.mark if known else None,
            change=position.mark / opened[1] - 1 if known and opened and opened[1] else None,
            last_bar=None if last is None else last - self.header.interval,
            qty=position.qty,
            entry=position.entry_price,
            value=position.size * position.mark if known else 0.0,
            profit=position.unrealised,
            signal=self._signals.get(symbol),
            prediction=self._predictions.get(symbol),
        )

    def copy(self) -> Self:
        """Return an independent copy."""
        twin = object.__new__(type(self))
        vars(twin).update(vars(self))
        twin._portfolio = copy_portfolio(self._portfolio)
        twin._sleeves = self._sleeves.copy()
        twin._bars = {symbol: rows.copy() for symbol, rows in self._bars.items()}
        twin._plots = self._plots.copy()
        twin._curve = self._curve.copy()
        tables = (
            "_headlines _fills _activities _day_open _closed _symbol_versions _signals _predictions _orders"
        )
        for name in tables.split():
            setattr(twin, name, getattr(self, name).copy())
        return twin
