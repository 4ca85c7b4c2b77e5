"""Unrecorded replays of a window in memory, each with other parameters, costs or headlines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.analysis.daily import daily_returns
from agent.analysis.run_metrics import Metrics
from agent.analysis.significance import Moments
from agent.config import Config, parse
from agent.core.engine import Engine
from agent.core.errors import StrategyError
from agent.core.events import Decision, Event, Fill, FundingPayment
from agent.core.sinks import NullSink
from agent.data.merge import merge
from agent.data.sentiment import NamedScorer
from agent.replay.backtest import Progress, rare_collection, replay
from agent.replay.batch import BatchVariant, run_variants
from agent.replay.evaluations import versions_of
from agent.replay.history import History, Plan
from strategies import blaming, load_strategy

NumberedDecision = tuple[int, Decision]
"""The number of an event, from 1, and a decision taken on it."""

_RUN_ID = "rehearsal"  # part of every client order id, so it never changes


class DecisionLog(NullSink):
    """Sink that keeps equity samples, fills and funding; with `keep_all` every decision."""

    def __init__(self, *, keep_all: bool = False) -> None:
        self.event_seq = 0
        self.ts: list[int] = []
        self.equity_samples: list[float] = []
        self.fills_and_funding: list[Fill | FundingPayment] = []
        self.decisions: list[NumberedDecision] = []
        self._keep_all = keep_all

    def decision(self, decision: Decision) -> None:
        if self._keep_all:
            self.decisions.append((self.event_seq, decision))
        if isinstance(decision, Fill | FundingPayment):
            self.fills_and_funding.append(decision)

    def equity(
        self, ts: Sequence[int], equity: Sequence[float], cash: Sequence[float], exposure: Sequence[float]
    ) -> None:
        self.ts.extend(ts)
        self.equity_samples.extend(equity)


class WindowResult(NamedTuple):
    """Result of one replay.

    `days` are the ends (UTC ms) of the periods of `returns`; both have shape (n,). `moments` are of returns
    per `period` (ms), by which the window is judged.
    """

    metrics: Metrics
    days: NDArray[np.int64]
    returns: NDArray[np.float64]
    fills_and_funding: list[Fill | FundingPayment]
    period: int
    moments: Moments

    @property
    def total_return(self) -> float:
        """Return over the window, after costs."""
        return self.metrics.performance.total_return


class LoadedWindow:
    """A window's events, read once. `news_events` are headlines and their scores."""

    def __init__(
        self,
        plan: Plan,
        config: Config,
        scorer: NamedScorer | None = None,
        versions: Mapping[str, str] | None = None,
    ) -> None:
        self.history = History(plan, config)
        self.versions = {**(versions or {}), **versions_of(config)}
        """Fingerprints of the models, as in `Run.versions`."""
        self.market_events: list[Event] = list(merge(self.history.market_sources()))
        self.news_events: list[Event] = list(merge(self.history.news_sources(scorer=scorer)))

    def events(self) -> Iterator[Event]:
        """Iterate over all events in total order."""
        return merge([self.market_events, self.news_events])

    def replay(
        self, config: Config | None = None, *, news_events: Iterable[Event] | None = None
    ) -> WindowResult:
        """Replay the window under `config` (default: its own) and with other `news_events` if given.

        `config` must agree with the window's own on market, history and funding.
        """
        history = self.history if config is None else self.history.with_config(config)
        log = DecisionLog()
        strategy = load_strategy(history.config.strategy.name, history.config.strategy.params)
        sources = [self.market_events, self.news_events if news_events is None else news_events]
        done = replay(history, strategy, log, sources, run_id=_RUN_ID)
        metrics = done.metrics
        capital = float(history.config.account.initial_capital)
        days, returns = window_daily_returns(log.ts, log.equity_samples, metrics, capital)
        return WindowResult(metrics, days, returns, log.fills_and_funding, done.period, done.moments)

    def replay_batch(
        self, variants: Sequence[dict[str, Any]], *, progress: Progress | None = None
    ) -> list[NDArray[np.float64]]:
        """Replay the window in one pass for all sets of parameters; return the daily returns of each.

        They are those of `replay`. Raises StrategyError for the first error of a strategy's own code.
        """
        history = self.history
        running = [BatchVariant(history, params, keeps=True) for params in variants]
        benchmark = run_variants(history, running, [self.market_events, self.news_events], progress=progress)
        capital = float(history.config.account.initial_capital)
        found = []
        for one in running:
            if one.error:
                raise StrategyError(one.error)
            sink = one.sink
            metrics = one.metrics(benchmark)
            found.append(window_daily_returns(sink.hours, sink.hourly_equity, metrics, capital)[1])
        return found

    def decide(self, events: Iterable[Event]) -> list[NumberedDecision]:
        """Return the decisions of a fresh engine on `events`. Open positions are not closed at the end."""
        config = self.history.config
        log = DecisionLog(keep_all=True)
        strategy = load_strategy(config.strategy.name, config.strategy.params)
        with blaming(strategy), rare_collection():
            engine = Engine(config, strategy, log, run_id=_RUN_ID, predictor=self.history.predictor)
            for log.event_seq, event in enumerate(events, 1):
                engine.handle(event)
        return log.decisions


def window_daily_returns(
    ts: Sequence[int], equity: Sequence[float], metrics: Metrics, capital: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the ends of days and the daily returns of hourly equity samples.

    The end of the window is added, in case it falls between two hours.
    """
    if metrics.periods and (not ts or ts[-1] < metrics.end):
        ts, equity = [*ts, metrics.end], [*equity, metrics.final_equity]
    return daily_returns(ts, equity, capital)


def with_params(config: Config, params: dict[str, Any]) -> Config:
    """Return `config` with some parameters of its strategy replaced."""
    strategy = config.strategy.model_copy(update={"params": {**config.strategy.params, **params}})
    return config.model_copy(update={"strategy": strategy})


def with_overrides(config: Config, overrides: dict[str, Any], *, where: str) -> Config:
    """Return `config` with nested `overrides` merged in and validated; `where` names their origin in errors.

    If they name another strategy, the parameters of the old one are dropped. Raises ConfigError.
    """

    def merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
        return base | {
            key: merged(base[key], value)
            if isinstance(value, dict) and isinstance(base.get(key), dict)
            else value
            for key, value in change.items()
        }

    raw = config.model_dump(mode="json")
    if overrides.get("strategy", {}).get("name", config.strategy.name) != config.strategy.name:
        raw["strategy"]["params"] = {}
    return parse(merged(raw, overrides), where=where)
