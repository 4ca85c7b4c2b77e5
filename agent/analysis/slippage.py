"""What a venue's fills cost against what the paper exchange makes of the same orders on the same bars.

Each order of a testnet run goes, at the moment of its decision, to a paper exchange of unlimited means that sees the prices of the run's
journal, open bars included. Both are held against the mark at the decision: basis points of it, positive where it cost something.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from decimal import Decimal
from statistics import fmean, median
from typing import Any, Final

import msgspec

from agent.config import Config, parse
from agent.core.errors import UsageError
from agent.core.events import Amend, Fill, FillKind, Kline, Order, OrderStatus, OrderUpdate
from agent.core.instruments import Instrument, instrument_for
from agent.core.paper import PaperExchange
from agent.core.portfolio import Portfolio
from agent.store.database import Database
from agent.store.journal import read_journal
from agent.store.queries import RecordedDecision, read_decisions
from agent.store.runs import Run

_MEANS: Final = Decimal(10) ** 15
_BPS: Final = 10_000


class OrderSlippage(msgspec.Struct, frozen=True):
    """One order. Prices are averages over its fills, None where there were none; costs in basis points of `reference`."""

    id: str
    symbol: str
    ts: int  # of the decision, UTC ms
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
    excess_bps: float | None  # the venue's cost less the paper exchange's
    excess: float | None  # the same in quote currency, on what the venue filled


class SlippageSummary(msgspec.Struct, frozen=True):
    """All orders. Averages are over those that both have filled; None where there are none."""

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
    excess: float  # in all, quote currency
    median_delay_ms: float | None


class Slippage(msgspec.Struct, frozen=True):
    """Of a run: each order, and all together."""

    run: str
    venue: str
    summary: SlippageSummary
    orders: list[OrderSlippage]


def slippage(database: Database, run: Run) -> Slippage:
    """Compare a testnet run with paper. Raises UsageError for one that was on paper itself."""
    config = parse(run.config, where=f"run {run.id}")
    if config.execution.mode != "testnet":
        raise UsageError(
            f"run {run.id} traded on paper", hint="slippage compares a run in testnet mode with paper"
        )
    decisions = list(read_decisions(database, run.id))
    paper, references = _on_paper(database, run, config, decisions)
    venue: dict[str, list[Fill]] = defaultdict(list)
    orders: list[Order] = []
    for _, _, _, decision in decisions:
        if isinstance(decision, Order):
            orders.append(decision)
        elif isinstance(decision, Fill) and decision.kind is FillKind.TRADE:
            venue[decision.order_id].append(decision)
    rows = [_row(order, references[order.id], paper[order.id], venue[order.id]) for order in orders]
    return Slippage(run.id, config.execution.testnet.venue, _summary(rows), rows)


def _on_paper(
    database: Database, run: Run, config: Config, decisions: Sequence[RecordedDecision]
) -> tuple[dict[str, list[Fill]], dict[str, float]]:
    """The paper exchange's fills, and the mark at each decision, by order."""
    fills: dict[str, list[Fill]] = defaultdict(list)
    references: dict[str, float] = {}
    by_event: dict[int, list[Any]] = defaultdict(list)
    for _, event_seq, _, decision in decisions:
        if isinstance(decision, Order | Amend | OrderUpdate):
            by_event[event_seq].append(decision)
    instruments = {symbol: _margined(instrument_for(symbol, config)) for symbol in config.market.symbols}
    portfolio = Portfolio(_MEANS, tuple(instruments))

    def hear(report: object) -> None:
        if isinstance(report, Fill):
            fills[report.order_id].append(report)

    exchange = PaperExchange(config, instruments, portfolio, hear, lambda: "")
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
            working = [w for w in exchange.books[decision.symbol] if w.order.id == decision.order_id]
            if isinstance(decision, Amend):
                for one in working:
                    exchange.amend(one, qty=decision.qty, price=decision.price)
            elif decision.status in (OrderStatus.CANCELLED, OrderStatus.REJECTED):
                exchange.cancel(working, decision.ts, decision.reason)
    return fills, references


def _margined(rules: Instrument) -> Instrument:
    """Each order is looked at alone: what is sold need not be owned."""
    return rules._replace(category="linear")


def _alone(order: Order) -> Order:
    """The order without what ties it to a position or to others."""
    return msgspec.structs.replace(order, reduce_only=False, stop=None, take_profit=None, oco="")


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
        order.id, order.symbol, order.ts, order.side.value, order.type.value, order.qty, known, paper_qty, paper_price, venue_qty,
        venue_price, min(fill.available_at for fill in venue) - order.ts if venue else None, paper_bps, venue_bps, excess_bps,
        None if excess is None else excess * float(venue_qty),
    )  # fmt: skip


def _average(fills: Iterable[Fill]) -> tuple[Decimal, float | None]:
    """Quantity, and the price averaged over it."""
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
