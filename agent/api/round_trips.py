"""The round trips of recorded runs, folded once and continued with what was recorded since; as a table."""

from __future__ import annotations

import csv
from collections import OrderedDict
from collections.abc import Callable, Iterable
from decimal import Decimal
from io import StringIO
from threading import Lock
from typing import Any, Final

from agent.analysis.order_causes import OrderCauses
from agent.analysis.trades import RoundTrip, TradeBook
from agent.api.route_table import TradeColumn, TradeFilter, TradeTableQuery
from agent.api.run_messages import CausingHeadline, TradeEntry, TradeTable
from agent.core.events import Fill, FillKind, FundingPayment, Order, Side, Signal
from agent.data.text import MAX_TITLE, one_line, web_url
from agent.store.database import Database
from agent.store.queries import RecordedDecision, read_numbered, read_slice
from agent.store.runs import Run
from agent.system.clock import iso

_RUNS: Final = 8  # in memory
_TRIPS: Final = 200_000  # in memory, of all runs; the requested run is kept in any case
_HEADLINES: Final = 5  # of a round trip
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")
"""Beginnings of a text that a spreadsheet would take for a formula."""

CSV_COLUMNS: Final = (
    *("symbol", "side", "entry_time", "exit_time", "qty", "entry_price", "exit_price", "pnl"),
    *("return_on_notional", "duration_s", "fees", "funding", "slippage", "reason", "exit_reason"),
    *("entry_order", "exit_order", "headline", "headline_url"),
)


class RoundTrips:
    """All round trips of a run, in the order in which they were opened. Safe to use from several threads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._runs: OrderedDict[str, _TripsOfRun] = OrderedDict()
        self._lock = Lock()

    def of(self, run: Run) -> list[TradeEntry]:
        """Return the round trips of a run, those that are open last changed; don't change the list."""
        with self._lock:
            fold = self._runs.pop(run.id, None) or _TripsOfRun(self._database, run.id)
            entries = fold.entries()  # if the store fails half-way, the fold is lost and made anew
            self._runs[run.id] = fold
            held = sum(len(one.closed) for one in self._runs.values())
            while len(self._runs) > 1 and (len(self._runs) > _RUNS or held > _TRIPS):
                held -= len(self._runs.popitem(last=False)[1].closed)
            return entries


class _TripsOfRun:
    """The fold of one run's fills up to the decision `last`."""

    def __init__(self, database: Database, run_id: str) -> None:
        self.closed: list[TradeEntry] = []
        self._database = database
        self._run_id = run_id
        self._last = 0
        self._book = TradeBook()
        self._opened: dict[str, tuple[int, int]] = {}  # by symbol: numbers of the decision and the event
        self._causes = OrderCauses()
        self._titles: dict[str, CausingHeadline] = {}
        self._entries: list[TradeEntry] = []

    def entries(self) -> list[TradeEntry]:
        """Read what was recorded since the last call; return all round trips."""
        before, found = self._last, list[tuple[int, int, RoundTrip]]()
        kinds = (Fill, FundingPayment, Order, Signal)
        for recorded in read_numbered(self._database, self._run_id, kinds, before + 1):
            self._last = recorded.seq
            closed = self._add(recorded)
            if closed is not None:
                found.append(closed)
        if self._last == before:
            return self._entries
        still_open = [(*self._opened[trade.symbol], trade) for trade in self._book.open_trades()]
        self._read_titles(trade for *_, trade in (*found, *still_open))
        self.closed += [self._entry(*one) for one in found]
        self._entries = [*self.closed, *(self._entry(*one) for one in still_open)]
        self._entries.sort(key=lambda entry: entry.seq)
        return self._entries

    def _add(self, recorded: RecordedDecision) -> tuple[int, int, RoundTrip] | None:
        """Add a decision; return the round trip that it closes."""
        seq, event, _, move = recorded
        if isinstance(move, FundingPayment):
            self._book.add_funding(move)
        self._causes.add(event, move)
        if not isinstance(move, Fill) or move.kind is FillKind.INTERNAL:
            return None  # an internal fill moves nothing into or out of the account
        closed = self._book.add(move)
        found = None if closed is None else (*self._opened.pop(move.symbol), closed)
        if self._book.symbols[move.symbol].qty and move.symbol not in self._opened:
            self._opened[move.symbol] = seq, event
        return found

    def _entry(self, seq: int, event: int, trade: RoundTrip) -> TradeEntry:
        latest = self._headlines(trade)
        headlines = tuple(self._titles[one] for one in latest if one in self._titles)
        return TradeEntry(seq, event, trade, trade.return_on_notional, trade.holding_time, headlines)

    def _headlines(self, trade: RoundTrip) -> tuple[str, ...]:
        return self._causes.sources.get(trade.entry_order, ())[::-1][:_HEADLINES]

    def _read_titles(self, trades: Iterable[RoundTrip]) -> None:
        wanted = {one for trade in trades for one in self._headlines(trade)} - self._titles.keys()
        if wanted:
            for id_, title, url in read_slice(self._database, self._run_id, "news", ("id", "title", "url")):
                if id_ in wanted:
                    self._titles[id_] = CausingHeadline(id_, one_line(title, MAX_TITLE), web_url(url))


# -- the table -------------------------------------------------------------------------------------------


def trade_table(entries: list[TradeEntry], query: TradeTableQuery) -> TradeTable:
    """Return a page of the table, with sums over all round trips that match."""
    found = selected(entries, query)
    closed = [entry.trade for entry in found if entry.trade.exit_ts is not None]
    return TradeTable(
        total=len(entries),
        matching=len(found),
        closed=len(closed),
        won=sum(trade.pnl > 0 for trade in closed),
        pnl=sum((trade.pnl for trade in closed), Decimal(0)),
        fees=sum((trade.fees for trade in closed), Decimal(0)),
        funding=sum((trade.funding for trade in closed), Decimal(0)),
        items=tuple(found[query.offset : query.offset + query.limit]),
    )


def selected(entries: list[TradeEntry], query: TradeFilter) -> list[TradeEntry]:
    """Return the round trips that match, sorted; those without a value of the column come last."""
    words = (query.search or "").casefold().split()
    found = [
        entry
        for entry in entries
        if query.symbol in (None, entry.trade.symbol)
        and query.side in (None, side_of(entry.trade))
        and query.result in (None, result_of(entry.trade))
        and _has(entry, words)
    ]
    value_of = _VALUES[query.sort]
    known = [entry for entry in found if value_of(entry) is not None]
    known.sort(key=lambda entry: (value_of(entry), entry.seq), reverse=query.order == "descending")
    return known + [entry for entry in found if value_of(entry) is None]


def side_of(trade: RoundTrip) -> str:
    """Return `long` or `short`."""
    return "long" if trade.side is Side.BUY else "short"


def result_of(trade: RoundTrip) -> str:
    """Return `won`, `lost` or `even`, after fees and funding, or `open`."""
    if trade.exit_ts is None:
        return "open"
    return "won" if trade.pnl > 0 else "lost" if trade.pnl < 0 else "even"


def _has(entry: TradeEntry, words: list[str]) -> bool:
    if not words:
        return True
    trade = entry.trade
    texts = trade.symbol, trade.reason, trade.exit_reason, *(one.title for one in entry.headlines)
    text = "\n".join(texts).casefold()
    return all(word in text for word in words)


_VALUES: Final[dict[TradeColumn, Callable[[TradeEntry], Any]]] = {
    "entry-time": lambda entry: entry.trade.entry_ts,
    "exit-time": lambda entry: entry.trade.exit_ts,
    "symbol": lambda entry: entry.trade.symbol,
    "side": lambda entry: side_of(entry.trade),
    "qty": lambda entry: entry.trade.qty,
    "entry-price": lambda entry: entry.trade.entry_price,
    "exit-price": lambda entry: entry.trade.exit_price,
    "pnl": lambda entry: entry.trade.pnl,
    "return": lambda entry: entry.return_on_notional,
    "duration": lambda entry: entry.duration,
    "fees": lambda entry: entry.trade.fees,
    "funding": lambda entry: entry.trade.funding,
    "reason": lambda entry: entry.trade.reason.casefold() or None,
    "exit-reason": lambda entry: entry.trade.exit_reason.casefold() or None,
    "headline": lambda entry: entry.headlines[0].title.casefold() if entry.headlines else None,
}
"""Column -> value of a row; None if it has none."""


def trades_as_csv(entries: list[TradeEntry]) -> str:
    """Return round trips as CSV (RFC 4180); times as ISO 8601, decimals in full.

    Reasons and titles come from outside. One that a spreadsheet would take for a formula begins with an
    apostrophe instead.
    """
    text = StringIO()
    write = csv.writer(text).writerow
    write(CSV_COLUMNS)
    for entry in entries:
        trade, headline = entry.trade, next(iter(entry.headlines), None)
        duration = None if entry.duration is None else entry.duration / 1000
        texts = (trade.reason, trade.exit_reason, trade.entry_order, trade.exit_order)
        cause = ("", "") if headline is None else (headline.title, headline.url)
        write(
            (
                *(_plain(trade.symbol), side_of(trade), iso(trade.entry_ts)),
                "" if trade.exit_ts is None else iso(trade.exit_ts),
                *(f"{trade.qty:f}", f"{trade.entry_price:f}"),
                "" if trade.exit_price is None else f"{trade.exit_price:f}",
                *(f"{trade.pnl:f}", entry.return_on_notional, duration),
                *(f"{trade.fees:f}", f"{trade.funding:f}", f"{trade.slippage:f}"),
                *map(_plain, (*texts, *cause)),
            )
        )
    return text.getvalue()


def _plain(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text
