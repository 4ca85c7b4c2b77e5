"""Round trips built from fills, and their statistics.

A round trip lasts from flat to flat in one symbol. Scaling in or out belongs to it. A fill that flips the
position ends one round trip and begins the next; its fee and slippage are split by quantity. Entry and exit
prices are averages over the quantity, so that the profit does not depend on which lot is sold first.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

import msgspec

from agent.analysis.daily import month_of
from agent.core.events import Fill, FundingPayment, Side

_ZERO = Decimal(0)


class RoundTrip(msgspec.Struct, frozen=True):
    """A round trip; amounts in quote currency. If open, `exit_ts` is None and `pnl` is of the closed part."""

    symbol: str
    side: Side  # of the entry
    entry_ts: int  # UTC ms
    exit_ts: int | None
    entry_price: Decimal  # average
    exit_price: Decimal | None
    qty: Decimal  # total quantity entered, base coin or shares
    pnl: Decimal  # net of fees and funding
    fees: Decimal
    funding: Decimal  # negative if paid
    slippage: Decimal  # already part of the prices
    reason: str = ""  # of the first entry
    exit_reason: str = ""  # of the last exit
    entry_order: str = ""  # client order ids
    exit_order: str = ""

    @property
    def holding_time(self) -> int | None:
        """Time from the first entry to the last exit, in ms."""
        return None if self.exit_ts is None else self.exit_ts - self.entry_ts

    @property
    def return_on_notional(self) -> float:
        """Profit over the notional entered."""
        return float(self.pnl / (self.entry_price * self.qty))


class TradeStats(msgspec.Struct):
    """Running sums over closed round trips. Ratios with a zero denominator are left as None."""

    trades: int = 0
    wins: int = 0  # pnl > 0
    losses: int = 0  # pnl < 0
    gross_profit: Decimal = _ZERO
    gross_loss: Decimal = _ZERO  # >= 0
    best: Decimal | None = None
    worst: Decimal | None = None
    holding_time: int = 0  # ms, sum

    def add(self, trade: RoundTrip) -> None:
        """Add a closed round trip."""
        pnl = trade.pnl
        self.trades += 1
        if pnl > 0:
            self.wins += 1
            self.gross_profit += pnl
        elif pnl < 0:
            self.losses += 1
            self.gross_loss -= pnl
        if self.best is None or pnl > self.best:
            self.best = pnl
        if self.worst is None or pnl < self.worst:
            self.worst = pnl
        self.holding_time += trade.holding_time or 0

    @property
    def win_rate(self) -> float | None:
        """Share of round trips with a profit after fees and funding."""
        return self.wins / self.trades if self.trades else None

    @property
    def profit_factor(self) -> float | None:
        """Gross profit over gross loss."""
        return float(self.gross_profit / self.gross_loss) if self.gross_loss else None

    @property
    def average_win(self) -> float | None:
        """In quote currency."""
        return float(self.gross_profit) / self.wins if self.wins else None

    @property
    def average_loss(self) -> float | None:
        """In quote currency, negative."""
        return -float(self.gross_loss) / self.losses if self.losses else None

    @property
    def expectancy(self) -> float | None:
        """Mean profit of a round trip, in quote currency."""
        return float(self.gross_profit - self.gross_loss) / self.trades if self.trades else None

    @property
    def average_holding_time(self) -> float | None:
        """In ms."""
        return self.holding_time / self.trades if self.trades else None


class SymbolTotals(msgspec.Struct):
    """Sums over the fills and funding payments of one symbol, in quote currency."""

    cash: Decimal = _ZERO  # sales minus purchases, before fees and funding
    qty: Decimal = _ZERO  # signed position
    last_price: Decimal = _ZERO  # of the last fill
    fees: Decimal = _ZERO
    funding: Decimal = _ZERO
    slippage: Decimal = _ZERO
    notional: Decimal = _ZERO  # traded
    fills: int = 0
    stats: TradeStats = msgspec.field(default_factory=TradeStats)

    def pnl(self, mark: Decimal | None = None) -> Decimal:
        """Return the symbol's part of the change of equity.

        An open position is valued at `mark`, by default the price of the last fill. Over all symbols these
        add up to final minus initial equity.
        """
        return self.cash + self.qty * (self.last_price if mark is None else mark) - self.fees + self.funding


class _OpenRoundTrip:
    """Sums over the fills of a round trip that is still open."""

    def __init__(self, fill: Fill) -> None:
        self.first = self.last = fill
        self.entered = self.entry_value = self.exited = self.exit_value = _ZERO
        self.fees = self.funding = self.slippage = _ZERO

    def add(self, fill: Fill, qty: Decimal) -> None:
        """Add `qty` of a fill, with its share of fee and slippage."""
        if fill.side is self.first.side:
            self.entered += qty
            self.entry_value += qty * fill.price
        else:
            self.exited += qty
            self.exit_value += qty * fill.price
            self.last = fill
        whole = qty == fill.qty
        self.fees += fill.fee if whole else fill.fee * qty / fill.qty
        self.slippage += fill.slippage if whole else fill.slippage * qty / fill.qty

    def to_round_trip(self) -> RoundTrip:
        closed = self.exited == self.entered
        basis = self.entry_value if closed else self.entry_value * self.exited / self.entered
        return RoundTrip(
            symbol=self.first.symbol,
            side=self.first.side,
            entry_ts=self.first.ts,
            exit_ts=self.last.ts if closed else None,
            entry_price=self.entry_value / self.entered,
            exit_price=self.exit_value / self.exited if self.exited else None,
            qty=self.entered,
            pnl=(self.exit_value - basis) * self.first.side.sign - self.fees + self.funding,
            fees=self.fees,
            funding=self.funding,
            slippage=self.slippage,
            reason=self.first.reason,
            exit_reason=self.last.reason if self.exited else "",
            entry_order=self.first.order_id,
            exit_order=self.last.order_id if self.exited else "",
        )


class TradeBook:
    """Turns fills and funding payments, added in booking order, into round trips and statistics.

    `stats` covers all symbols, `symbols` each symbol, and `months` the round trips closed in each UTC month.
    Closed round trips are not kept.
    """

    def __init__(self) -> None:
        self.stats = TradeStats()
        self.symbols: dict[str, SymbolTotals] = {}
        self.months: dict[str, TradeStats] = {}
        self._open: dict[str, _OpenRoundTrip] = {}

    def add(self, fill: Fill) -> RoundTrip | None:
        """Add a fill; return the round trip that it closes, if any."""
        totals = self.symbols.setdefault(fill.symbol, SymbolTotals())
        before, signed = totals.qty, fill.qty * fill.side.sign
        totals.qty += signed
        totals.cash -= signed * fill.price
        totals.last_price = fill.price
        totals.fees += fill.fee
        totals.slippage += fill.slippage
        totals.notional += fill.qty * fill.price
        totals.fills += 1
        closing = min(fill.qty, abs(before)) if before * signed < 0 else _ZERO
        closed = None
        if closing:
            self._open[fill.symbol].add(fill, closing)
            if closing == abs(before):
                closed = self._open.pop(fill.symbol).to_round_trip()
                self._count(closed, totals)
        if fill.qty > closing:
            self._open.setdefault(fill.symbol, _OpenRoundTrip(fill)).add(fill, fill.qty - closing)
        return closed

    def add_funding(self, payment: FundingPayment) -> None:
        """Add a funding payment to the open round trip of its symbol."""
        self.symbols.setdefault(payment.symbol, SymbolTotals()).funding += payment.amount
        if payment.symbol in self._open:
            self._open[payment.symbol].funding += payment.amount

    def open_trades(self) -> list[RoundTrip]:
        """Return the open round trips, with the profit of their closed part."""
        return [trade.to_round_trip() for trade in self._open.values()]

    def _count(self, trade: RoundTrip, totals: SymbolTotals) -> None:
        for stats in (
            self.stats,
            totals.stats,
            self.months.setdefault(month_of(trade.exit_ts or 0), TradeStats()),
        ):
            stats.add(trade)


def round_trips(moves: Iterable[Fill | FundingPayment]) -> list[RoundTrip]:
    """Return all round trips in order of exit, the open ones last; `moves` are in booking order."""
    book, trades = TradeBook(), []
    for move in moves:
        if isinstance(move, FundingPayment):
            book.add_funding(move)
        elif (closed := book.add(move)) is not None:
            trades.append(closed)
    return trades + book.open_trades()
