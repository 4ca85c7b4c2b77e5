"""The ledger: cash, positions, fees and funding in Decimal, and the check that they add up.

Equity is computed in two independent ways, which `reconcile` compares. One is the cash flow: buys and sells
change `cash` by quantity times price, fees and funding by their amounts, and equity is cash plus positions at
their marks. The other is by cause: equity = initial + realised + unrealised - fees + funding.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Final

from agent.core.decimals import exact
from agent.core.errors import ReconciliationError
from agent.core.events import Fill, FundingPayment, Side

_ZERO: Final = Decimal(0)
_BUY: Final = Side.BUY
_TOLERANCE: Final = Decimal("1e-6")  # the cost of a partial close is rounded to 28 digits


class Position:
    """Position in one symbol: signed quantity in base coin or shares, and the signed value paid for it."""

    __slots__ = ("cost", "entry_ts", "mark", "qty", "size", "symbol")

    def __init__(self, symbol: str) -> None:
        self.symbol = symbol
        self.qty = _ZERO
        self.size = 0.0  # qty as a float, for the feature path
        self.cost = _ZERO
        self.mark = float("nan")
        self.entry_ts = 0

    @property
    def entry_price(self) -> Decimal:
        """Average entry price; 0 if flat."""
        return self.cost / self.qty if self.qty else _ZERO

    @property
    def mark_decimal(self) -> Decimal:
        """The mark as a Decimal, exactly as the float prints; 0 before the first mark."""
        return exact(self.mark) if self.mark == self.mark else _ZERO

    @property
    def unrealised(self) -> Decimal:
        """Profit if closed at the mark, before fees."""
        return self.qty * self.mark_decimal - self.cost if self.qty else _ZERO


class Portfolio:
    """Cash and positions of one account. Amounts are in the account's currency."""

    def __init__(self, initial: Decimal, symbols: Iterable[str]) -> None:
        self.initial = initial
        self.cash = initial
        self.cash_float = float(initial)
        self.realised = self.fees = self.funding = self.slippage = self.turnover = _ZERO
        self.positions = {symbol: Position(symbol) for symbol in symbols}
        self._sorted = [self.positions[symbol] for symbol in sorted(self.positions)]
        self.version = 0  # number of bookings
        self.open: list[Position] = []  # sorted by symbol, so that sums don't depend on the order of trades

    def apply(self, fill: Fill) -> Decimal:
        """Book a fill; return the profit that it realises, before its fee."""
        position = self.positions[fill.symbol]
        price, fee = fill.price, fill.fee
        signed = fill.qty if fill.side is _BUY else -fill.qty
        value = signed * price
        before = position.qty
        after = before + signed
        realised = _ZERO
        was_long = before > _ZERO
        if before and was_long != (signed > _ZERO):
            held = abs(before)
            closed = min(abs(signed), held)
            released = position.cost if closed == held else position.cost * closed / held
            realised = (closed * price if was_long else -closed * price) - released
            position.cost -= released
        if not before or was_long != (after > _ZERO):
            position.entry_ts = fill.ts
            position.cost = after * price
        elif abs(after) > abs(before):
            position.cost += value
        position.qty = after
        position.size = float(after) if after else 0.0
        self.cash -= value + fee
        self.realised += realised
        self.fees += fee
        self.slippage += fill.slippage
        self.turnover += abs(value)
        self.cash_float = float(self.cash)
        self.version += 1
        if (not before) != (not after):
            self.open = [p for p in self._sorted if p.qty]
        return realised

    def pay(self, payment: FundingPayment) -> None:
        """Book a funding payment."""
        self.cash += payment.amount
        self.funding += payment.amount
        self.cash_float = float(self.cash)
        self.version += 1

    def transfer(self, amount: Decimal) -> None:
        """Deposit cash (negative: withdraw it); this changes `initial` and not the profit."""
        self.initial += amount
        self.cash += amount
        self.cash_float = float(self.cash)
        self.version += 1

    def equity(self) -> float:
        """Return cash plus positions at their marks, as a float."""
        equity = self.cash_float
        for position in self.open:
            equity += position.size * position.mark
        return equity

    def exact_equity(self) -> Decimal:
        """Return cash plus positions at their marks, as an exact Decimal."""
        value = _ZERO
        for position in self.open:
            value += position.qty * position.mark_decimal
        return self.cash + value

    def gross_notional(self) -> float:
        """Return the sum of the absolute values of all positions at their marks."""
        return sum([abs(p.size * p.mark) for p in self.open], 0.0)  # a generator costs more

    def reconcile(self) -> None:
        """Raise ReconciliationError unless both computations of equity agree."""
        unrealised = sum((p.unrealised for p in self.open), _ZERO)
        by_cause = self.initial + self.realised + unrealised - self.fees + self.funding
        by_cash = self.exact_equity()
        if abs(by_cause - by_cash) > _TOLERANCE:
            raise ReconciliationError(
                f"the ledger does not add up: cash and positions give {by_cash}, initial {self.initial} "
                f"+ realised {self.realised} + unrealised {unrealised} - fees {self.fees} "
                f"+ funding {self.funding} gives {by_cause}",
                hint="don't trust this run's results; please report it with the run's database",
            )
