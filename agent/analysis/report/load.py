"""The data of a report from the store, and from the run's input files for what the store doesn't copy: prices."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from sqlalchemy import select

from agent.analysis.benchmark import BuyAndHold
from agent.analysis.daily import Floats, Ints
from agent.analysis.equity import EquityCurve, without_flows
from agent.analysis.metrics import Metrics, compute
from agent.analysis.outcomes import Statements
from agent.analysis.report.data import ReportData, Series, recorded_config
from agent.analysis.report.evidence import Facts, evidence_of
from agent.analysis.report.news import as_headlines, marks_of, read_news, read_scored
from agent.analysis.report.prices import closes_of
from agent.analysis.trades import Trade, TradeBook
from agent.config import Config
from agent.core.durations import format_duration
from agent.core.errors import DataError, ModelError
from agent.core.events import (
    AccountSnapshot,
    CashAdjustment,
    Command,
    Direction,
    Fill,
    FundingPayment,
    Order,
    Prediction,
    RiskEvent,
    Signal,
)
from agent.core.risk import NOTES
from agent.core.votes import leading
from agent.store.database import Database
from agent.store.journal import read_journal
from agent.store.queries import find_run, read_decisions
from agent.store.runs import FUSION_VERSION, Run
from agent.store.tables import equity as equity_table
from models.cards import read_card


def load_report_data(database: Database, which: str = "latest") -> ReportData:
    """All of a run's report; `which` is its id, the beginning of it, or `latest`.

    Raises UsageError where there is no such run, DataError where it has recorded nothing yet.
    """
    run = find_run(database, which)
    config, notes = recorded_config(run), list[str]()
    ts, equity, exposed = _samples(database, run)
    known = len(ts) < 2 or config.market.calendar_bars
    interval = config.market.interval if known else int(np.median(np.diff(ts)))
    decided = _decisions(database, run.id)
    if config.execution.mode == "testnet":
        decided.flows[:0] = _unrecorded_flow(database, run, config)
    initial, equity = without_flows(ts, equity, decided.flows, float(config.account.initial_capital))
    if later := [amount for at, amount in decided.flows if at > ts[0]]:
        notes.append(
            f"{sum(later):+,.2f} {config.account.currency} came or went without a trade while it ran: the returns leave it out."
        )
    curve = EquityCurve(initial, interval)
    curve.extend(ts, equity, exposed)
    recorded = msgspec.convert(run.metrics, Metrics) if run.metrics else None
    samples = curve.summary()
    start, end = (recorded.start, recorded.end) if recorded else (samples.start, samples.end)
    closes = closes_of(database, run, config, start, end, notes)
    seen = {symbol: own.since(start) for symbol, own in closes.items()}
    hold = BuyAndHold(config.market.symbols, initial, config.market.interval)
    hold.extend(seen)
    if recorded is None:
        every = format_duration(interval)
        notes.append(
            f"The run is {run.status.value}: its figures are of the account's recorded samples, one every {every}."
        )
    benchmark = hold if hold.symbols else None
    metrics = recorded or compute(
        curve, decided.book, category=config.market.category, interval=interval, benchmark=benchmark
    )
    news = read_news(database, run.id)
    scored = read_scored(database, run.id, news, config.market.symbols)
    facts = Facts(
        config=config,
        start=start,
        initial=metrics.initial_equity,
        net=metrics.final_equity - metrics.initial_equity,
        ts=ts,
        equity=equity,
        closes=closes,
        moves=decided.moves,
        trades=decided.trades,
        statements={"signals": _statements(decided.signals), "predictions": _statements(decided.predictions)},
        headlines=as_headlines(scored),
        horizon=horizon_of(run, config, notes) if decided.predictions else None,
    )
    return ReportData(
        run=run,
        metrics=metrics,
        equity=Series(*curve.points()),
        evidence=evidence_of(facts),
        benchmark=Series(*hold.portfolio.points()),
        prices={symbol: Series(*hold.prices(symbol)) for symbol in hold.symbols},
        marks=marks_of(scored, news, seen),
        trades=decided.trades,
        headlines={
            order: [news[source].headline for source in ids if source in news]
            for order, ids in decided.sources.items()
        },
        risk=decided.risk,
        refusals=decided.refusals,
        notes=notes,
    )


def horizon_of(run: Run, config: Config, notes: list[str]) -> int | None:
    """How far ahead (ms) the run's fusion model looks, by its card."""
    try:
        card = read_card(Path(config.fusion.path).expanduser())
    except ModelError:
        card = None
    if card is None or card.fingerprint != run.versions.get(FUSION_VERSION) or not card.hyper.get("horizon"):
        notes.append(
            "The fusion model's card isn't at hand: its predictions are judged as signals are, over signals.half_life."
        )
        return None
    return int(card.hyper["horizon"] or 0)


def _unrecorded_flow(database: Database, run: Run, config: Config) -> list[tuple[int, float]]:
    """What the first look at the venue's account added to the configured capital, in runs that recorded no changes of cash."""
    for number, (_, event) in enumerate(read_journal(database, run.id)):
        if number == 0 and isinstance(event, Command) and event.states_cash:
            return []
        if isinstance(event, AccountSnapshot):
            balance = event.balances.get(config.account.currency, Decimal(0))
            return [(event.ts, float(balance - config.account.initial_capital))]
    return []


def _samples(database: Database, run: Run) -> tuple[Ints, Floats, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    """The recorded samples of the account: times (UTC ms), equity, and whether a position was held."""
    columns = equity_table.c.ts, equity_table.c.equity, equity_table.c.exposure
    query = select(*columns).where(equity_table.c.run_id == run.id).order_by(equity_table.c.seq)
    with database.read() as connection:
        blocks = [
            np.array([(float(ts), equity, exposure) for ts, equity, exposure in rows])
            for rows in connection.execute(query.execution_options(yield_per=10_000)).partitions()
        ]
    if not blocks:
        raise DataError(
            f"run {run.id} has recorded no equity yet",
            hint=f"it is {run.status.value}; there is nothing to report",
        )
    ts, equity, exposure = np.concatenate(blocks).T
    return ts.astype(np.int64), equity.copy(), exposure > 0


_Said = tuple[int, str, int, float]  # when, symbol, class, confidence


class _Decisions(NamedTuple):
    """What the report needs of a run's decisions."""

    book: TradeBook
    moves: dict[str, list[Fill | FundingPayment]]  # by symbol, as booked
    trades: list[Trade]  # in order of their exit, the open ones last
    # client order id -> headlines whose signal, in the same event, led to it
    sources: dict[str, tuple[str, ...]]
    signals: list[_Said]
    predictions: list[_Said]
    risk: list[RiskEvent]
    refusals: dict[str, int]
    flows: list[tuple[int, float]]  # UTC ms and amount of cash that came or went without a trade


def _decisions(database: Database, run_id: str) -> _Decisions:
    book, trades, risk, refusals = TradeBook(), list[Trade](), list[RiskEvent](), Counter[str]()
    moves: dict[str, list[Fill | FundingPayment]] = {}
    latest: dict[str, tuple[int, tuple[str, ...]]] = {}
    sources: dict[str, tuple[str, ...]] = {}
    signals, predictions = list[_Said](), list[_Said]()
    flows = list[tuple[int, float]]()
    for _, event_seq, _, decision in read_decisions(database, run_id):
        match decision:
            case Signal():
                latest[decision.symbol] = event_seq, decision.sources
                if not _fades(decision):
                    said = leading(decision.bearish, decision.neutral, decision.bullish)
                    signals.append((decision.ts, decision.symbol, said, decision.confidence))
            case Prediction():
                chances = decision.down, decision.flat, decision.up
                predictions.append((decision.ts, decision.symbol, leading(*chances), max(chances)))
            case Order():
                signalled, headlines = latest.get(decision.symbol, (None, ()))
                if signalled == event_seq:
                    sources[decision.id] = headlines
            case RiskEvent() if decision.rule in NOTES:
                pass
            case RiskEvent(symbol=""):
                risk.append(decision)
            case RiskEvent():
                refusals[decision.rule] += 1
            case CashAdjustment():
                flows.append((decision.ts, float(decision.amount)))
            case FundingPayment():
                moves.setdefault(decision.symbol, []).append(decision)
                book.add_funding(decision)
            case Fill():
                moves.setdefault(decision.symbol, []).append(decision)
                closed = book.add(decision)
                if closed is not None:
                    trades.append(closed)
    return _Decisions(
        book, moves, trades + book.open_trades(), sources, signals, predictions, risk, dict(refusals), flows
    )


def _fades(signal: Signal) -> bool:
    """Whether it only ends an earlier one: HOLD although another class leads. That says nothing about what comes."""
    return signal.direction is Direction.HOLD and leading(signal.bearish, signal.neutral, signal.bullish) != 1


def _statements(said: list[_Said]) -> Statements:
    ts, symbol, classes, confidence = zip(*said, strict=True) if said else ((), (), (), ())
    return Statements(
        np.array(ts, np.int64),
        np.array(symbol, np.str_),
        np.array(classes, np.int64),
        np.array(confidence, float),
    )
