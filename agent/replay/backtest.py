"""Backtests: history files through the engine, and its decisions into the store."""

from __future__ import annotations

import gc
import platform
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
import numpy as np

from agent import __version__
from agent.analysis.benchmark import BuyAndHoldBenchmark
from agent.analysis.daily import Floats, Ints, PeriodSampler
from agent.analysis.deflation import StudyStanding, judged_period
from agent.analysis.equity import EquityCurve
from agent.analysis.run_metrics import Metrics, compute
from agent.analysis.significance import Moments, moments_of
from agent.analysis.sleeve_study import (
    SleeveStudy,
    study_sleeves,
)
from agent.analysis.trades import RoundTrip, TradeBook
from agent.config import Config
from agent.core.bar_block import BarBlock
from agent.core.engine import CORE, CORE_REVISION, EQUITY_BLOCK, Engine
from agent.core.errors import LeakageError
from agent.core.events import (
    DAY_MS,
    HOUR_MS,
    Decision,
    Event,
    Fill,
    FundingPayment,
    Kline,
    RiskEvent,
    RiskState,
)
from agent.core.exchange import MatchingExchange
from agent.core.risk import SHORT_HISTORY
from agent.core.settings import RiskConfig
from agent.core.sinks import SleevedSink
from agent.core.sleeves import SleevedEngine, engines_of
from agent.core.strategy import Strategy
from agent.core.trading_engine import TradingEngine
from agent.data.block_stream import BarSlice
from agent.data.cascade import models_of
from agent.data.sentiment import NamedScorer
from agent.replay.evaluations import Evaluated, Result, count_try
from agent.replay.event_feed import EventFeed, NumberingSink, ReplaySink, by_block
from agent.replay.fusion_model import check_scorer
from agent.replay.history import History
from agent.replay.open_engine import blaming_any, name_of, open_engine, params_of, sources_of
from agent.replay.run_notes import headline_note, refusal_notes, rejection_notes
from agent.replay.sleeve_sampler import SleeveSampler
from agent.store.database import Database
from agent.store.recorder import Recorder
from agent.store.runs import FUSION_VERSION, UNKNOWN_CUTOFF, Run, RunKind
from agent.store.tries import PYTHON, study_of
from agent.system.clock import iso
from models.sentiment.scorer_facts import notes_on_answers
from strategies import load_strategy

Progress = Callable[[int], None]
"""Called repeatedly with the market time (UTC ms) that the replay has reached."""

_TICK = 16_384  # events between two calls of `Progress`


class CompletedBacktest(NamedTuple):
    """Result of a backtest."""

    run: Run
    metrics: Metrics
    seconds: float
    notes: list[str]
    sleeves: SleeveStudy | None = None  # results by sleeve; None without sleeves
    standing: StudyStanding | None = None  # after all tries on the data; None for a part of an evaluation
    trades: tuple[RoundTrip, ...] = ()  # closed round trips, in order of exit
    refused: dict[str, int] = {}  # orders by the risk limit that refused them
    rejected: dict[str, int] = {}  # orders by the rule of the instrument or account that they broke


def backtest(
    history: History,
    database: Database,
    *,
    scorer: NamedScorer | None = None,
    stamps: tuple[str, ...] = (),
    versions: dict[str, str] | None = None,
    allow_leakage: bool = False,
    progress: Progress | None = None,
    by: str = PYTHON,
) -> CompletedBacktest:
    """Replay `history` through the engine, record everything, and compute the metrics.

    It is counted in the ledger of tries as one of `by` (see `Try.by`), unless it is a part of an evaluation,
    which is counted as a whole.

    Raises LeakageError if the fusion model saw this window (see `refuse_leakage`), DataError, StoreError,
    ReconciliationError. After an error the run is marked as failed.
    """
    config, predictor = history.config, history.predictor
    stamps = tuple(dict.fromkeys(stamps + refuse_models(history, scorer, allow_leakage=allow_leakage)))
    if predictor is not None:
        versions = (versions or {}) | {FUSION_VERSION: predictor.fingerprint}
    strategy = None if config.sleeves else load_strategy(config.strategy.name, config.strategy.params)
    run = Run(
        id=new_run_id(),
        kind=RunKind.BACKTEST,
        started_at=time.time_ns() // 1_000_000,
        strategy=name_of(config),
        params=params_of(config, strategy),
        config=config.persisted() | {"window": history.window},
        version=__version__,
        versions={CORE: CORE_REVISION, "python": platform.python_version(), "numpy": np.__version__}
        | sources_of(config)
        | (versions or {}),
        inputs=tuple(history.inputs),
        stamps=stamps + (("FILLS AT THE SIGNAL BAR'S OWN CLOSE",) if config.paper.fill == "close" else ()),
    )
    began = time.monotonic()
    sources = history.sources(scorer=scorer)
    with Recorder(database, run) as recorder:
        done = replay(history, strategy, recorder, sources, run_id=run.id, progress=progress)
        engine, metrics = done.engine, done.metrics
        run = recorder.finish(
            first_event_at=done.first,
            last_event_at=done.last,
            final_equity=engine.portfolio.exact_equity(),
            metrics=msgspec.to_builtins(metrics),
        )
    stands = None
    if not history.plan.part_of:
        evaluated = Evaluated(config, run.inputs, run.versions, history.plan.timezone)
        result = Result(evaluated, done.period, done.moments, metrics.performance.total_return, run.id)
        study = study_of(run.inputs, history.start, history.end)
        stands = count_try(database, study, result, by=by, kind="backtest")
    counts = {**engine.counts, **engine.signals.counts}
    sleeves = None
    if config.sleeves and done.sleeves is not None:
        sleeves = study_sleeves(config, done.sleeves.histories, done.sleeves.internal.totals)
    notes = [*history.notes, *history.notes_on_scores(), *_notes_on_models(scorer)]
    notes += [headline_note(name, n) for name, n in sorted(counts.items()) if n]
    for name, part in engines_of(engine).items():
        notes += [
            f"{name}: {note}" if name else note for note in _notes_on_orders(part, _limits(config, name))
        ]
    if isinstance(engine, SleevedEngine):
        notes += _notes_on_sleeves(engine, config.risk)
    notes += done.short_histories
    risk = engine.risk
    if risk.state is not RiskState.ACTIVE and not history.closes_out:
        ended = f"the run ended {risk.state.value} by {risk.rule}"
        notes.append(f"{ended}: no new positions since {iso(risk.since)}")
    refused, rejected = Counter(engine.risk.refusals), Counter[str]()
    for part in engines_of(engine).values():
        rejected.update(part.exchange.refusals)
        if part is not engine:
            refused.update(part.risk.refusals)
    return CompletedBacktest(
        *(run, metrics, time.monotonic() - began, notes, sleeves, stands),
        trades=tuple(done.trades),
        refused=dict(refused),
        rejected=dict(rejected),
    )


def refuse_models(history: History, scorer: NamedScorer | None, *, allow_leakage: bool) -> tuple[str, ...]:
    """Return the stamps of the fusion model: see `refuse_leakage`.

    Raises LeakageError, and ConfigError if it was trained on scores of another model.
    """
    predictor = history.predictor
    if predictor is None:
        return ()
    seen, path = predictor.card.trained_until, history.config.fusion.path
    stamps = refuse_leakage(seen, history.start, model=path, allow=allow_leakage)
    if scorer is not None:
        check_scorer(predictor, scorer.fingerprint)
    return stamps


def _notes_on_models(scorer: NamedScorer | None) -> list[str]:
    return [note for model in models_of(scorer) for note in notes_on_answers(model)]


def _limits(config: Config, sleeve: str) -> RiskConfig:
    """Return the limits of a sleeve; of the account for an empty name."""
    own = next((one.risk for one in config.sleeves if one.name == sleeve), {})
    return RiskConfig.model_validate(config.risk.model_dump() | own)


def _notes_on_orders(engine: Engine, limits: RiskConfig) -> list[str]:
    """Return notes on rejected and unfilled orders, and on positions too small to sell."""
    exchange = engine.exchange
    notes = [*rejection_notes(exchange.refusals), *refusal_notes(engine.risk.refusals, limits)]
    if not isinstance(exchange, MatchingExchange):
        return notes
    if idle := exchange.bars_without_volume:
        share = "all" if idle == exchange.bars_met else f"{idle:,} of {exchange.bars_met:,}"
        notes.append(
            f'volume is 0 in {share} bars that orders met: liquidity = "participation" fills nothing in them '
            '(paper.liquidity = "infinite" does)'
        )
    if few := exchange.bars_below_a_lot:
        share = f"in {few:,} of {exchange.bars_met:,} bars that orders met"
        notes.append(
            f"{share} paper.max_participation of the volume is less than one lot: nothing is filled in them"
        )
    for symbol, state in engine.states.items():
        position, rules = state.position, state.instrument
        value = abs(position.qty) * position.mark_decimal
        small = value < rules.min_notional or abs(position.qty) < rules.min_qty
        if position.qty and small and not rules.is_margined:
            notes.append(
                f"{position.qty} {symbol} are left, worth {value:.2f}: no order may be that small "
                f"(minimum value {rules.min_notional}, quantity {rules.min_qty})"
            )
    return notes


def _notes_on_sleeves(engine: SleevedEngine, limits: RiskConfig) -> list[str]:
    """Return notes on sleeves that are not enabled, failed or were halted, and on refusals of the account."""
    notes = [
        f"sleeve {one.name} is not enabled: its share of {one.share} stays idle"
        for one in engine.configured
        if not one.enabled
    ]
    notes += [f"sleeve {name} was stopped: {failure}" for name, failure in engine.failures.items()]
    for name, sleeve in engine.sleeves.items():
        risk = sleeve.engine.risk
        if risk.state is not RiskState.ACTIVE and name not in engine.failures:
            since = f"no new positions since {iso(risk.since)}"
            notes.append(f"sleeve {name} ended {risk.state.value} by {risk.rule}: {since}")
    return notes + refusal_notes(engine.risk.refusals, limits, whose=" by the account's limits")


class ReplayResult(NamedTuple):
    """Engine after its last event; `first` and `last` are `available_at` of the events that it handled.

    `moments` are of the returns per `period` (ms).
    """

    engine: TradingEngine
    metrics: Metrics
    first: int | None
    last: int | None
    period: int
    moments: Moments
    short_histories: list[str] = []  # which symbols had less history than the strategy needs
    sleeves: SleeveSampler | None = None
    trades: Sequence[RoundTrip] = ()  # closed round trips, in order of exit


def replay(
    history: History,
    strategy: Strategy | None,
    recorder: ReplaySink,
    sources: Sequence[Iterable[Event]],
    *,
    run_id: str,
    progress: Progress | None = None,
) -> ReplayResult:
    """Merge `sources` into a fresh engine with the sink `recorder`; metrics begin at the window's start.

    `strategy` is None if the configuration has sleeves, which have their own.

    Raises DataError, StrategyError, ReconciliationError, and whatever `recorder` raises.
    """
    config = history.config
    period = judged_period(history.start, history.end, config.market.interval)
    numbers = NumberingSink(recorder)
    sink = BacktestSink(numbers, config, after=history.start if history.warms_up else 0, period=period)
    engine = open_engine(config, sink, run_id=run_id, strategy=strategy, predictor=history.predictor)
    with blaming_any(engine), rare_collection():
        first, last = _run(EventFeed(engine, numbers, by_block(engine, sources)), sink, progress)
        sink.close()
        metrics = compute(
            sink.curve,
            sink.trades,
            category=config.market.category,
            interval=config.market.interval,
            benchmark=sink.benchmark,
        )
    short = [f"{', '.join(symbols)}: {detail}" for detail, symbols in sink.short_histories.items()]
    moments = moments_of(sink.by_period.returns())
    return ReplayResult(
        *(engine, metrics, first, last, period, moments, short, sink.sleeves), trades=sink.closed
    )


def _run(feed: EventFeed, sink: BacktestSink, progress: Progress | None) -> tuple[int | None, int | None]:
    """Run an engine to its end; return `available_at` of the first and the last event."""
    first = last = None
    tick = _TICK
    hold, after = sink.benchmark.add, sink.after
    for part in feed:
        if isinstance(part, BarSlice):
            block = part.block
            if not part.first:
                sink.hold(block)
            begin, last = int(block.end[part.first]), int(block.end[part.last - 1])
        else:
            if part.__class__ is Kline and part.ts > after:
                hold(part.symbol, part.ts, part.close)
            begin = last = part.available_at
        first = begin if first is None else first
        if progress and feed.events >= tick:
            tick = feed.events + _TICK
            progress(last)
    feed.finish()
    return first, last


class BacktestSink:
    """Forwards everything to `inner` and accumulates the inputs of the metrics.

    Of equity, the first sample of each hour is forwarded; samples up to `after` (UTC ms) are dropped.
    """

    def __init__(self, inner: SleevedSink, config: Config, *, after: int = 0, period: int = DAY_MS) -> None:
        capital = float(config.account.initial_capital)
        interval = config.market.interval
        self.curve = EquityCurve(capital, interval)
        self.by_period = PeriodSampler(capital, period)
        self.trades = TradeBook()
        self.closed: list[RoundTrip] = []
        self.benchmark = BuyAndHoldBenchmark(config.market.symbols, capital, interval)
        self.news = inner.news
        self.sentiment = inner.sentiment
        self.short_histories: dict[str, list[str]] = {}
        """What is missing of the warm-up -> the symbols."""
        self.sleeves = SleeveSampler(inner, config, after=after)
        self.sleeve_equity = self.sleeves.sample
        self._inner = inner
        self._decision = inner.decision
        self._every = HOUR_MS
        self._hour = 0
        self.after = after
        self._waiting: list[list[Any]] = []  # columns of samples, fewer than a block
        self._samples = 0  # of them

    def decision(self, decision: Decision) -> None:
        self._decision(decision)
        if decision.__class__ is Fill:
            if self.sleeves.add(decision):
                closed = self.trades.add(decision)
                if closed is not None:
                    self.closed.append(closed)
        elif decision.__class__ is FundingPayment:
            self.sleeves.add(decision)
            self.trades.add_funding(decision)
        elif decision.__class__ is RiskEvent and decision.rule == SHORT_HISTORY:
            self.short_histories.setdefault(decision.detail, []).append(decision.symbol)

    def hold(self, block: BarBlock) -> None:
        """Add bars to the benchmark."""
        row = int(block.end.searchsorted(self.after, "right"))
        numbers = None if block.numbers is None else block.numbers[row:]
        self.benchmark.add_block(block.symbols, numbers, block.end[row:], block.close[row:])

    def equity(
        self, ts: Sequence[int], equity: Sequence[float], cash: Sequence[float], exposure: Sequence[float]
    ) -> None:
        self._waiting.append([np.asarray(column) for column in (ts, equity, cash, exposure)])
        self._samples += len(ts)
        if self._samples >= EQUITY_BLOCK:
            self._fold(EQUITY_BLOCK)

    def close(self) -> None:
        """Fold the last samples, after the engine's end."""
        self._fold(max(1, self._samples))
        self.sleeves.close()

    def _fold(self, size: int) -> None:
        """Fold the samples in blocks of `size`: sums depend on the blocks in their last digits."""
        if not self._samples:
            return
        columns = [np.concatenate(parts) for parts in zip(*self._waiting, strict=True)]
        whole = self._samples - self._samples % size
        for first in range(0, whole, size):
            self._fold_block(*(column[first : first + size] for column in columns))
        self._waiting = [[column[whole:] for column in columns]]
        self._samples -= whole

    def _fold_block(self, ts: Ints, equity: Floats, cash: Floats, exposure: Floats) -> None:
        begin = int(ts.searchsorted(self.after, "right"))
        if begin == len(ts):
            return
        ts, equity, cash, exposure = ts[begin:], equity[begin:], cash[begin:], exposure[begin:]
        self.curve.extend(ts, equity, exposure > 0.0)
        self.by_period.extend(ts, equity)
        hours = ts // self._every
        rows = np.flatnonzero(np.diff(hours, prepend=self._hour))
        self._hour = int(hours[-1])
        if len(rows):
            self._inner.equity(*(column[rows].tolist() for column in (ts, equity, cash, exposure)))


@contextmanager
def rare_collection() -> Iterator[None]:
    """Collect garbage a hundred times less often, as the hot path makes no cycles: a tenth less time."""
    young, middle, old = gc.get_threshold()
    gc.freeze()  # excludes the program's own objects
    gc.set_threshold(max(young, 100_000), middle, old)
    try:
        yield
    finally:
        gc.set_threshold(young, middle, old)
        gc.unfreeze()


def new_run_id() -> str:
    """Return a unique id that sorts by time, such as `20250131-235959-1f3a09c7`.

    If a script records fifty runs a second for an hour, two have the same id with a probability of 0.1 %.
    """
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(4)}"


def refuse_leakage(trained_until: int | None, start: int, *, model: str, allow: bool) -> tuple[str, ...]:
    """Return the stamps of a run that begins at `start` with a model trained up to `trained_until` (UTC ms).

    Raises LeakageError if the window begins before that, or if it is None, which is unknown; with `allow` the
    stamps LEAKED and `UNKNOWN_CUTOFF` are returned instead.
    """
    if trained_until is None:
        if not allow:
            raise LeakageError(
                f"up to which day model {model} knows events is unknown: it may know the answers",
                hint='state the last day in llm.cutoffs, such as cutoffs = { "qwen3:8b" = 2025-03-31 }; with '
                f"--allow-leakage every report is marked {UNKNOWN_CUTOFF}",
            )
        return (UNKNOWN_CUTOFF,)
    if start >= trained_until:
        return ()
    if not allow:
        seen = f"model {model} saw data up to {iso(trained_until)}: it knows the answers"
        raise LeakageError(
            f"the backtest begins at {iso(start)}, but {seen}",
            hint=f"use --start {iso(trained_until)[:10]} or later; for a model of undated texts, train it "
            "with --latest DATE; with --allow-leakage every report is marked LEAKED",
        )
    return ("LEAKED",)
