"""Many variants of a run over one stream of events: the stream is read, merged, folded and scored once.

Each variant has its own strategy, risk, exchange and portfolio, so its result is that of a run alone, to the
last bit (`agent.core.lockstep`). Nothing is recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import islice
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.analysis.benchmark import BuyAndHoldBenchmark
from agent.analysis.daily import PeriodSampler
from agent.analysis.deflation import judged_period
from agent.analysis.equity import EquityCurve
from agent.analysis.run_metrics import Metrics, compute
from agent.analysis.significance import Moments, moments_of
from agent.analysis.trades import TradeBook
from agent.config import Config
from agent.core.engine import Engine
from agent.core.events import DAY_MS, HOUR_MS, Decision, Event, Fill, FundingPayment, Kline
from agent.core.lockstep import Lockstep
from agent.core.lockstep_variant import LockstepVariant, front_engine
from agent.core.sinks import NullSink
from agent.core.warm_up import declared_intervals
from agent.data.merge import merge
from agent.replay.backtest import Progress, rare_collection
from agent.replay.history import History
from agent.store.chain import DecisionChain
from strategies import blaming, load_strategy, own_error

RUN_ID: Final = "batch"
"""Part of the client order ids of every variant, so that equal variants make equal decisions."""

_BLOCK: Final = 2_048
"""Events between two calls of `Progress`."""

_TOGETHER: Final = 32
"""Variants in lockstep that are called on every bar: their state stays in the processor's cache."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class SweepResult(NamedTuple):
    """Result of one variant.

    `digest` is the head of the chain of its decisions, which depends on `RUN_ID`; empty unless it
    is requested. If the strategy's own code failed, `error` has its text, and the rest is that of the time
    until then.
    """

    params: dict[str, Any]
    final_equity: Decimal
    metrics: Metrics
    decisions: int
    digest: str
    error: str = ""
    moments: Moments = Moments(0)  # of the returns per `period` (ms)
    period: int = DAY_MS


class EventNumber:
    """Number of the event that is handled, shared by all variants."""

    __slots__ = ("seq",)

    def __init__(self) -> None:
        self.seq = 0


class VariantSink(NullSink):
    """Accumulates the inputs of a variant's metrics.

    With `event` it chains the decisions. If `keeps`, `hours` and `hourly_equity` have the first sample of
    each hour.
    """

    def __init__(
        self,
        config: Config,
        *,
        after: int,
        period: int,
        event: EventNumber | None = None,
        keeps: bool = False,
    ) -> None:
        self.curve = EquityCurve(float(config.account.initial_capital), config.market.interval)
        self.by_period = PeriodSampler(float(config.account.initial_capital), period)
        self.trades = TradeBook()
        self.chain = DecisionChain() if event is not None else None
        self.decisions = 0
        self.hours: list[int] = []
        self.hourly_equity: list[float] = []
        self._after = after
        self._event = event
        self._keeps = keeps
        self._hour = 0

    def decision(self, decision: Decision) -> None:
        self.decisions += 1
        if self.chain is not None and self._event is not None:
            self.chain.add(decision, self._event.seq)
        if decision.__class__ is Fill:
            self.trades.add(decision)
        elif decision.__class__ is FundingPayment:
            self.trades.add_funding(decision)

    def samples(self, ts: Ints, equity: Floats, cash: Floats, exposure: Floats) -> None:
        """Receive a block of samples; those up to `after` are dropped."""
        begin = int(np.searchsorted(ts, self._after, side="right"))
        if begin:
            ts, equity, exposure = ts[begin:], equity[begin:], exposure[begin:]
        if not len(ts):
            return
        self.curve.extend(ts, equity, exposure > 0.0)
        self.by_period.extend(ts, equity)
        if self._keeps:
            hours = ts // HOUR_MS
            rows = np.flatnonzero(np.diff(hours, prepend=self._hour))
            self._hour = int(hours[-1])
            self.hours += ts[rows].tolist()
            self.hourly_equity += equity[rows].tolist()


class BatchVariant:
    """One variant of a batch: its engine, and what is known of its result."""

    def __init__(
        self,
        history: History,
        params: Mapping[str, Any],
        event: EventNumber | None = None,
        *,
        keeps: bool = False,
    ) -> None:
        base = history.config
        strategy = base.strategy.model_copy(update={"params": {**base.strategy.params, **params}})
        self.params = dict(params)
        self.error = ""
        self.config = base.model_copy(update={"strategy": strategy})
        self.strategy = load_strategy(strategy.name, strategy.params)
        market = base.market
        self.intervals = declared_intervals(self.strategy, market.interval, calendar=market.calendar_bars)
        after = history.start if history.warms_up else 0
        period = judged_period(history.start, history.end, market.interval)
        self.sink = VariantSink(base, after=after, period=period, event=event, keeps=keeps)
        self.variant: LockstepVariant | None = None

    def start(self, front: Engine, values: dict[tuple[Any, ...], tuple[int, Any]]) -> LockstepVariant:
        """Make the engine, which shares `front` and the indicators' `values` with others."""
        self.strategy.ta.share(values)
        with blaming(self.strategy):
            engine = Engine(self.config, self.strategy, self.sink, run_id=RUN_ID, front=front)
        self.variant = LockstepVariant(engine, self.sink, self._blames, records=self.sink.chain is not None)
        return self.variant

    def _blames(self, error: Exception) -> bool:
        own = own_error(self.strategy, error)
        self.error = "" if own is None else str(own)
        return own is not None

    def metrics(self, benchmark: BuyAndHoldBenchmark) -> Metrics:
        """Compute the metrics of the time until the variant ended."""
        return compute(
            self.sink.curve,
            self.sink.trades,
            category=self.config.market.category,
            interval=self.config.market.interval,
            benchmark=benchmark,
        )

    def result(self, benchmark: BuyAndHoldBenchmark) -> SweepResult:
        """Return the result once the variant has ended."""
        variant, chain = self.variant, self.sink.chain
        if variant is None:
            raise AssertionError("the variant has not been started")
        return SweepResult(
            self.params,
            variant.portfolio.exact_equity(),
            self.metrics(benchmark),
            self.sink.decisions + (0 if chain is not None else variant.shared_decisions),
            "" if chain is None else chain.head,
            self.error,
            moments_of(self.sink.by_period.returns()),
            self.sink.by_period.period,
        )


def replay_batch(
    history: History,
    variants: Sequence[Mapping[str, Any]],
    sources: Sequence[Iterable[Event]],
    *,
    digests: bool = False,
    progress: Progress | None = None,
) -> list[SweepResult]:
    """Replay `sources` through one engine for each of `variants`, which are parameters of the strategy.

    With `digests` the decisions are chained, which takes time. `progress` is called after each block of
    events. An error in a strategy's own code ends its variant and not the others. Raises ConfigError for
    parameters that the strategy refuses, DataError, ReconciliationError, and StrategyError for errors before
    the first event.
    """
    event = EventNumber()
    running = [BatchVariant(history, params, event if digests else None) for params in variants]
    benchmark = run_variants(history, running, sources, event=event, progress=progress)
    return [one.result(benchmark) for one in running]


_Intervals = tuple[tuple[str, int], ...]


def _parts(
    history: History, groups: Mapping[_Intervals, list[BatchVariant]]
) -> Iterator[tuple[_Intervals, list[BatchVariant]]]:
    """Split groups whose strategies are called on every bar, unless what they share takes long."""
    plan = history.plan
    reads_news = plan.news is not None or plan.sentiment is not None
    for intervals, members in groups.items():
        busy = not reads_news and members[0].strategy.wants("on_kline")
        size = _TOGETHER if busy else len(members)
        for first in range(0, len(members), size):
            yield intervals, members[first : first + size]


def run_variants(
    history: History,
    variants: Sequence[BatchVariant],
    sources: Sequence[Iterable[Event]],
    *,
    event: EventNumber | None = None,
    progress: Progress | None = None,
) -> BuyAndHoldBenchmark:
    """Replay `sources` through fresh `variants` to the end, and return the benchmark of their metrics."""
    config = history.config
    groups: dict[_Intervals, list[BatchVariant]] = {}
    for one in variants:  # those that read the same bars share them
        groups.setdefault(tuple(one.intervals.items()), []).append(one)
    number = event or EventNumber()
    locksteps = []
    for intervals, members in _parts(history, groups):
        front = front_engine(config, [name for name, _ in intervals], history.predictor, RUN_ID)
        values: dict[tuple[Any, ...], tuple[int, Any]] = {}
        locksteps.append(Lockstep(config, front, [member.start(front, values) for member in members]))
    benchmark = BuyAndHoldBenchmark(
        config.market.symbols, float(config.account.initial_capital), config.market.interval
    )
    after = history.start if history.warms_up else 0
    events, first = merge(sources), 1
    with rare_collection():
        while block := list(islice(events, _BLOCK)):
            for item in block:
                if item.__class__ is Kline and item.ts > after:
                    benchmark.add(item.symbol, item.ts, item.close)
            for lockstep in locksteps:
                handle = lockstep.handle
                for number.seq, item in enumerate(block, first):
                    handle(item)
            first += len(block)
            if progress:
                progress(block[-1].available_at)
        for lockstep in locksteps:
            lockstep.finish()
    return benchmark
