"""Round trips from fills, one at a time, and what is said of them together.

A round trip is everything between flat and flat of one symbol: scaling in or out belongs to it, a flip ends one and begins the
next (the fill, its fee and its slippage are split by quantity). Entry and exit prices are averages over the quantity, so
the profit needs no rule on which lot was sold first.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

import msgspec

from agent.analysis.months import month_of
from agent.core.events import Fill, FundingPayment, Side

_ZERO = Decimal(0)


class Trade(msgspec.Struct, frozen=True):
    """A round trip; money in quote currency. While open, `exit_ts` is None, and exit price and pnl are of the part closed."""

    symbol: str
    side: Side  # of the entry
    entry_ts: int  # UTC ms
    exit_ts: int | None
    entry_price: Decimal  # average
    exit_price: Decimal | None
    qty: Decimal  # sum of what was entered, base coin or shares
    pnl: Decimal  # net of fees, funding included
    fees: Decimal
    funding: Decimal  # negative where it was paid
    slippage: Decimal  # already in the prices
    reason: str = ""  # of the first entry
    exit_reason: str = ""  # of the last exit
    entry_order: str = ""  # client order ids
    exit_order: str = ""

    @property
    def holding_time(self) -> int | None:
        """ms from first entry to last exit."""
        return None if self.exit_ts is None else self.exit_ts - self.entry_ts

    @property
    def return_on_notional(self) -> float:
        """pnl over what was entered."""
        return float(self.pnl / (self.entry_price * self.qty))


class TradeStats(msgspec.Struct):
    """Running sums over closed round trips; the ratios are None where there is nothing to divide by."""

    trades: int = 0
    wins: int = 0  # pnl > 0
    losses: int = 0  # pnl < 0
    gross_profit: Decimal = _ZERO
    gross_loss: Decimal = _ZERO  # >= 0
    best: Decimal | None = None
    worst: Decimal | None = None
    holding_time: int = 0  # ms, sum

    def add(self, trade: Trade) -> None:
        """Count a closed round trip."""
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
        """Round trips that made money, fees and funding counted, over all."""
        return self.wins / self.trades if self.trades else None

    @property
    def profit_factor(self) -> float | None:
        """Gross profit over gross loss."""
        return float(self.gross_profit / self.gross_loss) if self.gross_loss else None

    @property
    def average_win(self) -> float | None:
        """Quote currency."""
        return float(self.gross_profit) / self.wins if self.wins else None

    @property
    def average_loss(self) -> float | None:
        """Quote currency, negative."""
        return -float(self.gross_loss) / self.losses if self.losses else None

    @property
    def expectancy(self) -> float | None:
        """Mean profit of a round trip, quote currency."""
        return float(self.gross_profit - self.gross_loss) / self.trades if self.trades else None

    @property
    def average_holding_time(self) -> float | None:
        """ms."""
        return self.holding_time / self.trades if self.trades else None


class Account(msgspec.Struct):
    """What one symbol did to the account, in quote currency."""

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
        """Change of equity since the start, an open position valued at `mark`, else at the last fill's price.

        Over all symbols these add up to final minus initial equity.
        """
        return self.cash + self.qty * (self.last_price if mark is None else mark) - self.fees + self.funding


class _Open:
    """A round trip under way."""

    def __init__(self, fill: Fill) -> None:
        self.first = self.last = fill
        self.entered = self.entry_value = self.exited = self.exit_value = _ZERO
        self.fees = self.funding = self.slippage = _ZERO

    def add(self, fill: Fill, qty: Decimal) -> None:
        """Take `qty` of a fill, with its share of fee and slippage."""
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

    def as_trade(self) -> Trade:
        closed = self.exited == self.entered
        basis = self.entry_value if closed else self.entry_value * self.exited / self.entered
        return Trade(
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
    """Folds fills and funding payments, in their order, into round trips and sums; keeps no closed trade.

    `stats` and `accounts` are of all and of each symbol; `months` has the round trips closed in each UTC month.
    """

    def __init__(self) -> None:
        self.stats = TradeStats()
        self.accounts: dict[str, Account] = {}
        self.months: dict[str, TradeStats] = {}
        self._open: dict[str, _Open] = {}

    def add(self, fill: Fill) -> Trade | None:
        """Book a fill; the round trip that it closes, if it does."""
        account = self.accounts.setdefault(fill.symbol, Account())
        before, signed = account.qty, fill.qty * fill.side.sign
        account.qty += signed
        account.cash -= signed * fill.price
        account.last_price = fill.price
        account.fees += fill.fee
        account.slippage += fill.slippage
        account.notional += fill.qty * fill.price
        account.fills += 1
        closing = min(fill.qty, abs(before)) if before * signed < 0 else _ZERO
        closed = None
        if closing:
            self._open[fill.symbol].add(fill, closing)
            if closing == abs(before):
                closed = self._open.pop(fill.symbol).as_trade()
                self._count(closed, account)
        if fill.qty > closing:
            self._open.setdefault(fill.symbol, _Open(fill)).add(fill, fill.qty - closing)
        return closed

    def add_funding(self, payment: FundingPayment) -> None:
        """Book a funding payment; it belongs to the round trip that is open."""
        self.accounts.setdefault(payment.symbol, Account()).funding += payment.amount
        if payment.symbol in self._open:
            self._open[payment.symbol].funding += payment.amount

    def open_trades(self) -> list[Trade]:
        """Round trips not yet closed, with the profit of the part that was."""
        return [trade.as_trade() for trade in self._open.values()]

    def _count(self, trade: Trade, account: Account) -> None:
        for stats in (
            self.stats,
            account.stats,
            self.months.setdefault(month_of(trade.exit_ts or 0), TradeStats()),
        ):
            stats.add(trade)


def round_trips(moves: Iterable[Fill | FundingPayment]) -> list[Trade]:
    """All round trips of a run in order of their exit, the open ones last. `moves` come in the order they were booked."""
    book, trades = TradeBook(), []
    for move in moves:
        if isinstance(move, FundingPayment):
            book.add_funding(move)
        elif (closed := book.add(move)) is not None:
            trades.append(closed)
    return trades + book.open_trades()
