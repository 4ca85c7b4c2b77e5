"""Slippage of a venue's fills compared with the paper exchange's fills of the same orders on the same bars.

Each order of a testnet run is submitted, at the time of its decision, to a paper exchange with unlimited
capital that is fed the prices of the run's journal, including open bars. Both costs are relative to the mark
at the decision, in basis points; a positive one is a cost.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from decimal import Decimal
from statistics import fmean, median
from typing import Any, Final

import msgspec
from msgspec import UNSET

from agent.config import Config, parse
from agent.core.errors import UsageError
from agent.core.events import Amend, Fill, FillKind, Kline, Order, OrderStatus, OrderType, OrderUpdate
from agent.core.instruments import Instrument, instrument_for
from agent.core.paper import PaperExchange
from agent.core.portfolio import Portfolio
from agent.store.database import Database
from agent.store.journal import read_journal
from agent.store.queries import RecordedDecision, read_decisions
from agent.store.runs import Run, RunKind

_UNLIMITED: Final = Decimal(10) ** 15
_BPS: Final = 10_000


class OrderSlippage(msgspec.Struct, frozen=True):
    """One order. Prices are averages over its fills, None without any; costs are bps of `reference`."""

    id: str
    symbol: str
    ts: int  # time of the decision, UTC ms
    side: str
    type: str
    qty: Decimal
    reference: float | None  # the mark at the decision
    paper_qty: Decimal
    paper_price: float | None
    venue_qty: Decimal
    venue_price: float | None
    venue_delay_ms: int | None  # from the decision to the first fill
    paper_bps: float | None
    venue_bps: float | None
    excess_bps: float | None  # cost at the venue minus cost on paper
    excess: float | None  # the same in quote currency, for the quantity filled at the venue


class SlippageSummary(msgspec.Struct, frozen=True):
    """Totals over all orders. Averages are over the orders filled by both, None without any."""

    orders: int
    both: int
    only_paper: int
    only_venue: int
    neither: int
    notional: float  # filled at the venue, quote currency
    paper_bps: float | None
    venue_bps: float | None
    excess_bps: float | None
    median_excess_bps: float | None
    worst_excess_bps: float | None
    excess: float  # total, quote currency
    median_delay_ms: float | None


class SlippageReport(msgspec.Struct, frozen=True):
    """The slippage of a run: a summary, and each order."""

    run: str
    venue: str
    summary: SlippageSummary
    orders: list[OrderSlippage]


def compare_with_paper(database: Database, run: Run) -> SlippageReport:
    """Compare a testnet run with the paper exchange. Raises UsageError if the run itself traded on paper."""
    if run.kind is not RunKind.LIVE or run.config.get("execution", {}).get("mode") != "testnet":
        raise UsageError(
            f"run {run.id} traded on paper", hint="slippage compares a run in testnet mode with paper"
        )
    config = parse(run.config, where=f"run {run.id}")
    decisions = list(read_decisions(database, run.id))
    paper, references = _on_paper(database, run, config, decisions)
    venue: dict[str, list[Fill]] = defaultdict(list)
    orders: list[Order] = []
    crossed: set[str] = set()  # orders that sleeves crossed internally, which were not sent
    for _, _, _, decision in decisions:
        if isinstance(decision, Order):
            orders.append(decision)
        elif isinstance(decision, Fill) and decision.kind is FillKind.TRADE:
            venue[decision.order_id].append(decision)
        elif isinstance(decision, Fill) and decision.kind is FillKind.INTERNAL:
            crossed.add(decision.order_id)
    rows = [
        _row(order, references[order.id], paper[order.id], venue[order.id])
        for order in orders
        if order.id not in crossed
    ]
    return SlippageReport(run.id, config.execution.testnet.venue, _summary(rows), rows)


def _on_paper(
    database: Database, run: Run, config: Config, decisions: Sequence[RecordedDecision]
) -> tuple[dict[str, list[Fill]], dict[str, float]]:
    """Return by order id the fills of the paper exchange and the mark at the decision."""
    fills: dict[str, list[Fill]] = defaultdict(list)
    references: dict[str, float] = {}
    by_event: dict[int, list[Any]] = defaultdict(list)
    for _, event_seq, _, decision in decisions:
        if isinstance(decision, Order | Amend | OrderUpdate):
            by_event[event_seq].append(decision)
    instruments = {symbol: _margined(instrument_for(symbol, config)) for symbol in config.market.symbols}
    portfolio = Portfolio(_UNLIMITED, tuple(instruments))

    def collect(report: object) -> None:
        if isinstance(report, Fill):
            fills[report.order_id].append(report)

    exchange = PaperExchange(config, instruments, portfolio, collect, lambda: "")
    for seq, event in read_journal(database, run.id):
        if (
            isinstance(event, Kline)
            and event.symbol in instruments
            and event.interval == config.market.interval
        ):
            if exchange.books[event.symbol]:
                (exchange.on_kline if event.confirm else exchange.on_price)(event)
            portfolio.positions[event.symbol].mark = event.close
        for decision in by_event.pop(seq, ()):
            if isinstance(decision, Order):
                references[decision.id] = portfolio.positions[decision.symbol].mark
                exchange.submit(_alone(decision), decision.ts)
                continue
            matching = [
                working
                for working in exchange.books[decision.symbol]
                if working.order.id == decision.order_id
            ]
            if isinstance(decision, Amend):
                for working in matching:
                    exchange.amend(working, qty=decision.qty, price=decision.price)
            elif decision.status in (OrderStatus.CANCELLED, OrderStatus.REJECTED):
                exchange.cancel(matching, decision.ts, decision.reason)
    return fills, references


def _margined(rules: Instrument) -> Instrument:
    """Allow short sales in any category, because each order is compared on its own."""
    return rules.replace(category="linear")


def _alone(order: Order) -> Order:
    """Return the order without its links to a position or to other orders."""
    trail = order.trail if order.type is OrderType.TRAILING_STOP else UNSET
    alone = msgspec.structs.replace(
        order, reduce_only=False, stop=None, take_profit=None, oco="", trail=trail
    )
    return msgspec.structs.replace(alone, take_profits=UNSET, expires=UNSET)


def _row(order: Order, reference: float, paper: Sequence[Fill], venue: Sequence[Fill]) -> OrderSlippage:
    paper_qty, paper_price = _average(paper)
    venue_qty, venue_price = _average(venue)
    known = reference if reference == reference else None
    paper_bps, venue_bps = (_cost(order, known, price) for price in (paper_price, venue_price))
    excess = None
    if paper_price is not None and venue_price is not None:
        excess = (venue_price - paper_price) * order.side.sign
    excess_bps = None if paper_bps is None or venue_bps is None else venue_bps - paper_bps
    return OrderSlippage(
        id=order.id,
        symbol=order.symbol,
        ts=order.ts,
        side=order.side.value,
        type=order.type.value,
        qty=order.qty,
        reference=known,
        paper_qty=paper_qty,
        paper_price=paper_price,
        venue_qty=venue_qty,
        venue_price=venue_price,
        venue_delay_ms=min(fill.available_at for fill in venue) - order.ts if venue else None,
        paper_bps=paper_bps,
        venue_bps=venue_bps,
        excess_bps=excess_bps,
        excess=None if excess is None else excess * float(venue_qty),
    )


def _average(fills: Iterable[Fill]) -> tuple[Decimal, float | None]:
    """Return the total quantity and the average price."""
    qty, value = Decimal(0), Decimal(0)
    for fill in fills:
        qty += fill.qty
        value += fill.qty * fill.price
    return qty, float(value / qty) if qty else None


def _cost(order: Order, reference: float | None, price: float | None) -> float | None:
    return None if not reference or price is None else (price / reference - 1) * order.side.sign * _BPS


def _summary(rows: Sequence[OrderSlippage]) -> SlippageSummary:
    both = [row for row in rows if row.excess_bps is not None]
    excess = [row.excess_bps for row in both if row.excess_bps is not None]
    delays = [row.venue_delay_ms for row in rows if row.venue_delay_ms is not None]
    return SlippageSummary(
        orders=len(rows),
        both=len(both),
        only_paper=sum(bool(row.paper_qty and not row.venue_qty) for row in rows),
        only_venue=sum(bool(row.venue_qty and not row.paper_qty) for row in rows),
        neither=sum(not row.paper_qty and not row.venue_qty for row in rows),
        notional=sum(float(row.venue_qty) * (row.venue_price or 0.0) for row in rows),
        paper_bps=fmean(row.paper_bps for row in both if row.paper_bps is not None) if both else None,
        venue_bps=fmean(row.venue_bps for row in both if row.venue_bps is not None) if both else None,
        excess_bps=fmean(excess) if excess else None,
        median_excess_bps=median(excess) if excess else None,
        worst_excess_bps=max(excess) if excess else None,
        excess=sum(row.excess or 0.0 for row in both),
        median_delay_ms=median(delays) if delays else None,
    )
