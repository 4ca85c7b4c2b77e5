"""The replay rim: history files into the engine, its decisions into the store, and a run's inputs for `verify` to fold again."""

from __future__ import annotations

import gc
import platform
import secrets
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from datetime import UTC, datetime
from functools import cached_property
from itertools import count
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import msgspec
import numpy as np

from agent import __version__
from agent.analysis.benchmark import BuyAndHold
from agent.analysis.equity import EquityCurve
from agent.analysis.metrics import Metrics, compute
from agent.analysis.trades import TradeBook
from agent.clock import iso
from agent.config import Config
from agent.durations import format_duration
from agent.engine import Engine
from agent.errors import DataError, LeakageError, UsageError
from agent.events import HOUR_MS, Command, Decision, Event, Fill, FundingPayment, Kline, News, RiskState, Sentiment
from agent.feeds.history.columns import content_hash
from agent.feeds.history.funding import FundingFile, constant_funding
from agent.feeds.history.klines import KlineFile
from agent.feeds.history.news import NewsFile
from agent.feeds.history.sentiment import Scorer, SentimentFile, scored
from agent.feeds.merge import merge
from agent.fusion import VERSION, check_scorer, open_predictor
from agent.sink import DecisionSink
from agent.store.database import Database
from agent.store.recorder import Recorder
from agent.store.runs import InputFile, Run, RunKind
from strategies import blaming, load_strategy
from strategies.base import Strategy

if TYPE_CHECKING:
    from models.fusion.predictor import FusionPredictor

Progress = Callable[[int], None]
"""Called now and then with the market time (UTC ms) that the replay has reached."""

_TICK = 16_384  # events between two calls of it


class NamedScorer(Scorer, Protocol):
    """What turns headlines into sentiment, and says which model it is; `models.sentiment` has one."""

    @property
    def fingerprint(self) -> str:
        """Hash of all that decides a score."""
        ...


class Plan(NamedTuple):
    """What a backtest replays. The window is [start, end) in UTC ms of bar open times; None is the files' own.

    A window that is a part of a longer time may begin warm and end flat: `warmup` is how much history (ms) before `start` the engine
    reads without trading, and with `close_out` it opens nothing in the last `CLOSING_BARS` and leaves what it holds.
    """

    klines: tuple[tuple[Path, str | None], ...]  # with the symbol, where the file's name doesn't say it
    news: Path | None = None
    sentiment: Path | None = None  # scored already
    funding: Path | None = None
    start: int | None = None
    end: int | None = None
    timezone: str | None = None  # of times that name none
    warmup: int = 0
    close_out: bool = False
    part_of: str = ""  # the walk-forward that this is a fold of


CLOSING_BARS: Final = 2
"""Bars at the end of a window that is closed out: one to fill at, one in reserve."""


class History:
    """A plan's files, opened, checked and hashed; `sources` is what the engine will see."""

    def __init__(self, plan: Plan, config: Config) -> None:
        timezone = plan.timezone
        around_the_clock = config.market.category != "equity"
        reads_from = None if plan.start is None else plan.start - plan.warmup
        self.klines = [
            KlineFile(path, symbol, around_the_clock=around_the_clock, start=reads_from, end=plan.end, timezone=timezone)
            for path, symbol in plan.klines
        ]
        if plan.news is not None and plan.sentiment is not None:
            raise UsageError(
                "both headlines and scored headlines are named", hint="--news is scored by the model, --sentiment needs none"
            )
        self._plan = plan
        self.config = _adapted(config, self.klines)
        described = [file.describe() for file in self.klines]
        empty = next((file for file, facts in zip(self.klines, described, strict=True) if not facts["rows"]), None)
        if empty is not None:
            window = f"{_moment(plan.start)} to {_moment(plan.end)}"
            raise DataError(f"{empty.path}: no bars between {window}", hint="name a window that the file covers")
        self.bars = sum(int(str(facts["rows"])) for facts in described)
        self.start = plan.start if plan.start is not None else min(int(str(f["first"])) for f in described)
        self.end = max(int(str(facts["last"])) for facts in described) + self.config.market.interval
        self.reads_from = self.start - plan.warmup
        """UTC ms: where what the engine sees begins; trading begins at `start`."""
        self.notes = [
            f"{file.path.name}: {facts['gaps']} gaps, {facts['missing']} bars missing, {facts['duplicates']} duplicates dropped"
            for file, facts in zip(self.klines, described, strict=True)
            if facts["gaps"] or facts["duplicates"]
        ]
        self.inputs = [
            InputFile("klines", str(file.path), str(facts["sha256"]), file.symbol, int(str(facts["rows"])))
            for file, facts in zip(self.klines, described, strict=True)
        ]
        history = config.history
        self.news: list[News] = []
        if plan.news is not None:
            self.news = list(
                NewsFile(plan.news, feed_delay=history.feed_delay, start=self.reads_from, end=self.end, timezone=timezone)
            )
            self.inputs.append(InputFile("news", str(plan.news), content_hash(plan.news), rows=len(self.news)))
        if plan.sentiment is not None:
            self.inputs.append(InputFile("sentiment", str(plan.sentiment), content_hash(plan.sentiment)))
        if plan.funding is not None:
            self.inputs.append(InputFile("funding", str(plan.funding), content_hash(plan.funding)))

    @cached_property
    def predictor(self) -> FusionPredictor | None:
        """The fusion model that the configuration names. Raises what `open_predictor` raises."""
        return open_predictor(self.config)

    @property
    def warms_up(self) -> bool:
        """Whether history before `start` is read."""
        return self._plan.warmup > 0

    @property
    def closes_out(self) -> bool:
        """Whether the window ends flat."""
        return self._plan.close_out

    @property
    def window(self) -> dict[str, Any]:
        """What of the plan the inputs don't say; kept with the run."""
        plan = self._plan
        parts = {"warmup": plan.warmup, "close_out": plan.close_out, "part_of": plan.part_of}
        kept = {name: value for name, value in parts.items() if value}
        return {"start": plan.start, "end": plan.end, "timezone": plan.timezone} | kept

    def sources(self, *, scorer: NamedScorer | None = None, sentiments: Iterable[Sentiment] = ()) -> list[Iterable[Event]]:
        """Fresh iterators. The news is scored by `scorer`, or was once and `sentiments` are what the store remembers of it."""
        return [*self.market(), *self.wire(scorer=scorer, sentiments=sentiments)]

    def market(self) -> list[Iterable[Event]]:
        """The sources that no model has touched: bars, funding, and what begins and ends the trading of the window."""
        plan, paper = self._plan, self.config.paper
        sources: list[Iterable[Event]] = [*self.klines]
        if plan.funding is not None:
            sources.append(FundingFile(plan.funding, start=self.start, end=self.end, timezone=plan.timezone))
        elif self.config.market.category == "linear" and paper.funding_rate:
            sources.append(
                constant_funding(
                    self.config.market.symbols, float(paper.funding_rate), paper.funding_interval, self.start, self.end
                )
            )
        if plan.warmup or plan.close_out:
            sources.append(self._commands())
        return sources

    def wire(
        self,
        *,
        scorer: NamedScorer | None = None,
        sentiments: Iterable[Sentiment] = (),
        text: Callable[[News], str] = attrgetter("title"),
    ) -> list[Iterable[Event]]:
        """The sources of headlines and what was made of them; see `sources`. `text` is what of a headline the scorer reads."""
        plan, history = self._plan, self.config.history
        if plan.sentiment is not None:
            scores = SentimentFile(
                plan.sentiment,
                history.feed_delay,
                history.inference_latency,
                start=self.reads_from,
                end=self.end,
                timezone=plan.timezone,
            )
            return [scores]
        if scorer is not None:
            check_scorer(self.predictor, scorer.fingerprint)
            embedded = self.predictor is not None and self.predictor.reads_embeddings
            return [
                scored(self.news, scorer, history.inference_latency, model=scorer.fingerprint, text=text, embedded=embedded)
            ]
        return [self.news, sentiments]

    def under(self, config: Config) -> History:
        """The same files and window under another configuration, which must agree on `market` and `history`."""
        other = copy(self)
        other.config = config.model_copy(update={"market": self.config.market})
        other.__dict__.pop("predictor", None)
        return other

    def _commands(self) -> list[Event]:
        """What begins and ends the trading of a window that is part of a longer time."""
        commands: list[Event] = []

        def say(action: str, at: int, **args: str) -> None:
            commands.append(Command(action, at, at, args, by="window"))

        if self._plan.warmup:
            say("warm-up", self.reads_from)
            say("warm-up-done", self.start + 1)  # after the bar that closes at `start`, which is history still
        if self._plan.close_out:
            say("pause", self.end - CLOSING_BARS * self.config.market.interval, flatten="true")
        return commands


class Result(NamedTuple):
    """A finished backtest."""

    run: Run
    metrics: Metrics
    seconds: float
    notes: list[str]


def backtest(
    history: History,
    database: Database,
    *,
    scorer: NamedScorer | None = None,
    stamps: tuple[str, ...] = (),
    versions: dict[str, str] | None = None,
    allow_leakage: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Replay `history` through the engine, record everything, and measure.

    Raises LeakageError where the fusion model saw this window (see `refuse_leakage`), DataError, StoreError, ReconciliationError;
    the run is then marked failed, never complete.
    """
    config, predictor = history.config, history.predictor
    if predictor is not None:
        seen = predictor.card.trained_until
        leaked = refuse_leakage(seen, history.start, model=config.fusion.path, allow=allow_leakage)
        stamps = tuple(dict.fromkeys(stamps + leaked))
        versions = (versions or {}) | {VERSION: predictor.fingerprint}
    strategy = load_strategy(config.strategy.name, config.strategy.params)
    run = Run(
        id=new_run_id(),
        kind=RunKind.BACKTEST,
        started_at=time.time_ns() // 1_000_000,
        strategy=config.strategy.name,
        params=strategy.params.model_dump(mode="json"),
        config=config.recorded() | {"window": history.window},
        version=__version__,
        versions={"python": platform.python_version(), "numpy": np.__version__} | (versions or {}),
        inputs=tuple(history.inputs),
        stamps=stamps + (("FILLS AT THE SIGNAL BAR'S OWN CLOSE",) if config.paper.fill == "close" else ()),
    )
    began = time.monotonic()
    with Recorder(database, run) as recorder:
        done = replay(history, strategy, recorder, history.sources(scorer=scorer), run_id=run.id, progress=progress)
        engine, metrics = done.engine, done.metrics
        run = recorder.finish(
            first_event_at=done.first,
            last_event_at=done.last,
            final_equity=engine.portfolio.exact_equity(),
            metrics=msgspec.to_builtins(metrics),
        )
    notes = history.notes + [f"{name}: {n}" for name, n in sorted({**engine.counts, **engine.signals.counts}.items()) if n]
    if engine.risk.state is not RiskState.ACTIVE and not history.closes_out:
        notes.append(
            f"the run ended {engine.risk.state.value} by {engine.risk.rule}: no new positions since {iso(engine.risk.since)}"
        )
    return Result(run, metrics, time.monotonic() - began, notes)


class Listener(DecisionSink, Protocol):
    """A sink that is told the number of the event before its decisions."""

    event_seq: int


class Replay(NamedTuple):
    """An engine after its last event; `first` and `last` are `available_at` of the events that it handled."""

    engine: Engine
    metrics: Metrics
    first: int | None
    last: int | None


def replay(
    history: History,
    strategy: Strategy,
    listener: Listener,
    sources: Sequence[Iterable[Event]],
    *,
    run_id: str,
    progress: Progress | None = None,
) -> Replay:
    """Merge `sources` into a fresh engine that tells `listener`, and measure from the window's start on.

    Raises DataError, StrategyError, ReconciliationError, and what the listener raises.
    """
    config = history.config
    with blaming(strategy), rare_collection():
        sink = BacktestSink(listener, config, after=history.start if history.warms_up else 0)
        engine = Engine(config, strategy, sink, run_id=run_id, predictor=history.predictor)
        first = last = None
        tick = _TICK
        handle, hold, after = engine.handle, sink.benchmark.add, sink.after
        for listener.event_seq, event in zip(count(1), merge(sources)):
            if event.__class__ is Kline and event.ts > after:
                hold(event.symbol, event.ts, event.close)
            handle(event)
            if listener.event_seq >= tick:
                tick += _TICK
                if progress:
                    progress(event.available_at)
            last = event.available_at
            first = last if first is None else first
        engine.finish()
        metrics = compute(
            sink.curve, sink.trades, category=config.market.category, interval=config.market.interval, benchmark=sink.benchmark
        )
    return Replay(engine, metrics, first, last)


class BacktestSink:
    """Passes everything on to `inner`, and folds what the metrics need.

    Equity is passed on once an hour, or once a bar where bars are longer; that up to `after` (UTC ms) is left out.
    """

    def __init__(self, inner: DecisionSink, config: Config, *, after: int = 0) -> None:
        capital = float(config.account.initial_capital)
        interval = config.market.interval
        self.curve = EquityCurve(capital, interval)
        self.trades = TradeBook()
        self.benchmark = BuyAndHold(config.market.symbols, capital, interval)
        self.news = inner.news
        self.sentiment = inner.sentiment
        self._inner = inner
        self._decision = inner.decision
        self._every = max(HOUR_MS, interval)
        self._hour = 0
        self.after = after

    def decision(self, decision: Decision) -> None:
        """Passed on; executions go into the book of round trips."""
        self._decision(decision)
        if decision.__class__ is Fill:
            self.trades.add(decision)
        elif decision.__class__ is FundingPayment:
            self.trades.add_funding(decision)

    def equity(self, ts: Sequence[int], equity: Sequence[float], cash: Sequence[float], exposure: Sequence[float]) -> None:
        """Folded; the first sample of each hour is passed on."""
        if ts[0] <= self.after:
            begin = bisect_right(ts, self.after)
            ts, equity, cash, exposure = ts[begin:], equity[begin:], cash[begin:], exposure[begin:]
            if not ts:
                return
        n = len(ts)
        times = np.fromiter(ts, np.int64, n)
        self.curve.extend(times, np.fromiter(equity, np.float64, n), np.fromiter(exposure, np.float64, n) > 0.0)
        hours = times // self._every
        rows = np.flatnonzero(np.diff(hours, prepend=self._hour)).tolist()
        self._hour = int(hours[-1])
        if rows:
            pick = itemgetter(*rows, rows[-1])  # the last one twice, so that a single row makes a tuple, too
            self._inner.equity(pick(ts)[:-1], pick(equity)[:-1], pick(cash)[:-1], pick(exposure)[:-1])


@contextmanager
def rare_collection() -> Iterator[None]:
    """Look for cycles of garbage a hundred times less often: the hot path makes none, and looking costs a tenth of its time."""
    young, middle, old = gc.get_threshold()
    gc.freeze()  # what the program is made of needn't be looked at at all
    gc.set_threshold(max(young, 100_000), middle, old)
    try:
        yield
    finally:
        gc.set_threshold(young, middle, old)
        gc.unfreeze()


def new_run_id() -> str:
    """Sortable by start, and different from any other: `20250131-235959-1f3a`."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def refuse_leakage(trained_until: int, start: int, *, model: str, allow: bool) -> tuple[str, ...]:
    """The stamps of a run that begins at `start` with a model that saw text up to `trained_until` (both UTC ms).

    Raises LeakageError unless the window begins after it, or `allow` is set: then the stamp LEAKED comes back.
    """
    if start >= trained_until:
        return ()
    if not allow:
        raise LeakageError(
            f"the backtest begins at {iso(start)}, but model {model} saw data up to {iso(trained_until)}: it knows the answers",
            hint=f"--start {iso(trained_until)[:10]} or later; or --allow-leakage, and every report says LEAKED",
        )
    return ("LEAKED",)


def _adapted(config: Config, files: Sequence[KlineFile]) -> Config:
    """The files say which symbols and which interval are traded."""
    symbols = [file.symbol for file in files]
    if not symbols:
        raise UsageError("no klines to replay", hint="name files with --klines, or history.klines in the configuration")
    twice = next((s for s in symbols if symbols.count(s) > 1), None)
    if twice is not None:
        raise UsageError(f"two kline files for {twice}", hint="one file a symbol; SYMBOL=FILE names the symbol of a file")
    first = files[0]
    for file in files:
        if file.interval != first.interval:
            raise DataError(
                f"{file.path} has bars of {format_duration(file.interval)}, {first.path} of {format_duration(first.interval)}",
                hint="all files of a run share one interval",
            )
    market = config.market.model_copy(update={"symbols": tuple(symbols), "interval": first.interval})
    return config.model_copy(update={"market": market})


def _moment(ms: int | None) -> str:
    return "the beginning" if ms is None else iso(ms)
