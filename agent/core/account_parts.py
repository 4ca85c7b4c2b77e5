"""Parts of an account that several sleeves share: its symbols, its limits, and what is being closed."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

from agent.core.events import Gap, Kline
from agent.core.flatten import Flattener
from agent.core.instruments import Instrument
from agent.core.market import InstrumentState
from agent.core.orders import WorkingOrder
from agent.core.portfolio import Portfolio, Position
from agent.core.risk import RiskManager
from agent.core.settings import MarketConfig
from agent.core.sleeve import Sleeve


class AccountTime:
    """The time of an account: that of the last event, UTC ms."""

    def __init__(self) -> None:
        self.now = 0


class SharedSymbol:
    """One symbol of the account. `books` are the sleeves' working orders in it, by name.

    `unassigned` is the part of the position that no sleeve has, and `book` the working orders that close it.
    """

    def __init__(
        self,
        instrument: Instrument,
        market: MarketConfig,
        position: Position,
        unassigned: Position,
        book: list[WorkingOrder],
    ) -> None:
        self._state = InstrumentState(instrument, market, position, book)
        self.unassigned = InstrumentState(instrument, market, unassigned, book)
        self.books: dict[str, list[WorkingOrder]] = {}

    @property
    def instrument(self) -> Instrument:
        """Its trading rules."""
        return self._state.instrument

    @property
    def interval(self) -> int:
        """Length of its bars in ms."""
        return self._state.interval

    @property
    def position(self) -> Position:
        """The account's position, at the last mark."""
        return self._state.position

    @property
    def book(self) -> list[WorkingOrder]:
        """The working orders of all sleeves, and those of the account itself."""
        return [*chain.from_iterable(self.books.values()), *self._state.book]

    @property
    def last_start(self) -> int:
        """Start of the last bar (UTC ms); -1 before the first."""
        return self._state.last_start

    def overdue(self, now: int) -> int:
        """Return by how many ms the next bar is late at `now`."""
        return self._state.overdue(now)

    def fits(self, kline: Kline) -> bool:
        """Return whether a bar is of the run's interval and not earlier than the expected one."""
        return kline.interval == self._state.interval and kline.start >= self._state.next_start

    def follow(self, kline: Kline) -> None:
        """Mark the position at the bar's close."""
        state = self._state
        state.position.mark = self.unassigned.position.mark = kline.close
        if kline.confirm:
            state.last_start, state.next_start = kline.start, kline.ts

    def skip(self, gap: Gap) -> None:
        """Expect the next bar after the gap."""
        if self._state.next_start >= 0 and gap.end > self._state.next_start:
            self._state.next_start = gap.end


class OpenPositions:
    """Positions that are being closed in any sleeve, or outside of all (`unassigned`)."""

    def __init__(self, sleeves: Mapping[str, Sleeve], unassigned: Flattener | None = None) -> None:
        self._sleeves = sleeves
        self._unassigned = unassigned

    @property
    def open(self) -> list[str]:
        """Their symbols, sorted."""
        found = {s for sleeve in self._sleeves.values() for s in sleeve.engine.flattener.open}
        return sorted(found if self._unassigned is None else found.union(self._unassigned.open))


class SharedLimits:
    """The account's limits on a sleeve's orders: `[risk]` applied to the account's net positions."""

    def __init__(self, portfolio: Portfolio, risk: RiskManager, states: Mapping[str, SharedSymbol]) -> None:
        self._portfolio = portfolio
        self._risk = risk
        self._states = states

    @property
    def active(self) -> bool:
        """True if the account may open positions."""
        return self._risk.state.value == "ACTIVE"

    def allows(self, now: int, symbol: str, change: float) -> bool:
        """Return whether the account allows an order of the signed value `change`."""
        portfolio = self._portfolio
        position = portfolio.positions[symbol]
        before = position.size * position.mark if position.size else 0.0
        after = abs(before + change)
        return self._risk.allows(
            now,
            symbol,
            reduces=self.active and after <= abs(before),
            notional=abs(change),
            position_after=after,
            gross_after=portfolio.gross_notional() - abs(before) + after,
            equity=portfolio.equity(),
            data_age=self._states[symbol].overdue(now),
        )
