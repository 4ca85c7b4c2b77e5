"""The deterministic core: live, replay and verification all call `Engine.handle(event)`.

    features -> signals -> fusion -> strategy -> risk -> orders -> exchange -> portfolio -> decisions

The engine reads no clock, draws no randomness and does no I/O: its time is `available_at` of the event that
it handles.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from decimal import Decimal
from hashlib import blake2b
from math import isfinite
from typing import Any, Final

import msgspec

from agent.core.bar_block import BarBlock
from agent.core.bar_history import Row, SymbolHistory
from agent.core.errors import ConfigError
from agent.core.events import (
    MINUTE_MS,
    AccountSnapshot,
    Command,
    Decision,
    Event,
    Fill,
    FillKind,
    Funding,
    FundingSettlement,
    Gap,
    Kline,
    News,
    Notice,
    OrderUpdate,
    PastBars,
    RiskEvent,
    RiskState,
    Sentiment,
)
from agent.core.exchange import (
    ID_PREFIX,
    ExchangeFactory,
    MatchingExchange,
    ReportingExchange,
    client_order_id,
    run_prefix,
)
from agent.core.flatten import BARS, Flattener
from agent.core.fusion_inputs import FusionInputs, Predictor
from agent.core.instruments import instrument_for
from agent.core.market import InstrumentState, MarketView
from agent.core.paper import PaperExchange
from agent.core.plots import PlotRecorder
from agent.core.portfolio import Portfolio
from agent.core.risk import SHORT_HISTORY, TAKEN_ID, RiskManager
from agent.core.settings import CoreConfig
from agent.core.signals import SignalEngine
from agent.core.sinks import DecisionSink
from agent.core.strategy import MAX_NOTICE, Market, Strategy
from agent.core.strategy_guard import StrategyGuard
from agent.core.strategy_version import StrategyLoader, bars_needed, change_of, no_loader
from agent.core.symbols import SymbolMapper
from agent.core.target import Target
from agent.core.target_orders import TargetOrders
from agent.core.warm_up import declared_intervals

CORE: Final = "core"
CORE_REVISION: Final = "2"
"""Key and value in `Run.versions`. The revision changes if the core decides differently on the same input; a
run without one has revision 1."""

EQUITY_BLOCK: Final = 4_096
"""Equity samples per call of the sink in replays."""

_FEE: Final = FillKind.FEE

_Bar = tuple[str, int, int, int, int, float, float, float, float, float, float, bool]
"""The fields of a `Kline`, in order."""


class Engine:
    """Handles events in their total order and emits decisions.

    `sink` receives every decision in order. `counts` counts ignored inputs by reason. With `contain_errors`
    an error of the strategy stops the strategy instead of leaving `handle`. `loader` creates the strategies
    of commands `use-strategy`; what it raises leaves `handle`. `front` is an engine of the same stream and
    configuration whose features, bars and signals this one reads instead of computing its own;
    `agent.core.lockstep` then passes the events. Raises what `strategy.on_start` raises.
    """

    def __init__(
        self,
        config: CoreConfig,
        strategy: Strategy,
        sink: DecisionSink,
        *,
        run_id: str,
        exchange: ExchangeFactory = PaperExchange,
        predictor: Predictor | None = None,
        equity_block: int = EQUITY_BLOCK,
        contain_errors: bool = False,
        loader: StrategyLoader = no_loader,
        front: Engine | None = None,
    ) -> None:
        symbols = tuple(sorted(config.market.symbols))
        instruments = {symbol: instrument_for(symbol, config) for symbol in symbols}
        self.counts: Counter[str] = Counter()
        self.portfolio = Portfolio(config.account.initial_capital, symbols)
        self.risk = RiskManager(config.risk, self._decide)
        self.exchange = exchange(config, instruments, self.portfolio, self._on_execution, self._new_id)
        self.exchange.counts = self.counts
        self.exchange.run_prefix = run_prefix(run_id)
        matching = self.exchange if isinstance(self.exchange, MatchingExchange) else None
        venue = self.exchange if isinstance(self.exchange, ReportingExchange) else None
        self._matching: MatchingExchange | None = matching
        self._venue: ReportingExchange | None = venue
        self.risk.set_reconciled(venue is None)
        self.signals: SignalEngine = _signals(config) if front is None else front.signals
        self.states = {
            symbol: InstrumentState(
                instruments[symbol],
                config.market,
                self.portfolio.positions[symbol],
                self.exchange.books[symbol],
            )
            for symbol in symbols
        }
        patience = BARS * config.market.interval
        if venue is not None:
            patience = min(patience, MINUTE_MS)
        self.flattener = Flattener(
            self.states, self.exchange, self.risk, self._decide, self._new_id, patience
        )
        self._predicts = predictor is not None
        if front is not None:
            for symbol, state in self.states.items():
                state.share(front.states[symbol], self.counts)
        elif predictor is not None:
            for symbol, state in self.states.items():
                state.fusion_inputs = FusionInputs(symbol, predictor, config.market.interval)
        self.market = MarketView(self.states, self.portfolio, self.signals, self.risk)
        self._orders = TargetOrders(
            self.portfolio,
            self.risk,
            self.exchange,
            self.market,
            self.counts,
            self._decide,
            self._new_id,
            band=config.paper.rebalance_band,
        )
        self._collecting = False  # keeping the run's bars until the next strategy is used
        # by symbol and interval (ms): bars of the past, and those that came since `strategy-history`
        self._past: dict[str, dict[int, list[Row]]] = {}
        self.version: dict[str, str] = {}  # arguments of the last `use-strategy`; empty before the first
        self.version_since = 0  # UTC ms
        self._loader = loader
        self._contain_errors = contain_errors
        self._settings = config.market
        self._sink = sink
        self._run_id = run_id
        # identifies the current life of a live run; empty in replays and in runs recorded without one
        self._incarnation = ""
        self._discounts_transfers = False  # early lives took deposits and withdrawals for profit and loss
        self._ids = 0
        self._on_stale = config.risk.on_stale
        self._on_drawdown = config.risk.on_max_drawdown
        self._equity_block = equity_block  # samples per call of the sink
        self._sample_ts: list[int] = []
        self._sample_equity: list[float] = []
        self._sample_cash: list[float] = []
        self._sample_exposure: list[float] = []
        self._period = 0  # available_at of the bars being handled; the account is checked when it ends
        self._margined = config.market.category == "linear"
        self._fills_at_close = config.paper.fill == "close"
        self._shares = front is not None
        self._fields_of: Callable[[Kline], _Bar] = msgspec.structs.astuple
        self._kline = Kline  # an attribute is faster in compiled code than a module's global
        self._handlers: dict[type, Callable[[Any], None]] = {
            News: self._on_news,
            Sentiment: self._on_sentiment,
            Funding: self._on_funding,
            Gap: self._on_gap,
            Command: self._on_command,
            OrderUpdate: self._on_update,
            Fill: self._on_fill,
            FundingSettlement: self._on_settlement,
            AccountSnapshot: self._on_account,
            PastBars: self._on_past_bars,
        }
        self._plots = PlotRecorder(self.market, self.risk, self.counts, self._decide)
        self._bind(strategy)
        strategy.on_start(self.market)
        self._act()

    def _bind(self, strategy: Strategy) -> None:
        """Make `strategy` receive the callbacks and set the targets."""
        self.strategy = strategy
        self.guard: StrategyGuard | None = StrategyGuard(strategy) if self._contain_errors else None
        self._callbacks: Strategy = strategy if self.guard is None else self.guard  # receives the callbacks
        self._targets = strategy.targets  # the strategy's own list; the engine empties it
        self._keep_bars(strategy)
        self.route_bars()
        self._wants_sentiment = strategy.wants("on_sentiment")
        self._reads_features = strategy.reads_features
        self._lets_pass = strategy.lets_bars_pass() and self.guard is None
        self.market.serves_features = strategy.reads_features
        strategy.attach(self.market, self._plots)
        strategy._on_notice = self._on_notice

    def _keep_bars(self, strategy: Strategy) -> None:
        """Keep the histories of bars that the strategy declares, beginning with the bars at hand.

        An engine with a front reads the histories of that.
        """
        if self._shares:
            return
        market = self._settings
        needed = {name: int(bars) for name, bars in bars_needed(self.version).items() if bars.isdecimal()}
        intervals = declared_intervals(strategy, market.interval, calendar=market.calendar_bars)
        wanted = strategy.overrides("on_bar")
        for symbol, state in self.states.items():
            earlier, state.history = state.history, None
            if intervals:
                always_open = state.instrument.trades_around_the_clock
                state.history = SymbolHistory(
                    symbol, market.interval, intervals, self.counts, always_open=always_open, collect=wanted
                )
                if earlier is not None or self._past:
                    state.history.continue_from(earlier, self._past.get(symbol, {}), needed)

    def route_bars(self) -> None:
        """Choose what a closed bar calls, so that a strategy pays nothing for what it doesn't use."""
        self._call_on_kline = self._callbacks.on_kline
        self._wants_klines = self.strategy.wants("on_kline")
        if self.strategy.overrides("on_bar"):
            self._call_on_kline, self._wants_klines = self._call_on_bars, True
        self._forward = self._call_on_kline
        if self._collecting:
            self._call_on_kline, self._wants_klines = self._collect_bar, True

    def _collect(self, *, collecting: bool) -> None:
        """Begin or end keeping the run's bars for the next strategy; forget those that were kept."""
        self._past = {}
        self._collecting = collecting
        self.route_bars()

    def _collect_bar(self, kline: Kline, market: Market) -> None:
        """Keep a closed bar for the next strategy, and pass it on."""
        row = (kline.start, kline.open, kline.high, kline.low, kline.close, kline.volume)
        self._past.setdefault(kline.symbol, {}).setdefault(kline.interval, []).append(row)
        self._forward(kline, market)

    def _on_past_bars(self, past: PastBars) -> None:
        self._advance(past.available_at)
        state = self.states.get(past.symbol)
        if state is None or not self._collecting:
            self.counts["past bars that no strategy waits for"] += len(past.bars)
            return
        rows = self._past.setdefault(past.symbol, {}).setdefault(past.interval, [])
        rows += [row for row in past.bars if row[0] <= state.last_start]

    def _call_on_bars(self, kline: Kline, market: Market) -> None:
        """Pass a closed bar, and the bars of the declared intervals that it closes, to the strategy."""
        self._callbacks.on_kline(kline, market)
        history = self.states[kline.symbol].history
        if history is not None:
            for bar in history.closed:
                self._callbacks.on_bar(bar, market)

    def handle(self, event: Event) -> None:
        """Handle one event. Events must come in order of (`available_at`, kind, source, sequence)."""
        if type(event) is self._kline:
            self._on_kline(event)
        else:
            self._handlers[type(event)](event)

    def use_strategy(self, command: Command) -> None:
        """Replace the strategy as the command `use-strategy` states, and record the change.

        Working entries are cancelled. Positions are kept, or closed with `flatten`; protection and orders
        that only reduce stay. The new strategy has no state, but the bars at hand. The risk state stays:
        after a halt an operator resumes. Raises what the loader raises; then nothing has changed.
        """
        now = self.market.now
        strategy = self._loader(command.args)
        change = change_of(command, now)
        self.strategy._on_notice = None
        self._targets.clear()
        self._orders.waiting.clear()
        failure = "" if self.guard is None else self.guard.failure
        self.version, self.version_since = dict(command.args), now
        self._bind(strategy)
        self._collect(collecting=False)
        if self.guard is not None:
            self.guard.inherit(failure)
        self._decide(change)
        self._cancel_entries("strategy replaced")
        if change.flatten:
            self._flatten(self.states, "strategy replaced")
        self.market.subject = ""
        self._callbacks.on_start(self.market)

    def adopt(self, version: dict[str, str]) -> None:
        """Use the strategy of an earlier `use-strategy`, whose state will be restored, and decide nothing.

        Raises what the loader and `on_start` raise.
        """
        strategy = self._loader(version)
        self.strategy._on_notice = None
        self.version = version
        self._bind(strategy)
        warming_up = self.risk.warming_up
        self.risk.set_warming_up(True)  # neither plots nor notices are recorded
        self._callbacks.on_start(self.market)
        self.risk.set_warming_up(warming_up)
        strategy.targets.clear()

    def is_stale(self, symbol: str, now: int) -> bool:
        """Return whether a heartbeat at `now` (UTC ms) would find the symbol's data stale."""
        return self.risk.is_stale(self.states[symbol].overdue(now))

    @property
    def collects(self) -> bool:
        """True while bars are kept for the strategy that `use-strategy` is about to bring."""
        return self._collecting

    @property
    def failures(self) -> dict[str, str]:
        """The error of the strategy that has yet to be reported, under the name of no sleeve."""
        return {"": self.guard.failure} if self.guard is not None and self.guard.failure else {}

    def outdated(self, now: int) -> set[str]:
        """Return the symbols whose staleness a heartbeat at `now` (UTC ms) would change."""
        return {s for s in self.states if self.is_stale(s, now) is not (s in self.risk.stale)}

    def is_heartbeat_due(self, now: int) -> bool:
        """Return whether a heartbeat at `now` (UTC ms) would advance the closing of a position."""
        return self.flattener.due(now)

    def close_positions(self, reason: str) -> None:
        """Close all positions, and ignore targets until they are flat."""
        self._orders.waiting.clear()
        self._targets.clear()
        self.flattener.begin(self.states, self.market.now, reason)

    def transfer(self, amount: Decimal) -> None:
        """Book a deposit (negative: a withdrawal) on paper, as an account snapshot does at a venue."""
        self.portfolio.transfer(amount)
        self._discount(amount)

    def _discount(self, transferred: Decimal) -> None:
        """Keep a deposit or a withdrawal out of the limits of loss."""
        if self._discounts_transfers:
            self.risk.on_transfer(float(transferred))

    def after_cross(self) -> None:
        """Act on fills that the exchange has booked between two events."""
        if self.flattener.pursuits:
            self.flattener.pursue(self.market.now)
        self._act()

    def finish(self) -> None:
        """Close the last bar period. Raises ReconciliationError if the ledger does not add up."""
        if self._matching is not None:
            for stamps in self._matching.held_funding.values():  # no bar came that contains them
                for funding in stamps:
                    self._matching.on_funding(funding)
            self._matching.held_funding.clear()
        if self._period:
            self._close_period()
        self.flush_samples()
        self.portfolio.reconcile()

    # -- inputs -----------------------------------------------------------------------------------------

    def _on_kline(self, kline: Kline) -> None:
        state = self.states.get(kline.symbol)
        if state is None:
            self.counts["klines of other symbols"] += 1
            return
        # One call unpacks the bar: compiled code reads a struct's fields one by one more slowly
        fields = self._fields_of(kline)
        _, interval, start, closed, now, opened, high, low, close, volume, _, confirm = fields
        if (start != state.next_start or interval != state.interval) and not self._fits(state, kline):
            return
        if now > self._period:
            if self._period:
                self._close_period()
            self._period = now
        if not confirm:
            self._advance(now)
            self.meet_open_bar(state, kline)
            return
        self.on_closed_bar(state, kline, None, 0, start, closed, now, opened, high, low, close, volume)

    def on_closed_bar(
        self,
        state: InstrumentState,
        kline: Kline | None,
        block: BarBlock | None,
        row: int,
        start: int,
        closed: int,
        now: int,
        opened: float,
        high: float,
        low: float,
        close: float,
        volume: float,
    ) -> None:
        """Handle a closed bar that fits its symbol's, once the account of earlier bars has been checked.

        Without the event, `kline`, the bar is at `row` of `block`, which makes the event if it is needed.
        """
        if now > self.market.now:
            self.market.now = now
        state.last_start = start
        state.next_start = closed
        if block is None or not self._only_moves_mark(state, now, high, low, close):
            self.meet_bar(state, _event(kline, block, row), now, opened, high, low, close)
        if block is None:
            state.tracker.advance(start, high, low, close, volume)
        elif self._reads_features:
            state.tracker.add(start, high, low, close, volume)
        elif state.tracker.first_start < 0:
            state.tracker.first_start = start
        if state.history is not None:
            state.history.add(start, closed, opened, high, low, close, volume)
        if now >= self.signals.next_expiry:
            self._expire_signals(now)
        if state.fusion_inputs is not None and state.fusion_inputs.on_bar(start, high, low, close, volume):
            self._predict(state, now)
        if self._wants_klines:
            self.market.subject = state.instrument.symbol
            self._call_on_kline(_event(kline, block, row), self.market)
        if self._targets:
            self._act()
            if self._fills_at_close and self._matching is not None:
                self._matching.at_close(_event(kline, block, row))

    def _only_moves_mark(
        self, state: InstrumentState, now: int, high: float, low: float, close: float
    ) -> bool:
        """Let the position meet a closed bar, unless it meets an order, an expiry, a funding stamp, a pursuit
        or the liquidation price; return whether it did.
        """
        matching = self._matching
        if matching is None or state.book or matching.held_funding or self.flattener.pursuits:
            return False
        if now >= self.exchange.next_expiry:
            return False
        position = state.position
        position.mark = close
        if position.size and self._margined:
            price = matching.liquidation_price(position)
            return not (low <= price if position.size > 0.0 else high >= price)
        return True

    def meet_open_bar(self, state: InstrumentState, kline: Kline) -> None:
        """Let orders and pursuits meet the last price of an open bar."""
        state.position.mark = kline.close
        if state.book and self._matching is not None:
            self._matching.on_price(kline)
        if kline.available_at >= self.exchange.next_expiry:
            self.exchange.expire(kline.available_at)
        if self.flattener.pursuits:
            self.flattener.pursue(self.market.now)
        self._act()

    def meet_bar(
        self,
        state: InstrumentState,
        kline: Kline,
        now: int,
        opened: float,
        high: float,
        low: float,
        close: float,
    ) -> None:
        """Let orders, position and pursuits meet a closed bar, which no feature has seen yet."""
        matching = self._matching
        worst_long, worst_short, first = low, high, opened
        if matching is not None and (state.book or matching.held_funding):
            matching.on_kline(kline)
            worst_long = worst_short = first = close  # the exchange has checked margin over the bar's range
        elif matching is None and state.book and self._venue is not None:
            self._venue.on_bar(kline)
        if now >= self.exchange.next_expiry:
            self.exchange.expire(now)
        position = state.position
        position.mark = close
        if position.size and self._margined and matching is not None:
            price = matching.liquidation_price(position)
            if (worst_long <= price) if position.size > 0.0 else (worst_short >= price):
                matching.liquidate(kline, price, first)
        if self.flattener.pursuits:
            self.flattener.pursue(self.market.now)

    def _fits(self, state: InstrumentState, kline: Kline) -> bool:
        """Return whether to use a bar other than the expected next one: the first bar, or one after a gap."""
        if kline.interval != state.interval:
            if not self._takes_higher(state, kline):
                self.counts["klines of other intervals"] += 1
            return False
        if kline.start < state.next_start:
            same = kline.start == state.last_start
            self.counts["duplicate klines" if same and kline.confirm else "late klines"] += 1
            return False
        # An open bar proves no gap: the close of the bar before may arrive after its first update
        if kline.confirm and state.next_start >= 0 and state.instrument.trades_around_the_clock:
            self.counts["gaps"] += 1
            state.start_anew()
        return True

    def _takes_higher(self, state: InstrumentState, kline: Kline) -> bool:
        """Add a closed bar of a declared higher interval, read from the venue for the warm-up; return whether
        it continues the history.
        """
        history, start = state.history, kline.start
        if history is None or not kline.confirm or not history.takes(kline.interval, start):
            return False
        history.add_higher(
            kline.interval, start, kline.open, kline.high, kline.low, kline.close, kline.volume
        )
        return True

    def _on_gap(self, gap: Gap) -> None:
        state = self.states.get(gap.symbol)
        if state is not None and state.next_start >= 0 and gap.end > state.next_start:
            self.counts["gaps"] += 1
            state.start_anew()
            state.next_start = gap.end

    def _on_news(self, news: News) -> None:
        self._advance(news.available_at)
        headline = self.signals.on_news(news)
        self._sink.news(news, headline.symbols, headline.story)
        self.market.subject = ""
        self._callbacks.on_news(news, self.market)
        self._act()

    def _on_sentiment(self, sentiment: Sentiment) -> None:
        now = sentiment.available_at
        if now > self.market.now:
            self.market.now = now
        if now >= self.signals.next_expiry:
            self._expire_signals(now)
        self._sink.sentiment(sentiment)
        # before `on_sentiment` forgets the headline
        affected = self.signals.affected_symbols(sentiment) if self._predicts else ()
        revises = self.signals.is_revision(sentiment)
        signals = self.signals.on_sentiment(sentiment)
        if self.signals.abstained:
            self.risk.on_abstain_rate(now, self.signals.abstain_rate)
        self.market.subject = ""
        if self._wants_sentiment:
            self._callbacks.on_sentiment(sentiment, self.market)
        for signal in signals:
            self._decide(signal)
            self.market.subject = signal.symbol
            self._callbacks.on_signal(signal, self.market)
        if revises and now >= self.signals.next_expiry:  # a withdrawn vote may end a signal
            self._expire_signals(now)
        for symbol in affected:
            self._ask_fusion_model(symbol, sentiment)
        if self._targets:
            self._act()

    def _ask_fusion_model(self, symbol: str, sentiment: Sentiment) -> None:
        """Give the headline to the symbol's fusion inputs, and predict."""
        state = self.states.get(symbol)
        if state is None or state.fusion_inputs is None:
            return
        now = self.market.now
        if not state.fusion_inputs.on_headline(sentiment, now):
            self.counts["headlines that the fusion model can't read"] += 1
        elif state.fusion_inputs.features.warm:
            self._predict(state, now)

    def _predict(self, state: InstrumentState, now: int) -> None:
        if state.fusion_inputs is not None:
            prediction = state.fusion_inputs.predict(now)
            if not isfinite(prediction.down + prediction.flat + prediction.up + prediction.move):
                self.counts["predictions that are not finite"] += 1
                return
            state.prediction = prediction
            self._decide(prediction)
            self.market.subject = prediction.symbol
            self._callbacks.on_prediction(prediction, self.market)

    def _on_funding(self, funding: Funding) -> None:
        state = self.states.get(funding.symbol)
        matching = self._matching
        if not self._margined or state is None or matching is None:
            return
        # Strictly inside a bar that has not come yet: only that bar shows what was held at the stamp
        if funding.available_at == funding.ts and state.contains(funding.ts):
            matching.held_funding.setdefault(funding.symbol, []).append(funding)
            return
        self._advance(funding.available_at)
        matching.on_funding(funding)

    def _on_update(self, update: OrderUpdate) -> None:
        self._advance(update.available_at)
        if self._venue is None or not self._venue.on_update(update):
            self.counts["order updates that say nothing new"] += 1
        self._pursue_waiting(update.symbol)
        self.flattener.pursue(self.market.now)
        self._act()

    def _on_fill(self, fill: Fill) -> None:
        self._advance(fill.available_at)
        if self._venue is None or not self._venue.on_fill(fill):
            self.counts["duplicate fills"] += 1
        self._pursue_waiting(fill.symbol)
        self.flattener.pursue(self.market.now)
        self._act()

    def _on_settlement(self, settlement: FundingSettlement) -> None:
        self._advance(settlement.available_at)
        if self._venue is None or not self._venue.on_settlement(settlement):
            self.counts["duplicate settlements"] += 1

    def _on_account(self, account: AccountSnapshot) -> None:
        self._advance(account.available_at)
        before = self.portfolio.initial
        drift = self._venue.on_account(account) if self._venue is not None else ""
        self._discount(self.portfolio.initial - before)
        self.risk.on_drift(self.market.now, drift)
        if not drift:
            self.risk.set_reconciled(True)
        self.flattener.pursue(self.market.now)
        self._act()

    def _on_command(self, command: Command) -> None:
        self._advance(command.available_at)
        now = self.market.now
        match command.action:
            case "resume":
                venue = self._venue
                accepts = venue is not None and (self.risk.rule == "drift" or venue.unaccepted)
                self.risk.command(now, RiskState.ACTIVE, command.by, confirm=command.args.get("confirm", ""))
                if not self.risk.halted:
                    self.flattener.end()
                    if self.guard is not None:
                        self.guard.resume()
                    if venue is not None and accepts:
                        venue.accept()
            case "pause":
                self.risk.command(now, RiskState.REDUCING, command.by)
            case "halt":
                self.risk.command(now, RiskState.HALTED, command.by)
            case "kill":
                reason = command.args.get("reason", "")
                self.risk.kill(now, f"{command.by}: {reason}" if reason else command.by)
                self._orders.waiting.clear()
                for state in self.states.values():
                    self.exchange.cancel(
                        [w for w in state.book if not self.flattener.is_own(w)], now, "killed"
                    )
            case "flatten":
                pass
            case "heartbeat":
                if now >= self.exchange.next_expiry:
                    self.exchange.expire(now)
                self._check_stale_data(now)
                self.flattener.pursue(now)
            case "life":
                self._incarnation = command.args.get("incarnation", "")
                self.exchange.states_cash = command.states_cash
                self._discounts_transfers = command.discounts_transfers
                self._collect(collecting=False)
                return
            case "strategy-history":
                self._collect(collecting=True)
                return
            case "older-record":
                if self._venue is not None:
                    self._venue.on_older_record()
                self.risk.on_older_record(now, command.args.get("detail", ""))
            case "taken-id":
                self._on_taken_id(command, now)
            case "warm-up" | "warm-up-done":
                self.risk.set_warming_up(command.action == "warm-up")
                if command.action == "warm-up-done":
                    self._note_short_histories(command.args, now)
                return
            case "reconciling":
                self.risk.set_reconciled(self._venue is None)
                return
            case "strategy-error":
                if self.guard is not None:
                    self.guard.stop()
                self._targets.clear()
                self._orders.waiting.clear()
                self.risk.on_strategy_error(now, command.args.get("detail", ""))
            case "use-strategy":
                self.use_strategy(command)
                self._note_short_histories(bars_needed(command.args), now)
                self._act()
                return
            case "alarm":
                alarm = command.args
                self.risk.note(now, alarm.get("rule", ""), alarm.get("detail", ""), alarm.get("symbol", ""))
                return
            case "record-behind":
                if self._venue is not None:
                    self._venue.unaccepted = True
                    self.risk.on_older_record(now, command.args.get("detail", ""))
                    self._cancel_entries("older record")  # their cancels may be among what the store lost
            case (
                "use-model"
                | "model-in-use"
                | "model-refused"
                | "strategy-refused"
                | "revision-given-up"
                | "stop"
                | "emergency-kill"
            ):
                return  # for the shell; journalled so that a reader sees when
            case _:
                self.counts["unknown commands"] += 1
                return
        if command.action == "flatten" or command.args.get("flatten") == "true":
            symbols = self._symbols_to_close(command)
            self._targets[:] = [target for target in self._targets if target.symbol not in symbols]
            if command.args.get("pursue") == "true":
                self.flattener.begin(symbols, now, "flatten")
            else:
                self._flatten(symbols, "flatten")
        self._act()

    def _symbols_to_close(self, command: Command) -> list[str]:
        """Return the symbols whose positions a command closes: of a flatten that names one, only that."""
        wanted = command.args.get("symbol", "") if command.action == "flatten" else ""
        return [symbol for symbol in self.states if wanted in ("", symbol)]

    def _note_short_histories(self, needed: dict[str, str], now: int) -> None:
        """Record which symbols have fewer bars than `needed`, the numbers of bars by interval."""
        for symbol, detail in self.short_histories(needed):
            self.risk.note(now, SHORT_HISTORY, detail, symbol)

    def short_histories(self, needed: dict[str, str]) -> list[tuple[str, str]]:
        """Return the symbols that have fewer bars than `needed`, the numbers of bars by interval, and how
        many are at hand.
        """
        short = []
        for symbol, state in self.states.items() if needed else ():
            for interval, bars in needed.items():
                series = None if state.history is None else state.history.series.get(interval)
                if series is not None and bars.isdecimal() and series.count < int(bars):
                    detail = f"{series.count} of {bars} bars of {interval} are at hand for the warm-up"
                    short.append((symbol, detail))
        return short

    def _flatten(self, symbols: Iterable[str], reason: str) -> None:
        """Close positions until they are flat.

        In runs recorded without lives only a kill did so; a flatten set targets instead, which is kept for
        them.
        """
        if self._incarnation or self.risk.killed:
            for symbol in symbols:
                self._orders.waiting.pop(symbol, None)
            self.flattener.begin(symbols, self.market.now, reason)
        else:
            self._targets += [Target(symbol, 0.0, reason=reason) for symbol in symbols]

    def _on_taken_id(self, command: Command, now: int) -> None:
        """End an order whose id another order has at the venue; place it again if it closes a position."""
        symbol, detail = command.args.get("symbol", ""), command.args.get("detail", "")
        order, venue = command.args.get("order", ""), self._venue
        if venue is not None and symbol in self.states and venue.reissue(order, now, detail):
            self._decide(RiskEvent(now, self.risk.state, TAKEN_ID, detail, symbol))
            self._pursue_waiting(symbol)
            self.flattener.pursue(now)
        else:
            self.counts["taken ids of orders that had ended"] += 1

    def _check_stale_data(self, now: int) -> None:
        """Check every symbol's data at a heartbeat, which brings the time alone."""
        if self.risk.warming_up:
            return
        for symbol, state in self.states.items():
            if not self.risk.on_stale_check(now, symbol, state.overdue(now)):
                continue
            if self._on_stale != "hold":
                self.exchange.cancel([w for w in state.book if not w.order.reduce_only], now, "stale data")
            if self._on_stale == "flatten":
                self._flatten([symbol], "stale data")

    def _advance(self, now: int) -> None:
        """Advance the core's time; it never runs backwards, so a late event happens now."""
        if now > self.market.now:
            self.market.now = now

    def _expire_signals(self, now: int) -> None:
        for signal in self.signals.pop_expired(now):
            self._decide(signal)
            self.market.subject = signal.symbol
            self._callbacks.on_signal_expired(signal, self.market)

    # -- account ----------------------------------------------------------------------------------------

    def check_period(self) -> None:
        """Check the account once all bars of one moment are in, without a sample."""
        self._check_limits(self.portfolio.equity())

    def _check_limits(self, equity: float) -> None:
        """Check the equity at the end of the bar period, unless it can't have reached a limit."""
        risk = self.risk
        if equity > risk.ceiling or equity <= risk.floor or self._period >= risk.next_day:
            self.check_equity(self._period, equity)

    def _close_period(self) -> None:
        """Check the account once all bars of one moment are in, and keep a sample."""
        portfolio = self.portfolio
        equity = cash = portfolio.cash_float
        gross = 0.0
        for position in portfolio.open:
            value = position.size * position.mark
            equity += value
            gross += value if value > 0 else -value
        self._check_limits(equity)
        self._sample_ts.append(self._period)
        self._sample_equity.append(equity)
        self._sample_cash.append(cash)
        self._sample_exposure.append(gross)
        if len(self._sample_ts) >= self._equity_block:
            self.flush_samples()

    def check_equity(self, ts: int, equity: float) -> None:
        """Apply the limits of loss and drawdown to the equity at the end of the bar period `ts`."""
        risk = self.risk
        halted = risk.halted
        risk.on_equity(ts, equity)
        if risk.halted:
            self._cancel_entries("halted")
            if not halted and self._on_drawdown == "flatten":
                self.close_positions("max_drawdown")

    def flush_samples(self) -> None:
        """Pass the samples so far to the sink."""
        if not self._sample_ts:
            return
        self._sink.equity(self._sample_ts, self._sample_equity, self._sample_cash, self._sample_exposure)
        self._sample_ts, self._sample_equity, self._sample_cash, self._sample_exposure = [], [], [], []

    def _cancel_entries(self, reason: str) -> None:
        for state in self.states.values():
            if state.book:
                self.exchange.cancel(
                    [w for w in state.book if not w.order.reduce_only], self.market.now, reason
                )

    # -- decisions --------------------------------------------------------------------------------------

    def _decide(self, decision: Decision) -> None:
        self._sink.decision(decision)

    def _on_execution(self, decision: Decision) -> None:
        """Record a report of the exchange, and pass fills to the strategy."""
        self._sink.decision(decision)
        if isinstance(decision, Fill) and decision.kind is not _FEE:
            self.market.subject = decision.symbol
            self._callbacks.on_fill(decision, self.market)

    def _on_notice(self, level: str, text: str) -> None:
        """Record a message of the strategy to its operator, cut to one line of bounded length."""
        if self.risk.warming_up:
            self.counts["notices of the strategy about history"] += 1
            return
        line = " ".join(text[: 4 * MAX_NOTICE].split())
        if len(line) > MAX_NOTICE:
            line = line[: MAX_NOTICE - 1] + "…"
        self._decide(Notice(self.market.now, level, line))

    def _new_id(self) -> str:
        """Return the next client order id; in replays and early runs a hash of run and number alone."""
        self._ids += 1
        if not self._incarnation:
            return ID_PREFIX + blake2b(f"{self._run_id}:{self._ids}".encode(), digest_size=16).hexdigest()
        return client_order_id(self.exchange.run_prefix, self._run_id, self._incarnation, self._ids)

    def _act(self) -> None:
        """Turn the strategy's targets into orders; the last target of a symbol counts."""
        if self.risk.halted:
            self._cancel_entries("halted")
        if self.guard is not None and self.guard.stopped:
            self._targets.clear()  # a strategy that failed has not finished its targets
        if not self._targets:
            return
        targets = self._targets.copy()
        self._targets.clear()
        for target in targets if len(targets) == 1 else {t.symbol: t for t in targets}.values():
            if self.flattener.ignores(target.symbol, self.market.now):
                self.counts["targets ignored after a kill or flatten"] += 1
            else:
                self._pursue(target)

    def _pursue_waiting(self, symbol: str) -> None:
        """Pursue a waiting target once the orders that it replaces are gone."""
        target = self._orders.waiting.get(symbol)
        if target is not None and all(w.closes_position for w in self.states[symbol].book):
            self._targets.append(target)

    def _pursue(self, target: Target) -> None:
        state = self.states.get(target.symbol)
        if state is None:
            name = type(self.strategy).__name__
            problem = f"strategy {name} set a target for {target.symbol}, which is not traded"
            if self.guard is not None:
                self.guard.fail(problem)
                return
            raise ConfigError(problem, hint=f"market.symbols are {', '.join(self.states)}")
        self._orders.pursue(target, state)


def _event(kline: Kline | None, block: BarBlock | None, row: int) -> Kline:
    """Return the event of a bar, which is made if it is at `row` of a block."""
    if kline is not None:
        return kline
    if block is None:
        raise ValueError("a bar without its event is in a block")
    return block.kline(row)


def _signals(config: CoreConfig) -> SignalEngine:
    mapper = SymbolMapper(config.market.symbols, config.instruments, config.signals.macro_keywords)
    return SignalEngine(config.signals, mapper, abstain_window=config.risk.abstain_window)
