"""Many variants of a run over one stream of events: the stream is read, merged and scored once.

Each variant has its own strategy, risk, exchange and portfolio, so its result is that of a run alone, to the
last bit. Nothing is recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from itertools import islice
from typing import Any, Final, NamedTuple

from agent.analysis.benchmark import BuyAndHoldBenchmark
from agent.analysis.run_metrics import Metrics, compute
from agent.core.engine import Engine
from agent.core.errors import StrategyError
from agent.core.events import Decision, Event, Kline
from agent.core.sinks import NullSink
from agent.data.merge import merge
from agent.replay.backtest import BacktestSink, Progress, rare_collection
from agent.replay.history import History
from agent.store.chain import DecisionChain
from strategies import blaming, load_strategy

RUN_ID: Final = "batch"
"""Part of the client order ids of every variant, so that equal variants make equal decisions."""

_BLOCK: Final = 2_048
"""Events that one variant handles before the next one does: its state stays in the processor's cache."""


class SweepResult(NamedTuple):
    """Result of one variant.

    `digest` is the head of the chain of its decisions, which depends on `RUN_ID`. If the strategy's own code
    failed, `error` has its text, and the rest is that of the time until then.
    """

    params: dict[str, Any]
    final_equity: Decimal
    metrics: Metrics
    decisions: int
    digest: str
    error: str = ""


class _EventNumber:
    """Number of the event that is handled, shared by all variants."""

    __slots__ = ("seq",)

    def __init__(self) -> None:
        self.seq = 0


class _ChainSink(NullSink):
    """Chains the decisions of one variant."""

    def __init__(self, event: _EventNumber) -> None:
        self._event = event
        self.chain = DecisionChain()

    def decision(self, decision: Decision) -> None:
        self.chain.add(decision, self._event.seq)


class _RunningVariant:
    """One variant with its own engine."""

    def __init__(self, history: History, params: Mapping[str, Any], event: _EventNumber) -> None:
        base = history.config
        strategy = base.strategy.model_copy(update={"params": {**base.strategy.params, **params}})
        self.params = dict(params)
        self.error = ""
        self.config = base.model_copy(update={"strategy": strategy})
        self.strategy = load_strategy(strategy.name, strategy.params)
        self.chain_sink = _ChainSink(event)
        after = history.start if history.warms_up else 0
        self.sink = BacktestSink(self.chain_sink, self.config, after=after)
        with blaming(self.strategy):
            self.engine = Engine(
                self.config, self.strategy, self.sink, run_id=RUN_ID, predictor=history.predictor
            )
        self._event = event

    def handle(self, events: Sequence[Event], first: int) -> None:
        """Handle the events from number `first` on, up to an error of the strategy's own code."""
        handle, number = self.engine.handle, self._event
        try:
            with blaming(self.strategy):
                for number.seq, event in enumerate(events, first):
                    handle(event)
        except StrategyError as error:
            self.error = str(error)

    def finish(self, benchmark: BuyAndHoldBenchmark) -> SweepResult:
        """Close the last bar period and measure. Raises ReconciliationError."""
        self.engine.finish()
        metrics = compute(
            self.sink.curve,
            self.sink.trades,
            category=self.config.market.category,
            interval=self.config.market.interval,
            benchmark=benchmark,
        )
        equity, chain = self.engine.portfolio.exact_equity(), self.chain_sink.chain
        return SweepResult(self.params, equity, metrics, chain.count, chain.head, self.error)


def replay_batch(
    history: History,
    variants: Sequence[Mapping[str, Any]],
    sources: Sequence[Iterable[Event]],
    *,
    progress: Progress | None = None,
) -> list[SweepResult]:
    """Replay `sources` through one engine for each of `variants`, which are parameters of the strategy.

    `progress` is called after each block of events. An error in a strategy's own code ends its variant and
    not the others. Raises ConfigError for parameters that the strategy refuses, DataError,
    ReconciliationError, and StrategyError for errors before the first event.
    """
    event_number = _EventNumber()
    running = [_RunningVariant(history, params, event_number) for params in variants]
    config = history.config
    benchmark = BuyAndHoldBenchmark(
        config.market.symbols, float(config.account.initial_capital), config.market.interval
    )
    after = history.start if history.warms_up else 0
    events, first = merge(sources), 1
    with rare_collection():
        while block := list(islice(events, _BLOCK)):
            for event in block:
                if event.__class__ is Kline and event.ts > after:
                    benchmark.add(event.symbol, event.ts, event.close)
            for variant in running:
                if not variant.error:
                    variant.handle(block, first)
            first += len(block)
            if progress:
                progress(block[-1].available_at)
    return [variant.finish(benchmark) for variant in running]
