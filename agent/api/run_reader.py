"""Reads recorded runs for the API. All functions block; the figures come from the functions of the report
and the command line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal
from itertools import islice
from math import isfinite
from typing import Any, Final, TypeVar

import msgspec

from agent.analysis.run_metrics import Metrics
from agent.analysis.run_rows import traded_symbols
from agent.api.problems import RequestProblem
from agent.api.query_parameters import decode_cursor, encode_cursor
from agent.api.route_table import RowsQuery, RunsQuery, WindowQuery
from agent.api.run_messages import (
    AssetProbabilities,
    EquityPage,
    EquityPoint,
    FillEntry,
    FillPage,
    HeadlineEntry,
    HeadlinePage,
    OrderEntry,
    OrderPage,
    RunDetail,
    RunEntry,
    RunMetrics,
    RunPage,
    ScoreEntry,
    SignalEntry,
    SignalPage,
    TradeEntry,
    TradePage,
)
from agent.core.errors import did_you_mean
from agent.core.events import (
    AssetSentiment,
    Fill,
    Order,
    OrderUpdate,
    Signal,
)
from agent.data.text import MAX_TITLE, one_line, web_url
from agent.research.run_list import ListedRun, RunFilter, listed_runs
from agent.store.database import Database
from agent.store.queries import read_numbered, read_slice
from agent.store.run_labels import RunLabels, read_labels
from agent.store.runs import Run

T = TypeVar("T")

_NO_ROW: Final = 0
_NUMBER: Final = ("seq", "event_seq")
_HEADLINE: Final = ("id", "ts", "available_at", "title", "publisher", "feed", "url", "symbols", "actionable")
_SCORE: Final = (
    *("news_id", "available_at", "bearish", "neutral", "bullish", "abstained", "model", "latency_ms"),
    *("kind", "provisional", "assets"),
)


class _RowPosition(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    seq: int


class _RunPosition(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    started_at: int
    id: str


# -- runs ------------------------------------------------------------------------------------------------


def read_runs(database: Database, query: RunsQuery) -> RunPage:
    """Return a page of the runs that `tapewire runs` lists, newest first."""
    wanted = RunFilter(
        query.kind or "", query.strategy or "", query.symbol or "", query.since, query.tag, query.status or ""
    )
    listed = "runs", *wanted
    found = [line for line in listed_runs(database) if wanted.accepts_any(line)]
    found.sort(key=_run_key, reverse=True)
    cursor = query.cursor or ""
    if cursor:
        last = decode_cursor(cursor, listed, _RunPosition)
        found = [line for line in found if _run_key(line) < (last.started_at, last.id)]
    shown = found[: query.limit]
    if shown:
        cursor = encode_cursor(listed, _run_key(shown[-1]))
    return RunPage(cursor, len(found) > len(shown), tuple(map(_run_entry, shown)))


def _run_key(line: ListedRun) -> tuple[int, str]:
    return line.row.started_at, line.row.id


def _run_entry(line: ListedRun) -> RunEntry:
    row = {name: getattr(line.row, name) for name in line.row.__struct_fields__}
    return RunEntry(**row, tags=line.tags, note=line.note, folds=len(line.folds))


def read_run(database: Database, run: Run) -> RunDetail:
    """Return a run with its labels."""
    labels = read_labels(database).get(run.id, RunLabels())
    return RunDetail(run, labels.tags, labels.note)


def read_metrics(database: Database, run: Run) -> RunMetrics:
    """Return the figures of the run's report. Raises DataError if it has recorded no equity yet."""
    if run.metrics:
        return RunMetrics(run.id, run.status.value, True, msgspec.convert(run.metrics, Metrics))
    from agent.analysis.report.report_loader import load_report_data  # imports pandas

    return RunMetrics(run.id, run.status.value, False, load_report_data(database, run.id).metrics)


# -- rows of a run ---------------------------------------------------------------------------------------


def read_trades(entries: list[TradeEntry], run: Run, query: RowsQuery) -> TradePage:
    """Return a page of all round trips of a run, which are in the order of their entries."""
    listed, after = _list_of("trades", run, query)
    wanted = (
        entry
        for entry in entries
        if entry.seq > after
        and query.symbol in (None, entry.trade.symbol)
        and (query.since is None or entry.trade.entry_ts >= query.since)
        and (query.until is None or entry.trade.entry_ts < query.until)
    )
    items, cursor, more = _cut(wanted, listed, query)
    return TradePage(cursor, more, items)


def read_orders(database: Database, run: Run, query: RowsQuery) -> OrderPage:
    """Return orders with their last state."""
    listed, after = _list_of("orders", run, query)
    rows, cursor, more = _cut(
        (
            OrderEntry(seq, event, Order(*values), None, Decimal(0), "")
            for seq, event, *values in _decisions(database, run, Order, after, query)
        ),
        listed,
        query,
    )
    states = _order_states(database, run, rows)
    items = tuple(
        row
        if (last := states.get(row.order.id)) is None
        else msgspec.structs.replace(row, status=last.status, filled=last.filled, reason=last.reason)
        for row in rows
    )
    return OrderPage(cursor, more, items)


def _order_states(database: Database, run: Run, rows: tuple[OrderEntry, ...]) -> dict[str, OrderUpdate]:
    """Return the last update of each order; stop reading once all are final."""
    states: dict[str, OrderUpdate] = {}
    working = {row.order.id for row in rows}
    if working:
        for _, _, _, update in read_numbered(database, run.id, (OrderUpdate,), rows[0].seq):
            if isinstance(update, OrderUpdate) and update.order_id in working:
                states[update.order_id] = update
                if update.status.final:
                    working.discard(update.order_id)
                    if not working:
                        break
    return states


def read_fills(database: Database, run: Run, query: RowsQuery) -> FillPage:
    """Return executions."""
    listed, after = _list_of("fills", run, query)
    rows = _decisions(database, run, Fill, after, query)
    items, cursor, more = _cut(
        (FillEntry(seq, event, Fill(*values)) for seq, event, *values in rows), listed, query
    )
    return FillPage(cursor, more, items)


def read_signals(database: Database, run: Run, query: RowsQuery) -> SignalPage:
    """Return signals."""
    listed, after = _list_of("signals", run, query)
    rows = _decisions(database, run, Signal, after, query)
    items, cursor, more = _cut(
        (SignalEntry(seq, event, Signal(*values)) for seq, event, *values in rows), listed, query
    )
    return SignalPage(cursor, more, items)


def read_equity(database: Database, run: Run, query: WindowQuery) -> EquityPage:
    """Return samples of the account."""
    listed, after = _list_of("equity", run, query)
    columns = ("seq", "ts", "equity", "cash", "exposure")
    rows = read_slice(database, run.id, "equity", columns, after=after, since=query.since, until=query.until)
    points = (EquityPoint(seq, ts, *map(_number, values)) for seq, ts, *values in rows)
    items, cursor, more = _cut(points, listed, query)
    return EquityPage(cursor, more, items)


def read_headlines(database: Database, run: Run, query: RowsQuery) -> HeadlinePage:
    """Return headlines with the scores of all models."""
    listed, after = _list_of("news", run, query)
    rows = read_slice(
        *(database, run.id, "news", (*_NUMBER, *_HEADLINE)),
        after=after,
        time="available_at",
        since=query.since,
        until=query.until,
    )
    entries = (_headline(row) for row in rows)
    found, cursor, more = _cut(
        (one for one in entries if query.symbol is None or query.symbol in one.symbols), listed, query
    )
    scores = _scores(database, run, found)
    items = tuple(
        msgspec.structs.replace(
            one, scores=tuple(scores.get(one.id, ())), score=_counting(scores.get(one.id, ()))
        )
        for one in found
    )
    return HeadlinePage(cursor, more, items)


def _headline(row: tuple[Any, ...]) -> HeadlineEntry:
    seq, event, id_, ts, available_at, title, publisher, feed, url, symbols, actionable = row
    return HeadlineEntry(
        *(seq, event, id_, ts, available_at, one_line(title, MAX_TITLE), one_line(publisher, MAX_TITLE)),
        *(feed, web_url(url), symbols, actionable, None, ()),
    )


def _scores(
    database: Database, run: Run, headlines: tuple[HeadlineEntry, ...]
) -> dict[str, list[ScoreEntry]]:
    """Return the scores of each headline; stop reading once each has one that won't be revised."""
    scores: dict[str, list[ScoreEntry]] = {}
    waiting = {one.id for one in headlines}
    if not waiting:
        return scores
    wanted = frozenset(waiting)
    rows = read_slice(database, run.id, "sentiments", _SCORE, from_event=headlines[0].event)
    for news_id, *values in rows:
        if news_id not in wanted:
            continue
        score = _score(values)
        revised = bool(scores.get(news_id))
        scores.setdefault(news_id, []).append(score)
        if revised or not score.provisional:
            waiting.discard(news_id)
            if not waiting:
                break
    return scores


def _score(values: list[Any]) -> ScoreEntry:
    available_at, bearish, neutral, bullish, abstained, model, latency, kind, provisional, assets = values
    return ScoreEntry(
        *(available_at, _number(bearish), _number(neutral), _number(bullish), abstained, model),
        *(_number(latency), kind, provisional, tuple(map(_asset, assets or ()))),
    )


def _asset(own: AssetSentiment) -> AssetProbabilities:
    return AssetProbabilities(own.asset, _number(own.bearish), _number(own.neutral), _number(own.bullish))


def _counting(scores: Iterable[ScoreEntry]) -> ScoreEntry | None:
    """Return the score that counts, as the core and the page choose it."""
    counting: ScoreEntry | None = None
    for score in scores:
        if counting is None or not counting.provisional or not score.abstained:
            counting = score
    return counting


# -- pages -----------------------------------------------------------------------------------------------


def _list_of(name: str, run: Run, query: WindowQuery) -> tuple[tuple[object, ...], int]:
    """Return what identifies the list, and the number of the last row before the page.

    Raises RequestProblem for a symbol that the run doesn't trade, and for a cursor of another list.
    """
    symbol = getattr(query, "symbol", None)
    check_symbol(run, symbol)
    listed = (name, run.id, query.since, query.until, symbol)
    if query.cursor is None:
        return listed, _NO_ROW
    return listed, decode_cursor(query.cursor, listed, _RowPosition).seq


def check_symbol(run: Run, symbol: str | None) -> None:
    """Raise RequestProblem for a symbol that the run doesn't trade."""
    traded = traded_symbols(run)
    if symbol is not None and symbol not in traded:
        raise RequestProblem(
            "invalid-parameter",
            f"symbol: run {run.id} doesn't trade {symbol}",
            where="symbol",
            hint=did_you_mean(symbol, traded, f"it trades {', '.join(traded)}"),
        )


def _cut(
    rows: Iterable[T], listed: tuple[object, ...], query: WindowQuery
) -> tuple[tuple[T, ...], str, bool]:
    """Return the rows of a page, its cursor, and whether more rows follow now."""
    found = tuple(islice(rows, query.limit + 1))
    shown = found[: query.limit]
    last: Any = shown[-1] if shown else None
    position = query.cursor if last is None else encode_cursor(listed, (last.seq,))
    return shown, position or encode_cursor(listed, (_NO_ROW,)), len(found) > len(shown)


def _decisions(
    database: Database, run: Run, kind: type[Order | Fill | Signal], after: int, query: RowsQuery
) -> Iterator[tuple[Any, ...]]:
    names = {Order: "orders", Fill: "fills", Signal: "signals"}
    equal = {} if query.symbol is None else {"symbol": query.symbol}
    columns = (*_NUMBER, *kind.__struct_fields__)
    return read_slice(
        *(database, run.id, names[kind], columns),
        after=after,
        since=query.since,
        until=query.until,
        equal=equal,
    )


def _number(value: float | None) -> float | None:
    return None if value is None or not isfinite(value) else value
