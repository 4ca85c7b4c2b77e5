"""What the store has of the running run: closed round trips, and the equity at the beginning of the day."""

from __future__ import annotations

from collections import deque
from decimal import Decimal
from typing import Final, NamedTuple

from agent.analysis.trades import RoundTrip, TradeBook
from agent.core.events import DAY_MS, Fill, FillKind, FundingPayment
from agent.store.database import Database
from agent.store.queries import read_numbered, read_slice

_KEPT: Final = 200  # of the latest round trips


class DayTrades(NamedTuple):
    """Closed round trips of one UTC day; `pnl` is net of fees and funding, in the account's currency."""

    trades: int = 0
    wins: int = 0
    pnl: Decimal = Decimal(0)


class RecordedResults:
    """Reads the record of a run. Its methods block; call them in one thread at a time.

    Round trips are built as those of the report are. Each call reads only what was recorded since the last.
    """

    def __init__(self, database: Database, run_id: str) -> None:
        self.run_id = run_id
        self.closed: deque[RoundTrip] = deque(maxlen=_KEPT)
        """The latest round trips, in the order in which they were closed."""
        self.total = 0
        """Closed round trips of the whole run."""
        self._database = database
        self._book = TradeBook()
        self._next = 1  # number of the first decision that was not read
        self._day = -1
        self._of_day = DayTrades()
        self._opened: tuple[int, float] | None = None  # a day, and the equity at its beginning

    def read_trades(self, now: int) -> DayTrades:
        """Read the round trips closed until now; return those of the UTC day of `now` (UTC ms)."""
        for seq, _, _, move in read_numbered(self._database, self.run_id, (Fill, FundingPayment), self._next):
            self._next = seq + 1
            if isinstance(move, FundingPayment):
                self._book.add_funding(move)
            elif isinstance(move, Fill) and move.kind is not FillKind.INTERNAL:  # which moves nothing
                closed = self._book.add(move)
                if closed is not None:
                    self._add(closed)
        return self._of_day if self._day == now // DAY_MS else DayTrades()

    def _add(self, trade: RoundTrip) -> None:
        self.closed.append(trade)
        self.total += 1
        day = (trade.exit_ts or 0) // DAY_MS
        if day != self._day:
            self._day, self._of_day = day, DayTrades()
        before = self._of_day
        self._of_day = DayTrades(before.trades + 1, before.wins + (trade.pnl > 0), before.pnl + trade.pnl)

    def read_day_start(self, now: int) -> float | None:
        """Return the first recorded equity of the UTC day of `now`; None before it is recorded."""
        day = now // DAY_MS
        if self._opened is None or self._opened[0] != day:
            begin = day * DAY_MS
            first = next(read_slice(self._database, self.run_id, "equity", ("equity",), since=begin), None)
            if first is None:
                return None
            self._opened = day, float(first[0])
        return self._opened[1]
