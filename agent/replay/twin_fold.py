"""The two ledgers of a twin, folded from one journal: the venue's as recorded, and the paper exchange's.

`OwnOrders` submits the orders of a venue run, at the time of their decisions, to a paper exchange that sees
the prices of the run's journal. It takes over the run's position in a symbol before each new order of the
strategy, because that order was decided from it; so a difference lasts until the next decision.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Iterable, Sequence
from decimal import Decimal
from itertools import pairwise
from typing import Final

import msgspec
from msgspec import UNSET

from agent.analysis.twin_parts import Cause, Handover, Move, OrderFacts, TwinFill
from agent.analysis.twin_report import FundingMove
from agent.config import Config
from agent.core.events import (
    Amend,
    Cancel,
    CashAdjustment,
    Decision,
    Event,
    Fill,
    FillKind,
    Funding,
    FundingPayment,
    Kline,
    Order,
    OrderStatus,
    OrderType,
    OrderUpdate,
    Side,
)
from agent.core.exchange import Report
from agent.core.fill_models import FillRules
from agent.core.instruments import instrument_for
from agent.core.paper import PaperExchange
from agent.core.portfolio import Portfolio
from agent.replay.twin_events import PaperFunding, is_strategys

_ZERO: Final = Decimal(0)
_HOLE: Final = 1.5
"""Bars without a streamed price that count as a hole."""

NO_BALANCE: Final = "insufficient balance"
NO_POSITION: Final = "reduce-only order, but there is no position to reduce"


class FollowedOrder:
    """An order of the run, and what became of it at the venue and on paper."""

    def __init__(self, order: Order, missing: Cause | None = None) -> None:
        self.order = order
        self.limit = order.price
        self.moves: list[Move] = []
        self.venue_filled = _ZERO
        self.reported = _ZERO  # filled, by the venue's last report
        self.status = OrderStatus.NEW  # at the venue
        self.paper_status = OrderStatus.NEW
        self.paper_reason = ""
        self.arrived = 0
        self.holes: list[tuple[int, int]] | None = None  # around its fills, once it is settled
        self._missing = missing

    @property
    def filled(self) -> tuple[int, int] | None:
        """Times of the first and the last fill on either side, UTC ms; None without any."""
        times = [move.ts for move in self.moves if isinstance(move, TwinFill)]
        return (min(times), max(times)) if times else None

    @property
    def ended(self) -> bool:
        """True if no more fills can come at the venue."""
        return self.status.final and self.venue_filled >= self.reported

    def facts(self) -> OrderFacts:
        order = self.order
        return OrderFacts(
            order.id,
            order.symbol,
            order.ts,
            order.side,
            order.type,
            order.qty,
            self.limit,
            self._missing or self._cause(),
            order.reason,
            self.status.value,
            self.paper_reason or self.paper_status.value,
            self.arrived,
        )

    def _cause(self) -> Cause:
        if OrderStatus.REJECTED in (self.status, self.paper_status) or self.paper_reason == NO_BALANCE:
            return "rejected"
        if self.paper_reason == NO_POSITION:
            return "positions"
        return "partial" if self.order.type is OrderType.MARKET else "limit"

    def held(self) -> Decimal:
        """Return the signed quantity that the venue has and the twin doesn't, since the last handover."""
        held = _ZERO
        for move in self.moves:
            if isinstance(move, Handover):
                held = _ZERO
            else:
                held += (1 if move.venue else -1) * move.side.sign * move.qty
        return held


class OwnOrders:
    """The run's own orders on paper, beside the venue's ledger."""

    def __init__(self, config: Config, initial: Decimal) -> None:
        symbols = config.market.symbols
        self.instruments = {symbol: instrument_for(symbol, config) for symbol in symbols}
        self.venue = Portfolio(initial, symbols)
        self.paper = Portfolio(initial, symbols)
        self.records: dict[str, FollowedOrder] = {}
        self.funding: list[FundingMove] = []
        self.prices: dict[str, list[tuple[int, float]]] = {symbol: [] for symbol in symbols}
        self.fresh: dict[str, list[int]] = {symbol: [] for symbol in symbols}
        self.ignored_bars = 0
        self.settled: list[FollowedOrder] = []  # orders that have ended, and whose market is known
        self._ended: dict[str, list[FollowedOrder]] = {symbol: [] for symbol in symbols}  # not yet settled
        self._config = config
        self._interval = config.market.interval
        self._margined = config.market.category == "linear"
        self._at_close = config.paper.fill == "close"
        self._rules = FillRules(config.paper)
        self._liquidations = 0
        self._exchange = PaperExchange(config, self.instruments, self.paper, self._on_report, self._new_id)
        self._next_start = dict.fromkeys(symbols, -1)
        self._open: dict[str, list[FollowedOrder]] = defaultdict(list)  # by symbol, since their last handover
        self._stamps = PaperFunding(config)
        self._seq = 0
        self._kline: Kline | None = None

    def handle(self, seq: int, event: Event, decisions: Sequence[Decision]) -> None:
        """Handle an event of the journal and the decisions that it led to."""
        self._seq = seq
        if isinstance(event, Kline):
            self._on_kline(event)
        elif isinstance(event, OrderUpdate):
            record = self.records.get(event.order_id)
            if record is not None and not record.arrived:
                record.arrived = event.ts
        elif isinstance(event, Funding):
            self._exchange.on_funding(event)
        for decision in decisions:
            self._follow(decision)
        if self._at_close and isinstance(event, Kline) and event.confirm and event.symbol in self.instruments:
            self._kline = event
            self._exchange.at_close(event)

    # -- the market -------------------------------------------------------------------------------------

    def _on_kline(self, kline: Kline) -> None:
        symbol = kline.symbol
        if symbol not in self.instruments or kline.interval != self._interval:
            return
        insort(
            self.prices[symbol], (kline.ts, kline.close), key=_time_of
        )  # of equal times the last one counts
        if kline.available_at - kline.ts <= self._interval:
            insort(self.fresh[symbol], kline.ts)
            self._settle(symbol, kline.ts)
        if kline.start < self._next_start[symbol]:
            self.ignored_bars += kline.confirm
            return
        self._kline = kline
        if kline.confirm:
            self._next_start[symbol] = kline.ts
            self._exchange.on_kline(kline)
        elif self._exchange.books[symbol]:
            self._exchange.on_price(kline)
        self.venue.positions[symbol].mark = self.paper.positions[symbol].mark = kline.close
        if kline.confirm:
            if self._margined:
                self._exchange.check_margin(kline)
            for stamp in self._stamps.due(kline):
                self._exchange.on_funding(stamp)

    # -- what the run decided and the venue reported ----------------------------------------------------

    def _follow(self, decision: Decision) -> None:
        if isinstance(decision, Order):
            self._submit(decision)
        elif isinstance(decision, Cancel):
            self._cancel(decision.order_id, decision.symbol, decision.ts, decision.reason)
        elif isinstance(decision, Amend):
            record = self.records.get(decision.order_id)
            if record is not None and decision.price is not None:
                record.limit = decision.price
            for working in self._exchange.books[decision.symbol]:
                if working.order.id == decision.order_id:
                    self._exchange.amend(working, qty=decision.qty, price=decision.price)
        elif isinstance(decision, OrderUpdate):
            self._on_update(decision)
        elif isinstance(decision, Fill):
            self._on_venue_fill(decision)
        elif isinstance(decision, FundingPayment):
            self.venue.pay(decision)
            self._add_funding(decision, venue=True)
        elif isinstance(decision, CashAdjustment):
            self.venue.transfer(decision.amount)
            self.paper.transfer(decision.amount)

    def _submit(self, order: Order) -> None:
        if is_strategys(order):
            self._hand_over(order.symbol, order.ts)
        record = self.records[order.id] = FollowedOrder(order)
        self._open[order.symbol].append(record)
        # The run places protection itself, and ends entries that expire
        alone = msgspec.structs.replace(order, stop=None, take_profit=None)
        trail = order.trail if order.type is OrderType.TRAILING_STOP else UNSET
        alone = msgspec.structs.replace(alone, trail=trail, take_profits=UNSET, expires=UNSET)
        self._exchange.submit(alone, order.ts)

    def _hand_over(self, symbol: str, now: int) -> None:
        """Let the twin take over the venue's position, but for orders that still work at the venue."""
        mark = self.paper.positions[symbol].mark_decimal
        working = []
        for record in self._open[symbol]:
            if not record.ended:
                working.append(record)
                continue
            self._cancel(record.order.id, symbol, now, "the order has ended at the venue")
            self._ended[symbol].append(record)
            held = record.held()
            if held:
                record.moves.append(Handover(self._seq, mark))
                side = Side.BUY if held > 0 else Side.SELL
                self.paper.apply(
                    Fill("", "", symbol, now, now, side, abs(held), mark, _ZERO, kind=FillKind.TRANSFER)
                )
        self._open[symbol] = working

    def _settle(self, symbol: str, now: int) -> None:
        """Settle the ended orders that have been filled before a new price: what the market was is known.

        Prices that arrive later, such as corrections, don't change them any more. So a twin beside the agent
        attributes an order as one that is folded afterwards.
        """
        waiting = []
        for record in self._ended[symbol]:
            filled = record.filled
            if filled is not None and filled[1] >= now:
                waiting.append(record)
                continue
            record.holes = []
            if filled is not None:
                record.moves = with_markets(record.moves, self.prices[symbol])
                record.holes = find_holes(_around(self.fresh[symbol], *filled), self._config)
            self.settled.append(record)
        self._ended[symbol] = waiting

    def _cancel(self, order_id: str, symbol: str, now: int, reason: str) -> None:
        matching = [w for w in self._exchange.books[symbol] if w.order.id == order_id]
        if matching:
            self._exchange.cancel(matching, now, reason)

    def _on_update(self, update: OrderUpdate) -> None:
        record = self.records.get(update.order_id)
        if record is None:
            return
        record.status, record.reported = update.status, update.filled
        # the rest of a market order that found too little liquidity at the venue is not cancelled on paper
        if update.status is OrderStatus.CANCELLED and record.order.type is not OrderType.MARKET:
            self._cancel(update.order_id, update.symbol, update.ts, update.reason)

    def _on_venue_fill(self, fill: Fill) -> None:
        self.venue.apply(fill)
        if fill.kind is FillKind.TRANSFER:  # a position that the run has adopted: the twin has it as well
            self.paper.apply(fill)
            return
        record = self.records.get(fill.order_id)
        if record is None:
            record = self._undecided(fill)
        is_fee = fill.kind is FillKind.FEE
        if not is_fee:
            record.venue_filled += fill.qty
        market = fill.price if fill.maker or is_fee else _ZERO  # a taker's is looked up after the fold
        record.moves.append(
            TwinFill(
                self._seq,
                fill.ts,
                True,
                fill.side,
                fill.qty,
                fill.price,
                fill.fee,
                fill.maker,
                market,
                is_fee=is_fee,
            )
        )

    def _undecided(self, fill: Fill) -> FollowedOrder:
        """Return a record for a fill of an order that the run has not decided, such as a liquidation."""
        id = fill.order_id or fill.id
        order = Order(id, fill.symbol, fill.ts, fill.side, OrderType.MARKET, fill.qty, reason=fill.kind.value)
        record = self.records.get(id) or FollowedOrder(order, "undecided")
        record.status = OrderStatus.FILLED
        self.records[id] = record
        if record not in self._open[fill.symbol]:
            self._open[fill.symbol].append(record)
        return record

    # -- what the paper exchange reports ----------------------------------------------------------------

    def _new_id(self) -> str:
        self._liquidations += 1
        return f"paper-liquidation-{self._liquidations}"

    def _on_report(self, report: Report) -> None:
        if isinstance(report, Order):  # of a liquidation
            record = self.records[report.id] = FollowedOrder(report, "undecided")
            record.status = OrderStatus.CANCELLED
            self._open[report.symbol].append(record)
        elif isinstance(report, OrderUpdate):
            record = self.records[report.order_id]
            record.paper_status = report.status
            if report.status in (OrderStatus.CANCELLED, OrderStatus.REJECTED):
                record.paper_reason = report.reason
        elif isinstance(report, FundingPayment):
            self._add_funding(report, venue=False)
        elif isinstance(report, Fill):
            self._on_paper_fill(report)

    def _on_paper_fill(self, fill: Fill) -> None:
        met = fill.price - fill.side.sign * fill.slippage / fill.qty
        impact = 0.0
        if self._kline is not None and not fill.maker and fill.kind is FillKind.TRADE:
            impact = self._rules.slippage.offset(self._kline, float(met), float(fill.qty))
        self.records[fill.order_id].moves.append(
            TwinFill(
                self._seq,
                fill.ts,
                False,
                fill.side,
                fill.qty,
                fill.price,
                fill.fee,
                fill.maker,
                met,
                impact,
            )
        )

    def _add_funding(self, payment: FundingPayment, *, venue: bool) -> None:
        p = payment
        self.funding.append(FundingMove(self._seq, p.symbol, p.ts, venue, p.qty, p.mark, p.rate, p.amount))


def with_markets(moves: Iterable[Move], prices: list[tuple[int, float]]) -> list[Move]:
    """Add to the venue's taker fills the market's last streamed price at their time.

    `prices` are (UTC ms, price), ascending; of equal times the last one counts.
    """
    result: list[Move] = []
    for move in moves:
        if isinstance(move, TwinFill) and move.venue and not move.market:
            at = max(bisect_right(prices, move.ts, key=_time_of) - 1, 0)
            market = Decimal(repr(prices[at][1])) if prices else move.price
            move = msgspec.structs.replace(move, market=market)
        result.append(move)
    return result


def forget_prices(fold: OwnOrders, symbol: str, kept: int) -> None:
    """Drop the oldest prices of a symbol, but for the latest `kept` and those around fills that are not
    settled.
    """
    prices, fresh = fold.prices.get(symbol, []), fold.fresh.get(symbol, [])
    if max(len(prices), len(fresh)) <= 2 * kept:
        return
    filled = [one.filled for one in fold.records.values() if one.order.symbol == symbol]
    oldest = min((times[0] for times in filled if times is not None), default=prices[-1][0])
    del prices[: max(min(len(prices) - kept, bisect_left(prices, oldest, key=_time_of) - 1), 0)]
    del fresh[: max(min(len(fresh) - kept, bisect_left(fresh, oldest) - 1), 0)]


def _time_of(price: tuple[int, float]) -> int:
    return price[0]


def _around(times: list[int], first: int, last: int) -> list[int]:
    """Return the ascending `times` from the last one before `first` to the first one from `last` on."""
    return times[max(bisect_left(times, first) - 1, 0) : bisect_left(times, last) + 1]


def find_holes(times: Iterable[int], config: Config) -> list[tuple[int, int]]:
    """Return the times (after, until] without a streamed price; none for markets that close at night."""
    if config.market.category == "equity":
        return []
    most = _HOLE * config.market.interval
    return [(before, after) for before, after in pairwise(sorted(times)) if after - before > most]
