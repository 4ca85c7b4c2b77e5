"""Why a run at a venue earned more or less than its twin on paper: by cause, by day and by order.

The input is a `TwinRecord`, which `agent.replay.twin` makes by folding the run's journal. Each sum is checked
against the equities of the two ledgers, which know nothing of causes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from statistics import quantiles
from typing import Final

import msgspec

from agent.analysis.twin_parts import (
    LABELS,
    Cause,
    CostRules,
    Move,
    OrderAttribution,
    OrderFacts,
    OrderParts,
    TwinFill,
    exact,
)
from agent.analysis.waterfall import Waterfall, lay_out
from agent.core.errors import ReconciliationError
from agent.core.events import OrderType

_ZERO: Final = Decimal(0)


class FundingMove(msgspec.Struct, frozen=True):
    """A funding payment at the venue or on paper; `amount` was added to cash."""

    seq: int
    symbol: str
    ts: int
    venue: bool
    qty: Decimal  # signed position
    mark: Decimal
    rate: Decimal
    amount: Decimal


class Boundary(msgspec.Struct, frozen=True):
    """The state after event `seq`: at the end of a UTC day or of the run. Equities are exact."""

    seq: int
    day: str
    marks: dict[str, Decimal]
    venue: Decimal  # equity of the run
    paper: Decimal  # equity of the twin, which executes the run's orders on paper
    anew: Decimal | None  # equity of an engine that decides anew on paper; None if none was run
    closed: Decimal | None = None  # of a backtest of the run's closed bars; only with `anew`
    history: Decimal | None = None  # of a backtest of the history; only with `closed`

    @property
    def twin(self) -> Decimal:
        """The equity at the end of the chain."""
        chain = (self.history, self.closed, self.anew)
        return next((equity for equity in chain if equity is not None), self.paper)


class DifferentDecision(msgspec.Struct, frozen=True):
    """The first order that the engine on paper decided differently: `at_venue` or `on_paper` may be empty."""

    seq: int
    ts: int
    symbol: str
    at_venue: str
    on_paper: str


class BarDifferences(msgspec.Struct, frozen=True):
    """How the closed bars of a symbol that the run was shown differ from those of the history.

    `mean_bps` and `most_bps` are of the absolute differences of the closes, over the bars that differ.
    """

    symbol: str
    source: str  # file, or `corrections` for bars that the stream itself corrected
    compared: int
    differing: int
    mean_bps: float
    most_bps: float
    only_streamed: int
    only_history: int


class TwinRecord(msgspec.Struct):
    """Everything that two folds of one journal leave for the attribution."""

    run: str
    venue: str
    currency: str
    costs: str  # whose costs the twin uses
    initial: Decimal
    orders: dict[str, OrderFacts]
    moves: dict[str, list[Move]]
    funding: list[FundingMove]
    boundaries: list[Boundary]
    rules: dict[str, CostRules]
    holes: dict[str, list[tuple[int, int]]]
    first_different: DifferentDecision | None
    notes: list[str]
    bars: list[BarDifferences] = []  # of a twin on history
    settled_holes: dict[str, list[tuple[int, int]]] = {}  # by order: those known when it was settled


class TwinDay(msgspec.Struct, frozen=True):
    """The change of the difference over one UTC day."""

    day: str
    difference: Decimal
    causes: dict[Cause, Decimal]


class TwinOrder(msgspec.Struct, frozen=True):
    """One order at the venue and on paper. Prices are averages, None without a fill; delays are ms."""

    id: str
    symbol: str
    ts: int
    side: str
    type: str
    qty: Decimal
    reason: str
    venue_status: str
    paper_status: str
    venue_qty: Decimal
    venue_price: float | None
    paper_qty: Decimal
    paper_price: float | None
    arrival_ms: int | None  # from the decision to the venue's first report
    venue_delay_ms: int | None  # from the decision to the first fill
    paper_delay_ms: int | None
    difference: Decimal
    causes: dict[Cause, Decimal]


class Delays(msgspec.Struct, frozen=True):
    """Time from the decision of market orders to their first fill, ms."""

    orders: int
    median: float
    p90: float
    p99: float


class TwinReport(msgspec.Struct, frozen=True):
    """The difference of a run and its twin, attributed. `difference` = `venue_equity` - `twin_equity`.

    The twin decides anew on paper if `decided_anew`; otherwise it executes the run's orders, and `decision`
    is zero by construction. `origins` divides the cause `positions` by what opened the divergence.
    """

    run: str
    venue: str
    currency: str
    costs: str
    start: str
    end: str
    initial: Decimal
    venue_equity: Decimal
    twin_equity: Decimal
    difference: Decimal
    causes: dict[Cause, Decimal]
    origins: dict[Cause, Decimal]
    days: list[TwinDay]
    orders: list[TwinOrder]
    decided_anew: bool
    first_different: DifferentDecision | None
    venue_delays: Delays | None
    paper_delays: Delays | None
    holes: int
    bars: list[BarDifferences]
    notes: list[str]


def attribute_run(record: TwinRecord) -> TwinReport:
    """Attribute the difference at each boundary of `record`.

    Raises ReconciliationError if the parts don't add up to the difference of the equities.
    """
    with exact():
        return _Attribution(record).report()


class _Attribution:
    def __init__(self, record: TwinRecord) -> None:
        self._record = record
        self._parts: dict[str, OrderParts] = {}
        self._seen: dict[str, int] = {}  # order -> its moves at the last boundary

    def report(self) -> TwinReport:
        record = self._record
        days: list[TwinDay] = []
        before: dict[Cause, Decimal] = {}
        difference = _ZERO
        for boundary in record.boundaries:
            causes = self._causes_at(boundary)
            now = boundary.venue - boundary.twin
            if sum(causes.values(), _ZERO) != now:
                raise ReconciliationError(
                    f"run {record.run}: the parts of the twin's difference add up to "
                    f"{sum(causes.values(), _ZERO)}, but the equities differ by {now} on {boundary.day}",
                    hint="please report it with the run's database",
                )
            changed = {cause: amount - before.get(cause, _ZERO) for cause, amount in causes.items()}
            changed |= {cause: -amount for cause, amount in before.items() if cause not in causes}
            of_day = {cause: changed[cause] for cause in LABELS if changed.get(cause)}
            days.append(TwinDay(boundary.day, now - difference, of_day))
            before, difference = causes, now
        last = record.boundaries[-1]
        orders = [self._row(order) for order in record.orders.values()]
        return TwinReport(
            run=record.run,
            venue=record.venue,
            currency=record.currency,
            costs=record.costs,
            start=record.boundaries[0].day,
            end=last.day,
            initial=record.initial,
            venue_equity=last.venue,
            twin_equity=last.twin,
            difference=difference,
            causes={cause: before.get(cause, _ZERO) for cause in LABELS},
            origins=self._origins(),
            days=days,
            orders=orders,
            decided_anew=last.anew is not None,
            first_different=record.first_different,
            venue_delays=_delays(orders, [row.venue_delay_ms for row in orders]),
            paper_delays=_delays(orders, [row.paper_delay_ms for row in orders]),
            holes=sum(map(len, record.holes.values())),
            bars=record.bars,
            notes=record.notes,
        )

    def _causes_at(self, boundary: Boundary) -> dict[Cause, Decimal]:
        """Return the causes of the whole difference so far."""
        record = self._record
        totals: defaultdict[Cause, Decimal] = defaultdict(lambda: _ZERO)
        for id, order in record.orders.items():
            moves = record.moves.get(id, [])
            seen = sum(move.seq <= boundary.seq for move in moves)
            if not seen:
                continue
            known = self._parts.get(id)
            if known is None or known.open or seen != self._seen[id]:
                rules = record.rules[order.symbol]
                holes = record.settled_holes.get(id, record.holes.get(order.symbol, ()))
                known = OrderAttribution(order, rules, holes).attribute(
                    moves[:seen], boundary.marks[order.symbol]
                )
                if known.total != known.difference:
                    raise ReconciliationError(
                        f"run {record.run}: the parts of order {id} add up to {known.total}, but it made a "
                        f"difference of {known.difference}",
                        hint="please report it with the run's database",
                    )
                self._parts[id], self._seen[id] = known, seen
            for cause, amount in known.causes.items():
                totals[cause] += amount
        for cause, amount in funding_parts(m for m in record.funding if m.seq <= boundary.seq).items():
            totals[cause] += amount
        if boundary.anew is not None:
            totals["decision"] += boundary.paper - boundary.anew
        if boundary.anew is not None and boundary.closed is not None:
            totals["timing"] += boundary.anew - boundary.closed
        if boundary.closed is not None and boundary.history is not None:
            totals["history"] += boundary.closed - boundary.history
        return {cause: amount for cause, amount in totals.items() if amount}

    def _origins(self) -> dict[Cause, Decimal]:
        origins: defaultdict[Cause, Decimal] = defaultdict(lambda: _ZERO)
        for parts in self._parts.values():
            for cause, amount in parts.origins.items():
                origins[cause] += amount
        held = funding_parts(self._record.funding).get("positions", _ZERO)
        if held:
            origins["funding"] += held
        return {cause: origins[cause] for cause in LABELS if origins.get(cause)}

    def _row(self, order: OrderFacts) -> TwinOrder:
        moves = self._record.moves.get(order.id, [])
        venue = [m for m in moves if isinstance(m, TwinFill) and m.venue and not m.is_fee]
        paper = [m for m in moves if isinstance(m, TwinFill) and not m.venue]
        parts = self._parts.get(order.id)
        venue_qty, venue_price = _average(venue)
        paper_qty, paper_price = _average(paper)
        return TwinOrder(
            id=order.id,
            symbol=order.symbol,
            ts=order.ts,
            side=order.side.value,
            type=order.type.value,
            qty=order.qty,
            reason=order.reason,
            venue_status=order.venue_status,
            paper_status=order.paper_status,
            venue_qty=venue_qty,
            venue_price=venue_price,
            paper_qty=paper_qty,
            paper_price=paper_price,
            arrival_ms=order.arrived - order.ts if order.arrived else None,
            venue_delay_ms=min(m.ts for m in venue) - order.ts if venue else None,
            paper_delay_ms=min(m.ts for m in paper) - order.ts if paper else None,
            difference=parts.difference if parts else _ZERO,
            causes={cause: parts.causes[cause] for cause in LABELS if cause in parts.causes} if parts else {},
        )


def funding_parts(moves: Iterable[FundingMove]) -> dict[Cause, Decimal]:
    """Divide the difference of two sides' funding by its causes.

    With q the position, and k = mark * rate at the stamp, a side receives -q * k:

    - funding: -q_paper * (k_venue - k_paper), another rate or mark;
    - positions: -(q_venue - q_paper) * k_venue, or all of it if one side had no payment;
    - rounding: what the venue's amount differs from -q * k.
    """
    stamps: defaultdict[tuple[str, int], list[FundingMove]] = defaultdict(list)
    for move in moves:
        stamps[move.symbol, move.ts].append(move)
    parts: defaultdict[Cause, Decimal] = defaultdict(lambda: _ZERO)
    with exact():
        for at_stamp in stamps.values():
            venue = [move for move in at_stamp if move.venue]
            paper = [move for move in at_stamp if not move.venue]
            for move in venue:
                parts["rounding"] += move.amount + move.qty * move.mark * move.rate
            if len(venue) == len(paper) == 1:
                per_unit, on_paper = venue[0].mark * venue[0].rate, paper[0].mark * paper[0].rate
                parts["funding"] -= paper[0].qty * (per_unit - on_paper)
                parts["rounding"] -= paper[0].amount + paper[0].qty * on_paper
                parts["positions"] -= (venue[0].qty - paper[0].qty) * per_unit
            else:
                parts["positions"] -= sum((m.qty * m.mark * m.rate for m in venue), _ZERO)
                parts["positions"] -= sum((m.amount for m in paper), _ZERO)
    return {cause: amount for cause, amount in parts.items() if amount}


def waterfall(report: TwinReport) -> Waterfall:
    """Lay out the way from the twin's equity to the venue's: a step for each part that isn't zero."""
    parts = [(LABELS[cause], amount) for cause, amount in report.causes.items() if amount]
    first, last = ("equity of the twin", report.twin_equity), ("equity at the venue", report.venue_equity)
    return lay_out(first, parts, last)


def day_of(ts: int) -> str:
    """Return the UTC day of a time in ms: `2025-01-31`."""
    return f"{datetime.fromtimestamp(ts / 1000, UTC):%Y-%m-%d}"


def by_size(causes: Mapping[Cause, Decimal]) -> list[tuple[Cause, Decimal]]:
    """Return the causes, the largest amount first."""
    return sorted(causes.items(), key=lambda item: -abs(item[1]))


def _average(fills: Sequence[TwinFill]) -> tuple[Decimal, float | None]:
    qty = sum((fill.qty for fill in fills), _ZERO)
    value = sum((fill.qty * fill.price for fill in fills), _ZERO)
    return qty, float(value / qty) if qty else None


def _delays(orders: Sequence[TwinOrder], delays: Sequence[int | None]) -> Delays | None:
    known = [
        float(delay)
        for order, delay in zip(orders, delays, strict=True)
        if delay is not None and order.type == OrderType.MARKET.value
    ]
    if not known:
        return None
    cuts = quantiles(known, n=100, method="inclusive") if len(known) > 1 else known * 99
    return Delays(len(known), cuts[49], cuts[89], cuts[98])
