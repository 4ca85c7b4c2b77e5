"""Replays that are not recorded: a window's events in memory, decided over and over under other parameters, costs or headlines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.analysis.daily import daily_returns
from agent.analysis.run_metrics import Metrics
from agent.config import Config, parse
from agent.core.engine import Engine
from agent.core.events import Decision, Event, Fill, FundingPayment
from agent.core.sinks import NullSink
from agent.data.merge import merge
from agent.data.sentiment import NamedScorer
from agent.replay.backtest import rare_collection, replay
from agent.replay.history import History, Plan
from strategies import blaming, load_strategy

Moves = list[Fill | FundingPayment]
Decided = tuple[int, Decision]
"""The number of an event, from 1, and a decision on it."""

_RUN = "rehearsal"


class Notes(NullSink):
    """A listener that keeps equity samples, and what moved money; with `all_of_it` every decision with the number of its event."""

    def __init__(self, *, all_of_it: bool = False) -> None:
        self.event_seq = 0
        self.ts: list[int] = []
        self.equity_samples: list[float] = []
        self.moves: Moves = []
        self.decisions: list[Decided] = []
        self._all = all_of_it

    def decision(self, decision: Decision) -> None:
        """Kept."""
        if self._all:
            self.decisions.append((self.event_seq, decision))
        if isinstance(decision, Fill | FundingPayment):
            self.moves.append(decision)

    def equity(
        self, ts: Sequence[int], equity: Sequence[float], cash: Sequence[float], exposure: Sequence[float]
    ) -> None:
        """Kept."""
        self.ts.extend(ts)
        self.equity_samples.extend(equity)


class Rehearsal(NamedTuple):
    """What came of one replay; `days` are the ends (UTC ms) of the periods that `returns` are of, shape (n,)."""

    metrics: Metrics
    days: NDArray[np.int64]
    returns: NDArray[np.float64]
    moves: Moves
    decisions: list[Decided]

    @property
    def total_return(self) -> float:
        """Of the window, after costs."""
        return self.metrics.performance.total_return


class Stage:
    """One window, read once. `tape` and `wire` are its events in their order: market, and headlines with their scores."""

    def __init__(self, plan: Plan, config: Config, scorer: NamedScorer | None = None) -> None:
        self.history = History(plan, config)
        self.tape: list[Event] = list(merge(self.history.market()))
        self.wire: list[Event] = list(merge(self.history.wire(scorer=scorer)))

    def rehearse(
        self,
        config: Config | None = None,
        *,
        wire: Iterable[Event] | None = None,
        tape: Iterable[Event] | None = None,
        keep: bool = False,
    ) -> Rehearsal:
        """Decide the window under `config` (default: its own), with another `wire` or `tape` where one is given.

        `config` must agree with the window's own on market and history; where its funding differs, give a tape with that. With `keep`
        every decision comes back.
        """
        history = self.history if config is None else self.history.under(config)
        notes = Notes(all_of_it=keep)
        strategy = load_strategy(history.config.strategy.name, history.config.strategy.params)
        sources = [self.tape if tape is None else tape, self.wire if wire is None else wire]
        metrics = replay(history, strategy, notes, sources, run_id=_RUN).metrics
        capital = float(history.config.account.initial_capital)
        days, returns = daily(notes.ts, notes.equity_samples, metrics, capital)
        return Rehearsal(metrics, days, returns, notes.moves, notes.decisions)

    def decide(self, events: Iterable[Event]) -> list[Decided]:
        """What a fresh engine decides on `events`, with the number of the event of each; nothing is added at the end."""
        config = self.history.config
        notes = Notes(all_of_it=True)
        strategy = load_strategy(config.strategy.name, config.strategy.params)
        with blaming(strategy), rare_collection():
            engine = Engine(config, strategy, notes, run_id=_RUN, predictor=self.history.predictor)
            for notes.event_seq, event in enumerate(events, 1):
                engine.handle(event)
        return notes.decisions


def daily(
    ts: Sequence[int], equity: Sequence[float], metrics: Metrics, capital: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Daily returns of samples that are hourly, and of the end, which is no sample where it falls between two hours."""
    if metrics.periods and (not ts or ts[-1] < metrics.end):
        ts, equity = [*ts, metrics.end], [*equity, metrics.final_equity]
    return daily_returns(ts, equity, capital)


def with_params(config: Config, params: dict[str, Any]) -> Config:
    """`config` with some of its strategy's parameters replaced."""
    strategy = config.strategy.model_copy(update={"params": {**config.strategy.params, **params}})
    return config.model_copy(update={"strategy": strategy})


def overridden(config: Config, overrides: dict[str, Any], *, where: str) -> Config:
    """`config` with the nested `overrides` in it, validated; `where` names their origin in errors. Raises ConfigError.

    A strategy of another name brings its own parameters.
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
