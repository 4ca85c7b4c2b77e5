"""Load the data of a report from the store, and prices from the run's input files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET
from sqlalchemy import select

from agent.analysis.benchmark import BuyAndHoldBenchmark
from agent.analysis.daily import Closes, Floats, Ints
from agent.analysis.equity import EquityCurve, without_flows
from agent.analysis.order_causes import OrderCauses
from agent.analysis.outcomes import Forecasts
from agent.analysis.report.candles import ALL, FEWEST, candles_of
from agent.analysis.report.plotted_lines import PlottedLines
from agent.analysis.report.prices import bars_of
from agent.analysis.report.protective_levels import ProtectiveLevels
from agent.analysis.report.recorded_drift import model_drift_of
from agent.analysis.report.recorded_members import members_of
from agent.analysis.report.recorded_sleeves import sleeve_risk_of, sleeves_of
from agent.analysis.report.report_data import Curve, ReportData, RevisionSummary, recorded_config
from agent.analysis.report.revisions import read_given_up, summarise
from agent.analysis.report.run_evidence import RunRecord, evidence_of
from agent.analysis.report.scored_headlines import (
    RecordedHeadline,
    event_headlines,
    headline_markers,
    read_news,
    read_scored_headlines,
)
from agent.analysis.run_metrics import Metrics, compute
from agent.analysis.thinning import thinned
from agent.analysis.trade_groups import analyse_trades, worst_drawdowns
from agent.analysis.trades import RoundTrip, TradeBook
from agent.config import Config
from agent.core.durations import format_bar_length
from agent.core.errors import DataError, ModelError, StoreError
from agent.core.events import (
    AccountSnapshot,
    CashAdjustment,
    Command,
    Direction,
    Fill,
    FillKind,
    FundingPayment,
    Order,
    OrderUpdate,
    Plot,
    Prediction,
    RiskEvent,
    Sentiment,
    Signal,
)
from agent.core.risk import NOTES, SHORT_HISTORY, WARM_UP
from agent.core.votes import leading
from agent.store.database import Database
from agent.store.journal import read_journal
from agent.store.queries import find_run, read_decisions, read_rows
from agent.store.runs import FUSION_VERSION, Run, RunKind
from agent.store.strategy_history import recorded_versions
from agent.store.tables import equity as equity_table
from models.cards import read_card


def load_report_data(database: Database, which: str = "latest") -> ReportData:
    """Load the report of a run; `which` is its id, a prefix of it, or `latest`.

    Raises UsageError if the run does not exist, DataError if it has recorded no equity yet.
    """
    run = find_run(database, which)
    config, notes = recorded_config(run), list[str]()
    ts, equity, exposed = equity_samples(database, run)
    known = len(ts) < 2 or config.market.calendar_bars
    interval = config.market.interval if known else int(np.median(np.diff(ts)))
    decided = _decisions(database, run.id)
    if warm_up := (run.config.get("window") or {}).get("warm_up"):
        needed = ", ".join(f"{bars:,} bars of {interval}" for interval, bars in warm_up.items())
        notes.append(f"Before its start the run read {needed} without trading, as far as there were any.")
    notes += [*dict.fromkeys(decided.short), *decided.lines.notes(), *decided.levels.notes()]
    if config.execution.mode == "testnet":
        decided.flows[:0] = unrecorded_flow(database, run, config)
    initial, equity = without_flows(ts, equity, decided.flows, float(config.account.initial_capital))
    if later := [amount for at, amount in decided.flows if at > ts[0]]:
        notes.append(
            f"Deposits minus withdrawals during the run were {sum(later):+,.2f} {config.account.currency}; "
            "they are excluded from the returns."
        )
    curve = EquityCurve(initial, interval)
    curve.extend(ts, equity, exposed)
    recorded = msgspec.convert(run.metrics, Metrics) if run.metrics else None
    samples = curve.summary()
    start, end = (recorded.start, recorded.end) if recorded else (samples.start, samples.end)
    bars = bars_of(database, run, config, start, end, notes)
    closes = {symbol: Closes(own.close_ts, own.close) for symbol, own in bars.items()}
    most = max(ALL // max(len(bars), 1), FEWEST)
    seen = {symbol: own.since(start) for symbol, own in closes.items()}
    hold = BuyAndHoldBenchmark(config.market.symbols, initial, config.market.interval)
    hold.extend(seen)
    if recorded is None:
        every = format_bar_length(interval)
        notes.append(
            f"The run is {run.status.value}, so its figures are computed from the recorded equity samples, "
            f"one every {every}."
        )
    held = [symbol for symbol in config.market.symbols if symbol in seen and len(seen[symbol].ts)]
    benchmark = hold if held else None
    metrics = recorded or compute(
        curve, decided.book, category=config.market.category, interval=interval, benchmark=benchmark
    )
    news = read_news(database, run.id)
    scored = read_scored_headlines(database, run.id, news, config.market.symbols)
    record = RunRecord(
        config=config,
        start=start,
        initial=metrics.initial_equity,
        net=metrics.final_equity - metrics.initial_equity,
        ts=ts,
        equity=equity,
        closes=closes,
        moves=decided.moves,
        trades=decided.trades,
        forecasts={"signals": _forecasts(decided.signals), "predictions": _forecasts(decided.predictions)},
        headlines=event_headlines(scored),
        horizon=horizon_of(run, config, notes) if decided.predictions else None,
        kinds=[s.sentiment.kind for s in scored],
        own=sum(s.is_own for s in scored),
    )
    return ReportData(
        run=run,
        metrics=metrics,
        equity=Curve(*curve.points()),
        evidence=evidence_of(record),
        benchmark=Curve(*hold.portfolio.points()),
        prices={symbol: Curve(*thinned(seen[symbol].ts, seen[symbol].price)) for symbol in held},
        candles={
            symbol: candles_of(bars[symbol].since(start), config.market.interval, most) for symbol in held
        },
        levels=decided.levels.by_symbol(),
        plots=decided.lines.curves(),
        marks=headline_markers(scored, news, seen),
        trades=decided.trades,
        analysis=analyse_trades(decided.trades) if decided.book.stats.trades else None,
        drawdowns=worst_drawdowns(ts, equity, initial, start=start),
        samples=int(np.median(np.diff(ts))) if len(ts) > 1 else interval,
        headlines={
            order: [news[source].headline for source in ids if source in news]
            for order, ids in decided.sources.items()
        },
        risk=decided.risk,
        refusals=decided.refusals,
        model_drift=model_drift_of(database, run.id, config, scored, closes),
        members=members_of(database, run.id, config, news, closes),
        revisions=_revisions(database, run, config, news, notes),
        sleeves=sleeves_of(database, run.id, config),
        sleeve_risk=sleeve_risk_of(database, run.id) if config.sleeves else [],
        strategies=recorded_versions(database, run),
        notes=notes,
    )


def _revisions(
    database: Database, run: Run, config: Config, news: Mapping[str, RecordedHeadline], notes: list[str]
) -> RevisionSummary | None:
    """Compare the scores of a cascade. If the journal can't be read, a note says what is missing."""
    causes: dict[str, str] = {}
    if run.kind is RunKind.LIVE and config.model.revise_with:
        try:
            causes = read_given_up(database, run.id)
        except StoreError as error:
            notes.append(f"Why headlines were not revised is unknown: {error.message}.")
    headlines = {id_: one.headline for id_, one in news.items()}
    return summarise(read_rows(database, run.id, Sentiment), headlines, causes)


def horizon_of(run: Run, config: Config, notes: list[str]) -> int | None:
    """Return the horizon (ms) of the run's fusion model, or None with a note if its card is missing."""
    try:
        card = read_card(Path(config.fusion.path).expanduser())
    except ModelError:
        card = None
    if card is None or card.fingerprint != run.versions.get(FUSION_VERSION) or not card.hyper.get("horizon"):
        notes.append(
            "The card of the fusion model is missing, so its predictions are evaluated over "
            "signals.half_life, as signals are."
        )
        return None
    return int(card.hyper["horizon"] or 0)


def unrecorded_flow(database: Database, run: Run, config: Config) -> list[tuple[int, float]]:
    """Return the first balance minus the configured capital, for runs that didn't record changes of cash."""
    for number, (_, event) in enumerate(read_journal(database, run.id)):
        if number == 0 and isinstance(event, Command) and event.states_cash:
            return []
        if isinstance(event, AccountSnapshot):
            balance = event.balances.get(config.account.currency, Decimal(0))
            return [(event.ts, float(balance - config.account.initial_capital))]
    return []


def equity_samples(
    database: Database, run: Run
) -> tuple[Ints, Floats, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    """Return the recorded equity samples: times (UTC ms), equity, and whether a position was open."""
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
            hint=f"it is {run.status.value} and has nothing to report",
        )
    ts, equity, exposure = np.concatenate(blocks).T
    return ts.astype(np.int64), equity.copy(), exposure > 0


_Forecast = tuple[int, str, int, float]  # time (UTC ms), symbol, class, confidence


class _Decisions(NamedTuple):
    """The parts of a run's decisions that the report needs."""

    book: TradeBook
    moves: dict[str, list[Fill | FundingPayment]]  # by symbol, in booking order
    trades: list[RoundTrip]  # in order of exit, the open ones last
    sources: dict[str, tuple[str, ...]]  # client order id -> headlines of the signal in the same event
    signals: list[_Forecast]
    predictions: list[_Forecast]
    risk: list[RiskEvent]
    refusals: dict[str, int]
    flows: list[tuple[int, float]]  # time (UTC ms) and amount of each deposit or withdrawal
    short: list[str]  # which symbols had less history than the strategy needs
    lines: PlottedLines
    levels: ProtectiveLevels


def _decisions(database: Database, run_id: str) -> _Decisions:
    book, trades, risk, refusals = TradeBook(), list[RoundTrip](), list[RiskEvent](), Counter[str]()
    moves: dict[str, list[Fill | FundingPayment]] = {}
    causes = OrderCauses()
    signals, predictions = list[_Forecast](), list[_Forecast]()
    flows = list[tuple[int, float]]()
    short, lines, levels = list[str](), PlottedLines(), ProtectiveLevels()
    for _, event_seq, _, decision in read_decisions(database, run_id):
        causes.add(event_seq, decision)
        match decision:
            case Signal():
                if not _is_expiry(decision):
                    predicted = leading(decision.bearish, decision.neutral, decision.bullish)
                    signals.append((decision.ts, decision.symbol, predicted, decision.confidence))
            case Prediction():
                probabilities = decision.down, decision.flat, decision.up
                predictions.append(
                    (decision.ts, decision.symbol, leading(*probabilities), max(probabilities))
                )
            case Order():
                levels.add(decision)
            case OrderUpdate():
                levels.update(decision)
            case RiskEvent() if decision.rule in (*NOTES, WARM_UP):
                if decision.rule == SHORT_HISTORY:
                    short.append(f"{decision.symbol}: {decision.detail}.")
            case RiskEvent(symbol=""):
                if decision.sleeve is UNSET:
                    risk.append(decision)
            case RiskEvent():
                refusals[decision.rule] += 1
            case CashAdjustment():
                flows.append((decision.ts, float(decision.amount)))
            case FundingPayment():
                moves.setdefault(decision.symbol, []).append(decision)
                book.add_funding(decision)
            case Plot():
                lines.add(decision)
            case Fill(kind=FillKind.INTERNAL):
                pass  # it moves nothing into or out of the account
            case Fill():
                moves.setdefault(decision.symbol, []).append(decision)
                closed = book.add(decision)
                if closed is not None:
                    trades.append(closed)
    trades += book.open_trades()
    return _Decisions(
        *(book, moves, trades, causes.sources, signals, predictions, risk, dict(refusals), flows),
        *(short, lines, levels),
    )


def _is_expiry(signal: Signal) -> bool:
    """Return True for a HOLD while another class leads: it ends an earlier signal and forecasts nothing."""
    return signal.direction is Direction.HOLD and leading(signal.bearish, signal.neutral, signal.bullish) != 1


def _forecasts(rows: list[_Forecast]) -> Forecasts:
    ts, symbol, classes, confidence = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Forecasts(
        np.array(ts, np.int64),
        np.array(symbol, np.str_),
        np.array(classes, np.int64),
        np.array(confidence, float),
    )
