"""Why an order earned more or less at the venue than on paper: exact parts that add up.

The difference of an order is what it added to the venue's equity minus what it added to the twin's. A chain
of counterfactual fills leads from the venue's price to that of the paper exchange, and each part is one step
of the chain, so the parts add up by telescoping. docs/twin.md has the formulas and an example by hand.

All amounts are in quote currency; a negative one is worse at the venue. Nothing is rounded: the arithmetic
has enough digits (`exact`) for every product of quantities, prices and rates.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import AbstractContextManager
from decimal import Context, Decimal, localcontext
from typing import Final, Literal

import msgspec

from agent.core.events import OrderType, Side
from agent.core.instruments import Instrument

Cause = Literal[
    "decision",
    "latency",
    "spread",
    "impact",
    "limit",
    "partial",
    "rounding",
    "fee",
    "funding",
    "rejected",
    "undecided",
    "data",
    "positions",
    "timing",
    "history",
]

LABELS: Final[dict[Cause, str]] = {
    "decision": "other decisions once the state differed",
    "latency": "latency: another moment, another price",
    "spread": "spread",
    "impact": "impact",
    "limit": "limit and stop orders missed or filled better",
    "partial": "partial fills",
    "rounding": "rounding",
    "fee": "fee",
    "funding": "funding",
    "rejected": "rejected orders",
    "undecided": "fills without a decision (liquidation, kill switch)",
    "data": "holes in the market data",
    "positions": "divergence of positions",
    "timing": "bars at their close, not as streamed",
    "history": "bars of the history that differ",
}
"""Cause -> its name for readers, in the order of the tables."""

_ZERO: Final = Decimal(0)
_NO_MONEY: Final = Decimal("1e-6")
"""A fee that differs by less has been rounded by the venue."""

_SHARE: Final = Decimal("1e-18")  # to which a part of a fee is rounded; the rest goes to the last part


def exact() -> AbstractContextManager[Context]:
    """Return a decimal context in which sums of products of prices, quantities and rates are exact."""
    return localcontext(Context(prec=100))


class TwinFill(msgspec.Struct, frozen=True):
    """A fill at the venue or on paper.

    `market` is the market's price at that moment: at the venue the last streamed one, on paper the one that
    the order met, and for a maker the fill's own. `impact` is what the cost model adds to it per unit, in
    quote currency; it is of paper's fills alone.
    """

    seq: int  # number of the journal's event
    ts: int  # UTC ms
    venue: bool
    side: Side
    qty: Decimal
    price: Decimal
    fee: Decimal
    maker: bool
    market: Decimal
    impact: float = 0.0
    is_fee: bool = False  # base coin that the venue kept as its fee


class Handover(msgspec.Struct, frozen=True):
    """The twin takes over the venue's position at `mark`, because the next decision was made from it."""

    seq: int
    mark: Decimal


Move = TwinFill | Handover


class OrderFacts(msgspec.Struct, frozen=True):
    """What the attribution needs to know of an order. `missing` is the cause of a fill at one side only."""

    id: str
    symbol: str
    ts: int
    side: Side
    type: OrderType
    qty: Decimal
    limit: Decimal | None
    missing: Cause
    reason: str = ""
    venue_status: str = ""
    paper_status: str = ""
    arrived: int = 0  # UTC ms of the venue's first report; 0 without one


class CostRules(msgspec.Struct, frozen=True):
    """The paper exchange's rules for a taker in one symbol."""

    instrument: Instrument
    half_spread: float  # fraction of the price

    def worse(self, market: Decimal, impact: float) -> Decimal:
        """Return half the spread and the impact, per unit, before the price is rounded to the tick."""
        return market * Decimal(repr(self.half_spread)) + Decimal(repr(impact))

    def price(self, market: Decimal, side: Side, impact: float, limit: Decimal | None) -> Decimal:
        """Return the price of the paper exchange for a taker at `market`; see `PaperExchange`."""
        met = float(market)
        worse = met * self.half_spread + impact
        if side is Side.BUY:
            rounded = self.instrument.round_price(Decimal(repr(met + worse)), side)
            return rounded if limit is None else min(rounded, limit)
        rounded = max(
            self.instrument.round_price(Decimal(repr(met - worse)), side), self.instrument.tick_size
        )
        return rounded if limit is None else max(rounded, limit)


class OrderParts(msgspec.Struct):
    """The parts of an order's difference; `origins` divides `positions` by the cause that opened it."""

    causes: dict[Cause, Decimal]
    origins: dict[Cause, Decimal]
    difference: Decimal  # by cash flows, computed without the parts
    open: bool  # a quantity that only one side holds is left

    @property
    def total(self) -> Decimal:
        """The sum of the parts."""
        with exact():
            return sum(self.causes.values(), _ZERO)


class _Open:
    """The part of an execution that has no counterpart yet."""

    __slots__ = ("execution", "fee", "qty")

    def __init__(self, execution: TwinFill) -> None:
        self.execution = execution
        self.qty = execution.qty
        self.fee = execution.fee

    def take(self, qty: Decimal) -> Decimal:
        """Remove `qty`; return its share of the fee."""
        if qty == self.qty:
            fee = self.fee
        else:
            fee = (self.execution.fee * qty / self.execution.qty).quantize(_SHARE)
        self.qty -= qty
        self.fee -= fee
        return fee


class OrderAttribution:
    """Pairs an order's fills at the venue with those on paper, first with first, and names the differences.

    `holes` are the times (after, until] without any streamed price, UTC ms, ascending.
    """

    def __init__(self, order: OrderFacts, rules: CostRules, holes: Sequence[tuple[int, int]] = ()) -> None:
        self._order = order
        self._rules = rules
        self._holes = holes
        self._causes: dict[Cause, Decimal] = {}
        self._origins: dict[Cause, Decimal] = {}
        self._cash = _ZERO  # the venue's minus the twin's
        self._held = _ZERO  # signed quantity that the venue holds and the twin doesn't
        self._first: dict[bool, int] = {}  # by side: time of the first fill
        self._walks: dict[int, list[Decimal]] = {}  # time -> prices of the venue's taker fills
        self._open: deque[_Open] = deque()
        self._fees: list[_Open] = []  # base coin kept as a fee, which has no counterpart on paper

    def attribute(self, moves: Sequence[Move], mark: Decimal) -> OrderParts:
        """Return the parts of the difference after `moves`, in their order, at the price `mark`."""
        with exact():
            for move in moves:
                if isinstance(move, TwinFill) and move.venue and not (move.maker or move.is_fee):
                    self._walks.setdefault(move.ts, []).append(move.price)
            for move in moves:
                if isinstance(move, Handover):
                    self._close_all(move.mark)
                    self._cash += self._held * move.mark
                    self._held = _ZERO
                else:
                    self._add(move)
            is_open = bool(self._open or self._fees)
            self._close_all(mark)
            causes = {cause: amount for cause, amount in self._causes.items() if amount}
            return OrderParts(causes, self._origins, self._cash + self._held * mark, is_open)

    # -- one fill after the other -----------------------------------------------------------------------

    def _add(self, execution: TwinFill) -> None:
        toward = 1 if execution.venue else -1
        signed = execution.side.sign * execution.qty
        self._cash -= toward * (signed * execution.price + execution.fee)
        self._held += toward * signed
        mine = _Open(execution)
        if execution.is_fee:
            self._fees.append(mine)
            return
        self._first.setdefault(execution.venue, execution.ts)
        while mine.qty and self._open:
            other = self._open[0]
            if other.execution.venue == execution.venue:
                break
            qty = min(mine.qty, other.qty)
            fee, other_fee = mine.take(qty), other.take(qty)
            if not other.qty:
                self._open.popleft()
            if execution.venue:
                self._pair(qty, execution, fee, other.execution, other_fee)
            else:
                self._pair(qty, other.execution, other_fee, execution, fee)
        if mine.qty:
            self._open.append(mine)

    def _pair(
        self, qty: Decimal, venue: TwinFill, venue_fee: Decimal, paper: TwinFill, paper_fee: Decimal
    ) -> None:
        """Attribute -sign * qty * (venue price - paper price), and the difference of the fees."""
        extra_fee = venue_fee - paper_fee
        self._book("rounding" if abs(extra_fee) < _NO_MONEY else "fee", -extra_fee)
        sign = venue.side.sign
        if self._in_hole(min(venue.ts, paper.ts), max(venue.ts, paper.ts)):
            self._book("data", -sign * qty * (venue.price - paper.price))
            return
        if venue.maker or paper.maker:
            self._book("limit", -sign * qty * (venue.price - paper.price))
            return
        rules, order = self._rules, self._order
        # the venue's fill -> the model's fill at the venue's moment
        modelled = rules.price(venue.market, venue.side, paper.impact, order.limit)
        excess = sign * (venue.price - modelled)
        walked = self._walked(venue)
        impact = _ZERO if walked is None else walked - Decimal(repr(paper.impact))
        self._book("impact", -qty * impact)
        self._book("spread", -qty * (excess - impact))
        # -> the same without the order's limit -> before rounding -> at paper's moment -> ... -> paper's fill
        uncapped = rules.price(venue.market, venue.side, paper.impact, None)
        paper_uncapped = rules.price(paper.market, venue.side, paper.impact, None)
        cap, paper_cap = modelled - uncapped, paper.price - paper_uncapped
        self._book("limit", -qty * sign * (cap - paper_cap))
        venue_cost = rules.worse(venue.market, paper.impact)
        paper_cost = rules.worse(paper.market, paper.impact)
        venue_rounding = sign * (uncapped - venue.market) - venue_cost
        paper_rounding = sign * (paper_uncapped - paper.market) - paper_cost
        self._book("rounding", -qty * (venue_rounding - paper_rounding))
        moment = sign * (venue.market - paper.market) + venue_cost - paper_cost
        first = venue.ts == self._first[True] and paper.ts == self._first[False]
        self._book("latency" if first else "partial", -qty * moment)

    def _walked(self, venue: TwinFill) -> Decimal | None:
        """Return how far beyond the first price of its moment the venue's fill is; None if all are equal.

        Executions of one moment at several prices show how the order walked the book. At one price, the
        impact can't be separated from the spread, and the model's is assumed.
        """
        prices = self._walks[venue.ts]
        best = min(prices) if venue.side is Side.BUY else max(prices)
        return None if all(price == best for price in prices) else abs(venue.price - best)

    # -- what only one side has -------------------------------------------------------------------------

    def _close_all(self, mark: Decimal) -> None:
        for left in (*self._open, *self._fees):
            execution = left.execution
            toward = 1 if execution.venue else -1
            sign = execution.side.sign
            cause = self._order.missing
            if execution.is_fee:
                cause = "fee"
            elif self._in_hole(execution.ts, execution.ts):
                cause = "data"
            at_once = sign * (execution.market - execution.price) * left.qty - left.fee
            self._book(cause, toward * at_once)
            later = toward * sign * (mark - execution.market) * left.qty
            self._book("positions", later)
            self._origins[cause] = self._origins.get(cause, _ZERO) + later
        self._open.clear()
        self._fees.clear()

    def _in_hole(self, first: int, last: int) -> bool:
        return any(after < last and first <= until for after, until in self._holes)

    def _book(self, cause: Cause, amount: Decimal) -> None:
        self._causes[cause] = self._causes.get(cause, _ZERO) + amount
