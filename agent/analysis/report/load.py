"""The data of a report from the store, and from the run's input files for what the store doesn't copy: prices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from sqlalchemy import select

from agent.analysis.benchmark import BuyAndHold
from agent.analysis.equity import EquityCurve
from agent.analysis.metrics import Metrics, compute
from agent.analysis.report.data import Headline, ReportData, Series, recorded_config
from agent.analysis.trades import Trade, TradeBook
from agent.config import Config
from agent.durations import format_duration
from agent.errors import DataError
from agent.events import Fill, FundingPayment, Kline, News, Order, RiskEvent, Signal
from agent.feeds.history.columns import content_hash
from agent.feeds.history.klines import KlineFile
from agent.feeds.merge import merge
from agent.store.database import Database
from agent.store.journal import read_journal
from agent.store.queries import find_run, read_decisions, read_rows
from agent.store.runs import InputFile, Run, RunKind
from agent.store.tables import equity as equity_table


def load_report_data(database: Database, which: str = "latest") -> ReportData:
    """All of a run's report; `which` is its id, the beginning of it, or `latest`.

    Raises UsageError where there is no such run, DataError where it has recorded nothing yet.
    """
    run = find_run(database, which)
    config, notes = recorded_config(run), list[str]()
    curve = _equity(database, run, config)
    book, trades, sources, risk, refusals = _decisions(database, run.id)
    recorded = msgspec.convert(run.metrics, Metrics) if run.metrics else None
    samples = curve.summary()
    start, end = (recorded.start, recorded.end) if recorded else (samples.start, samples.end)
    hold = _benchmark(database, run, config, start, end, notes)
    if recorded is None:
        every = format_duration(samples.interval)
        notes.append(f"The run is {run.status.value}: its figures are of the account's recorded samples, one every {every}.")
    return ReportData(
        run=run,
        metrics=recorded or compute(curve, book, category=config.market.category, interval=samples.interval, benchmark=hold),
        equity=Series(*curve.points()),
        benchmark=Series(*hold.portfolio.points()) if hold else Series(),
        prices={symbol: Series(*hold.prices(symbol)) for symbol in hold.symbols} if hold else {},
        trades=trades,
        headlines=_headlines(database, run.id, sources),
        risk=risk,
        refusals=refusals,
        notes=notes,
    )


def _equity(database: Database, run: Run, config: Config) -> EquityCurve:
    """The recorded samples of the account, as a curve of their own interval."""
    columns = equity_table.c.ts, equity_table.c.equity, equity_table.c.exposure
    query = select(*columns).where(equity_table.c.run_id == run.id).order_by(equity_table.c.seq)
    curve: EquityCurve | None = None
    with database.read() as connection:
        for rows in connection.execute(query.execution_options(yield_per=10_000)).partitions():
            ts, equity, exposure = (np.array(column) for column in zip(*rows, strict=True))
            if curve is None:
                interval = int(np.median(np.diff(ts))) if len(ts) > 1 else config.market.interval
                curve = EquityCurve(float(config.account.initial_capital), interval)
            curve.extend(ts, equity, exposure > 0)
    if curve is None:
        raise DataError(
            f"run {run.id} has recorded no equity yet", hint=f"it is {run.status.value}; there is nothing to report"
        )
    return curve


class _Decisions(NamedTuple):
    """What the report needs of a run's decisions."""

    book: TradeBook
    trades: list[Trade]  # in order of their exit, the open ones last
    sources: dict[str, tuple[str, ...]]  # client order id -> headlines whose signal, in the same event, led to it
    risk: list[RiskEvent]
    refusals: dict[str, int]


def _decisions(database: Database, run_id: str) -> _Decisions:
    book, trades, risk, refusals = TradeBook(), list[Trade](), list[RiskEvent](), Counter[str]()
    signals: dict[str, tuple[int, tuple[str, ...]]] = {}
    sources: dict[str, tuple[str, ...]] = {}
    for _, event_seq, _, decision in read_decisions(database, run_id):
        match decision:
            case Signal():
                signals[decision.symbol] = event_seq, decision.sources
            case Order():
                signalled, headlines = signals.get(decision.symbol, (None, ()))
                if signalled == event_seq:
                    sources[decision.id] = headlines
            case RiskEvent(symbol=""):
                risk.append(decision)
            case RiskEvent():
                refusals[decision.rule] += 1
            case FundingPayment():
                book.add_funding(decision)
            case Fill():
                closed = book.add(decision)
                if closed is not None:
                    trades.append(closed)
    return _Decisions(book, trades + book.open_trades(), sources, risk, dict(refusals))


def _headlines(database: Database, run_id: str, sources: dict[str, tuple[str, ...]]) -> dict[str, list[Headline]]:
    wanted = {source for ids in sources.values() for source in ids}
    known = {
        news.id: Headline(news.title, news.publisher, news.ts)
        for news in (read_rows(database, run_id, News) if wanted else ())
        if news.id in wanted
    }
    return {order: [known[source] for source in ids if source in known] for order, ids in sources.items()}


def _benchmark(database: Database, run: Run, config: Config, start: int, end: int, notes: list[str]) -> BuyAndHold | None:
    """The closes that the run saw between `start` and `end` (UTC ms), as buy-and-hold of its symbols."""
    if run.kind is RunKind.LIVE:
        bars: Iterator[Kline] = iter(_journalled(database, run, config, start))
    else:
        bars = _replayed(run, config, start, end, notes)
    hold: BuyAndHold | None = None
    for bar in bars:
        if bar.ts <= end:
            hold = hold or BuyAndHold(config.market.symbols, float(config.account.initial_capital), config.market.interval)
            hold.add(bar.symbol, bar.ts, bar.close)
    return hold


def _replayed(run: Run, config: Config, start: int, end: int, notes: list[str]) -> Iterator[Kline]:
    """The bars of the run's own kline files, streamed."""
    interval, open_always = config.market.interval, config.market.category != "equity"
    sources = [
        KlineFile(file.path, file.symbol, interval, start=start, end=end, around_the_clock=open_always)
        for file in run.inputs
        if file.role == "klines" and _unchanged(file, notes)
    ]
    return (event for event in merge(sources) if isinstance(event, Kline))


def _journalled(database: Database, run: Run, config: Config, start: int) -> list[Kline]:
    """The closed bars of the run's journal in the order of their time; it has late ones where they came."""
    bars = (event for _, event in read_journal(database, run.id) if isinstance(event, Kline) and event.confirm)
    return sorted(
        (bar for bar in bars if bar.start >= start and bar.interval == config.market.interval), key=attrgetter("ts", "symbol")
    )


def _unchanged(file: InputFile, notes: list[str]) -> bool:
    """Whether the file is still what the run read; if not, a note says what the page lacks."""
    path = Path(file.path)
    if not path.exists():
        notes.append(f"{path} is gone, so the price of {file.symbol} can't be drawn.")
    elif content_hash(path) != file.sha256:
        notes.append(f"{path} has changed since the run, so the price of {file.symbol} is not drawn.")
    else:
        return True
    return False
