"""The deterministic core: `Engine.handle(event)` is all there is, live, in replay and in verification.

    features -> signals -> fusion -> strategy -> risk -> orders -> exchange (paper, or a venue's word) -> portfolio -> decisions

It reads no clock, draws no randomness and awaits nothing: its time is `available_at` of the event that it handles.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from hashlib import blake2b
from math import isfinite
from typing import Any, Final

import msgspec

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
    Order,
    OrderType,
    OrderUpdate,
    RiskEvent,
    RiskState,
    Sentiment,
    Side,
)
from agent.core.exchange import ID_PREFIX, ExchangeFactory, MatchingExchange, ReportingExchange, run_prefix
from agent.core.flatten import BARS, Flattener
from agent.core.fusion_inputs import FusionInputs, Predictor
from agent.core.instruments import instrument_for
from agent.core.market import InstrumentState, MarketView
from agent.core.paper import PaperExchange
from agent.core.portfolio import Portfolio
from agent.core.risk import TAKEN_ID, RiskManager
from agent.core.settings import CoreConfig
from agent.core.signals import SignalEngine
from agent.core.sinks import DecisionSink
from agent.core.sizing import limit_of, size, triggers
from agent.core.strategy import Strategy, Target
from agent.core.strategy_guard import StrategyGuard
from agent.core.symbols import SymbolMapper

CORE: Final = "core"
CORE_REVISION: Final = "2"
"""`Run.versions` has the revision of what the core decides on the same input, under this key; a run without one is of revision 1."""

EQUITY_BLOCK: Final = 4_096
"""Samples of equity that the sink gets at once in replays."""

_Bar = tuple[str, int, int, int, int, float, float, float, float, float, float, bool]
"""A kline's fields, in their order."""


class Engine:
    """Decides. `sink` hears of every decision in order; `counts` holds what was ignored, and why."""

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
    ) -> None:
        symbols = tuple(sorted(config.market.symbols))
        instruments = {symbol: instrument_for(symbol, config) for symbol in symbols}
        self.counts: Counter[str] = Counter()
        self.portfolio = Portfolio(config.account.initial_capital, symbols)
        self.risk = RiskManager(config.risk, self._decide)
        self.exchange = exchange(config, instruments, self.portfolio, self._on_execution, self._new_id)
        self.exchange.run_prefix = run_prefix(run_id)
        matching = self.exchange if isinstance(self.exchange, MatchingExchange) else None
        venue = self.exchange if isinstance(self.exchange, ReportingExchange) else None
        self._matching: MatchingExchange | None = matching
        self._venue: ReportingExchange | None = venue
        self.risk.unreconciled = venue is not None
        mapper = SymbolMapper(config.market.symbols, config.instruments, config.signals.macro_keywords)
        self.signals = SignalEngine(config.signals, mapper, abstain_window=config.risk.abstain_window)
        self.tapes = {
            symbol: InstrumentState(
                instruments[symbol],
                config.market.interval,
                self.portfolio.positions[symbol],
                self.exchange.books[symbol],
            )
            for symbol in symbols
        }
        patience = BARS * config.market.interval
        if venue is not None:
            patience = min(patience, MINUTE_MS)
        self.flattener = Flattener(self.tapes, self.exchange, self.risk, self._decide, self._new_id, patience)
        self._predicts = predictor is not None
        if predictor is not None:
            for symbol, tape in self.tapes.items():
                tape.fusion_inputs = FusionInputs(symbol, predictor, config.market.interval)
        self.market = MarketView(self.tapes, self.portfolio, self.signals, self.risk)
        self.strategy = strategy
        self.guard: StrategyGuard | None = StrategyGuard(strategy) if contain_errors else None
        self._told: Strategy = strategy if self.guard is None else self.guard  # receives the callbacks
        self._sink = sink
        self._band = config.paper.rebalance_band
        self._run_id = run_id
        # of the life that decides now; empty in replays, and in runs that recorded none
        self._incarnation = ""
        self._ids = 0
        self._on_stale = config.risk.on_stale
        self._equity_block = equity_block  # samples handed to the sink at once
        self._sample_ts: list[int] = []
        self._sample_equity: list[float] = []
        self._sample_cash: list[float] = []
        self._sample_exposure: list[float] = []
        self._period = 0  # available_at of the bars being handled; equity is looked at when it ends
        self._margined = config.market.category == "linear"
        self._fills_at_close = config.paper.fill == "close"
        # by symbol: targets that orders being taken back stand in the way of
        self._waiting: dict[str, Target] = {}
        self._targets = strategy.targets  # the strategy's own list, emptied in place
        self._tell_kline = self._told.on_kline
        self._hears_klines = strategy.overrides("on_kline")
        self._hears_sentiment = strategy.overrides("on_sentiment")
        self._fields_of: Callable[[Kline], _Bar] = msgspec.structs.astuple
        self._kline = Kline  # compiled code finds it faster here than among the module's names
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
        }
        strategy.on_start(self.market)
        self._act()

    def handle(self, event: Event) -> None:
        """Take one event in, in their total order (`available_at`, kind, source, number), and decide."""
        if type(event) is self._kline:
            self._on_kline(event)
        else:
            self._handlers[type(event)](event)

    def is_stale(self, symbol: str, now: int) -> bool:
        """Whether a heartbeat at `now` (UTC ms) would find the symbol's data stale."""
        return self.risk.is_stale(self.tapes[symbol].overdue(now))

    def finish(self) -> None:
        """Close the last bar period. Raises ReconciliationError where the ledger does not add up."""
        if self._matching is not None:
            for stamps in self._matching.held_funding.values():  # no bar has come that contains them
                for funding in stamps:
                    self._matching.on_funding(funding)
            self._matching.held_funding.clear()
        if self._period:
            self._close_period()
        if self._sample_ts:
            self._flush_samples()
        self.portfolio.reconcile()

    # -- inputs ------------------------------------------------------------------------------------------------------

    def _on_kline(self, kline: Kline) -> None:
        tape = self.tapes.get(kline.symbol)
        if tape is None:
            self.counts["klines of other symbols"] += 1
            return
        # One call takes the bar apart: reading a struct's fields one by one costs compiled code more
        _, interval, start, _, now, opened, high, low, close, volume, _, confirm = self._fields_of(kline)
        if (start != tape.next_start or interval != tape.interval) and not self._fits(tape, kline):
            return
        if now > self._period:
            if self._period:
                self._close_period()
            self._period = now
        if now > self.market.now:
            self.market.now = now
        matching = self._matching
        if not confirm:
            tape.position.mark = close
            if tape.book and matching is not None:
                matching.on_price(kline)
            if self.flattener.pursuits:
                self.flattener.pursue(self.market.now)
            self._act()
            return
        tape.last_start = start
        tape.next_start = start + interval
        worst_long, worst_short, first = low, high, opened
        if matching is not None and (tape.book or matching.held_funding):
            matching.on_kline(kline)
            worst_long = worst_short = first = close  # the exchange has held its range against the margin
        position = tape.position
        position.mark = close
        if position.size and self._margined and matching is not None:
            price = matching.liquidation_price(position)
            if (worst_long <= price) if position.size > 0.0 else (worst_short >= price):
                matching.liquidate(kline, price, first)
        if self.flattener.pursuits:
            self.flattener.pursue(self.market.now)
        tape.tracker.advance(start, high, low, close, volume)
        if now >= self.signals.next_expiry:
            self._fade(now)
        if tape.fusion_inputs is not None and tape.fusion_inputs.on_bar(start, high, low, close, volume):
            self._predict(tape, now)
        if self._hears_klines:
            self._tell_kline(kline, self.market)
        if self._targets:
            self._act()
            if self._fills_at_close and matching is not None:
                matching.at_close(kline)

    def _fits(self, tape: InstrumentState, kline: Kline) -> bool:
        """Whether a bar that isn't the expected next one may be used; the first is always, later ones mean a gap."""
        if kline.interval != tape.interval:
            self.counts["klines of other intervals"] += 1
            return False
        if kline.start < tape.next_start:
            same = kline.start == tape.last_start
            self.counts["duplicate klines" if same and kline.confirm else "late klines"] += 1
            return False
        # A running bar proves nothing yet: the close of the one before may come after its first update
        if kline.confirm and tape.next_start >= 0 and tape.instrument.trades_around_the_clock:
            self.counts["gaps"] += 1
            tape.start_anew()
        return True

    def _on_gap(self, gap: Gap) -> None:
        tape = self.tapes.get(gap.symbol)
        if tape is not None and tape.next_start >= 0 and gap.end > tape.next_start:
            self.counts["gaps"] += 1
            tape.start_anew()
            tape.next_start = gap.end

    def _on_news(self, news: News) -> None:
        self._advance(news.available_at)
        note = self.signals.on_news(news)
        self._sink.news(news, note.symbols, note.story)
        self._told.on_news(news, self.market)
        self._act()

    def _on_sentiment(self, sentiment: Sentiment) -> None:
        now = sentiment.available_at
        if now > self.market.now:
            self.market.now = now
        if now >= self.signals.next_expiry:
            self._fade(now)
        self._sink.sentiment(sentiment)
        # before the headline is done with
        concerned = self.signals.concerned(sentiment) if self._predicts else ()
        signals = self.signals.on_sentiment(sentiment)
        if self.signals.abstained:
            self.risk.on_abstain_rate(now, self.signals.abstain_rate)
        if self._hears_sentiment:
            self._told.on_sentiment(sentiment, self.market)
        for signal in signals:
            self._decide(signal)
            self._told.on_signal(signal, self.market)
        for symbol in concerned:
            self._read(symbol, sentiment)
        if self._targets:
            self._act()

    def _read(self, symbol: str, sentiment: Sentiment) -> None:
        """A headline is a reason to ask the fusion model."""
        tape = self.tapes.get(symbol)
        if tape is None or tape.fusion_inputs is None:
            return
        now = self.market.now
        if not tape.fusion_inputs.on_headline(sentiment, now):
            self.counts["headlines that the fusion model can't read"] += 1
        elif tape.fusion_inputs.features.warm:
            self._predict(tape, now)

    def _predict(self, tape: InstrumentState, now: int) -> None:
        if tape.fusion_inputs is not None:
            prediction = tape.fusion_inputs.predict(now)
            if not isfinite(prediction.down + prediction.flat + prediction.up + prediction.move):
                self.counts["predictions that are not finite"] += 1
                return
            tape.prediction = prediction
            self._decide(prediction)
            self._told.on_prediction(prediction, self.market)

    def _on_funding(self, funding: Funding) -> None:
        tape = self.tapes.get(funding.symbol)
        matching = self._matching
        if not self._margined or tape is None or matching is None:
            return
        if (
            funding.available_at == funding.ts > tape.next_start >= 0
            and (funding.ts - tape.next_start) % tape.interval
        ):
            # Strictly inside a bar that has yet to come: what is held then, only the bar shows
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
        drift = self._venue.on_account(account) if self._venue is not None else ""
        self.risk.on_drift(self.market.now, drift)
        if not drift:
            self.risk.unreconciled = False
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
                self._waiting.clear()
                for tape in self.tapes.values():
                    self.exchange.cancel(
                        [w for w in tape.book if not self.flattener.is_own(w)], now, "killed"
                    )
            case "flatten":
                pass
            case "heartbeat":
                self._look_for_silence(now)
                self.flattener.pursue(now)
            case "life":
                self._incarnation = command.args.get("incarnation", "")
                self.exchange.states_cash = command.states_cash
                return
            case "older-record":
                if self._venue is not None:
                    self._venue.on_older_record()
                self.risk.on_older_record(now, command.args.get("detail", ""))
            case "taken-id":
                self._on_taken_id(command, now)
            case "warm-up" | "warm-up-done":
                self.risk.warming = command.action == "warm-up"
                return
            case "reconciling":
                self.risk.unreconciled = self._venue is not None
                return
            case "strategy-error":
                if self.guard is not None:
                    self.guard.stop()
                self._targets.clear()
                self._waiting.clear()
                self.risk.on_strategy_error(now, command.args.get("detail", ""))
            case "alarm":
                alarm = command.args
                self.risk.note(now, alarm.get("rule", ""), alarm.get("detail", ""), alarm.get("symbol", ""))
                return
            case "record-behind":
                if self._venue is not None:
                    self._venue.unaccepted = True
                    self.risk.on_older_record(now, command.args.get("detail", ""))
                    self._cancel_entries("older record")  # perhaps they were taken back, and that is lost
            case "use-model" | "model-in-use" | "model-refused" | "stop" | "emergency-kill":
                return  # the rim's business; journalled so that a reader sees when
            case _:
                self.counts["unknown commands"] += 1
                return
        if command.action == "flatten" or command.args.get("flatten") == "true":
            self._targets.clear()
            self._flatten(self.tapes, "flatten")
        self._act()

    def _flatten(self, symbols: Iterable[str], reason: str) -> None:
        """Close positions until they are flat; in a run that recorded no lives only a kill did."""
        if self._incarnation or self.risk.killed:
            for symbol in symbols:
                self._waiting.pop(symbol, None)
            self.flattener.begin(symbols, self.market.now, reason)
        else:
            self._targets += [Target(symbol, 0.0, reason=reason) for symbol in symbols]

    def _on_taken_id(self, command: Command, now: int) -> None:
        """A venue knows an id as another order's: ours ends, and what closes a position goes out under a new id."""
        symbol, detail = command.args.get("symbol", ""), command.args.get("detail", "")
        order, venue = command.args.get("order", ""), self._venue
        if venue is not None and symbol in self.tapes and venue.reissue(order, now, detail):
            self._decide(RiskEvent(now, self.risk.state, TAKEN_ID, detail, symbol))
            self._pursue_waiting(symbol)
            self.flattener.pursue(now)
        else:
            self.counts["taken ids of orders that had ended"] += 1

    def _look_for_silence(self, now: int) -> None:
        """A heartbeat brings the time alone: what is overdue by now?"""
        if self.risk.warming:
            return
        for symbol, tape in self.tapes.items():
            if not self.risk.on_stale_check(now, symbol, tape.overdue(now)):
                continue
            if self._on_stale != "hold":
                self.exchange.cancel([w for w in tape.book if not w.order.reduce_only], now, "stale data")
            if self._on_stale == "flatten":
                self._flatten([symbol], "stale data")

    def _advance(self, now: int) -> None:
        """The core's time never runs backwards: an event that comes late happens now."""
        if now > self.market.now:
            self.market.now = now

    def _fade(self, now: int) -> None:
        for signal in self.signals.pop_expired(now):
            self._decide(signal)
            self._told.on_signal_expired(signal, self.market)

    # -- account -----------------------------------------------------------------------------------------------------

    def _close_period(self) -> None:
        """All bars of one moment are in: look at the account."""
        portfolio = self.portfolio
        equity = cash = portfolio.cash_float
        gross = 0.0
        for position in portfolio.open:
            value = position.size * position.mark
            equity += value
            gross += value if value > 0 else -value
        ts = self._period
        risk = self.risk
        if equity > risk.ceiling or equity <= risk.floor or ts >= risk.next_day:
            risk.on_equity(ts, equity)
            if risk.state is RiskState.HALTED:
                self._cancel_entries("halted")
        self._sample_ts.append(ts)
        self._sample_equity.append(equity)
        self._sample_cash.append(cash)
        self._sample_exposure.append(gross)
        if len(self._sample_ts) >= self._equity_block:
            self._flush_samples()

    def _flush_samples(self) -> None:
        self._sink.equity(self._sample_ts, self._sample_equity, self._sample_cash, self._sample_exposure)
        self._sample_ts, self._sample_equity, self._sample_cash, self._sample_exposure = [], [], [], []

    def _cancel_entries(self, reason: str) -> None:
        for tape in self.tapes.values():
            if tape.book:
                self.exchange.cancel(
                    [w for w in tape.book if not w.order.reduce_only], self.market.now, reason
                )

    # -- decisions ---------------------------------------------------------------------------------------------------

    def _decide(self, decision: Decision) -> None:
        self._sink.decision(decision)

    def _on_execution(self, decision: Decision) -> None:
        """What the exchange reports: recorded, and trades are told to the strategy."""
        self._sink.decision(decision)
        if isinstance(decision, Fill) and decision.kind is not FillKind.FEE:
            self._told.on_fill(decision, self.market)

    def _new_id(self) -> str:
        """Client order id, 35 characters: hash(run, incarnation, decision), so that no life uses an id of another one."""
        self._ids += 1
        if not self._incarnation:
            return ID_PREFIX + blake2b(f"{self._run_id}:{self._ids}".encode(), digest_size=16).hexdigest()
        name = f"{self._run_id}:{self._incarnation}:{self._ids}".encode()
        return self.exchange.run_prefix + blake2b(name, digest_size=12).hexdigest()

    def _act(self) -> None:
        """Turn the strategy's targets into orders; the latest word on a symbol holds."""
        if self.risk.state is RiskState.HALTED:
            self._cancel_entries("halted")
        if self.guard is not None and self.guard.stopped:
            self._targets.clear()  # what a strategy wanted before its error is not what it means
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
        """Once what stood in its way is gone, a target is pursued after all."""
        target = self._waiting.get(symbol)
        if target is not None and all(w.closes_position for w in self.tapes[symbol].book):
            self._targets.append(target)

    def _pursue(self, target: Target) -> None:
        tape = self.tapes.get(target.symbol)
        if tape is None:
            problem = f"strategy {type(self.strategy).__name__} set a target for {target.symbol}, which is not traded"
            if self.guard is not None:
                self.guard.fail(problem)
                return
            raise ConfigError(problem, hint=f"market.symbols are {', '.join(self.tapes)}")
        now = self.market.now
        self._waiting.pop(target.symbol, None)
        position = tape.position
        price = position.mark
        if price != price:
            self.counts["targets before the first bar"] += 1
            return
        equity = self.portfolio.equity()
        band = self._band
        entries = [w for w in tape.book if not w.closes_position] if tape.book else []
        if entries:
            coming = position.qty + sum(w.remaining * w.order.side.sign for w in entries)
            if size(target, tape.instrument, coming, price, equity, band) is None and all(
                w.limit == limit_of(target, tape.instrument, w.order.side) and not w.cancelling
                for w in entries
            ):
                self._move_protection(target, tape)
                return  # what is asked for is on its way
            self.exchange.cancel(entries, now, "replaced by a newer target")
            if entries[0] in tape.book:  # a venue has to take them back first, and may fill them yet
                self._waiting[target.symbol] = target
                return
        sized = size(target, tape.instrument, position.qty, price, equity, band)
        if sized is None:
            self._move_protection(target, tape)
            if target.weight and not position.qty:
                self._count_untradable(target, tape)
            return
        notional = float(sized.qty) * price
        after = abs(float(sized.position_after)) * price
        if not self.risk.allows(
            now, target.symbol, reduces=sized.reduces, notional=notional, position_after=after,
            gross_after=self.portfolio.gross_notional() - abs(position.size) * price + after, equity=equity, data_age=tape.overdue(now),
        ):  # fmt: skip
            self._move_protection(target, tape)
            return
        order = Order(
            self._new_id(), target.symbol, now, sized.side, OrderType.MARKET if sized.limit is None else OrderType.LIMIT, sized.qty,
            price=sized.limit, tif=target.tif, reduce_only=sized.reduces, stop=sized.stop, take_profit=sized.take_profit,
            reason=target.reason,
        )  # fmt: skip
        self._decide(order)
        self.exchange.submit(order, now)
        # else it attaches them itself
        if sized.reduces or not any(working.order is order for working in tape.book):
            self._move_protection(target, tape)

    def _move_protection(self, target: Target, tape: InstrumentState) -> None:
        """A target for what is held, or on its way, moves its stop and take-profit."""
        if (
            (target.stop is None and target.take_profit is None)
            or not target.weight
            or (not tape.book and not tape.position.qty)
        ):
            return
        if self.risk.warming or self.risk.unreconciled:
            return
        if self.risk.halted:
            self.counts["stops and take-profits that stay where they are while HALTED"] += 1
            return
        side = Side.BUY if target.weight > 0 else Side.SELL
        closing = Side.SELL if side is Side.BUY else Side.BUY
        stop, take_profit = triggers(target, tape.instrument, tape.position.mark, closing)
        self.exchange.protect(target.symbol, side, stop, take_profit, self.market.now)

    def _count_untradable(self, target: Target, tape: InstrumentState) -> None:
        """Count a target that led to no order although nothing is held."""
        rules = tape.instrument
        if target.weight < 0 and not rules.is_margined:
            self.counts[f"targets below 0 in {target.symbol}, which can't be sold short"] += 1
        elif self.portfolio.equity() > 0:
            self.counts[f"targets in {target.symbol} smaller than one lot, {rules.qty_step}"] += 1
