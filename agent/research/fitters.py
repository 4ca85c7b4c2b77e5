"""Fitters learn from the training window of a fold. Here: nothing, or the best parameters of a grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from agent.analysis.significance import sharpe
from agent.research.folds import Window
from agent.research.parameter_space import ParameterRange, grid
from agent.research.replay_inputs import ReplayInputs, with_widest_warm_up
from agent.research.replay_window import with_params
from agent.system.atomic import write_bytes
from strategies.description import Value


class Fitter(Protocol):
    """Learns from a window and returns the configuration with which the result trades."""

    def fit(self, window: tuple[int, int], folder: Path) -> dict[str, Any]:
        """Learn from [start, end) in UTC ms only, and return nested configuration overrides.

        Files go into `folder`, which exists.
        """
        ...


class NoFitter:
    """Learns nothing."""

    def fit(self, window: tuple[int, int], folder: Path) -> dict[str, Any]:
        return {}


class GridTrial(msgspec.Struct, frozen=True):
    """One combination, in sample. `sharpe` is per day, None if equity never moved."""

    params: dict[str, Value]
    sharpe: float | None
    total_return: float
    trades: int


class GridFitter(NamedTuple):
    """Finds the combination of a grid with the best Sharpe ratio of daily returns; of equals, the first.

    All trials are written to `search.json`.
    """

    inputs: ReplayInputs
    ranges: list[ParameterRange]
    points: int = 5
    warmup: int = 0

    def fit(self, window: tuple[int, int], folder: Path) -> dict[str, Any]:
        config = self.inputs.config
        variants = grid(self.ranges, config.strategy.name, config.strategy.params, points=self.points)
        inputs = with_widest_warm_up(self.inputs, variants)
        loaded = inputs.load_window(Window(*window), warmup=self.warmup, judged_from=window[1])
        trials = []
        for params in variants:
            result = loaded.replay(with_params(config, params))
            trades = result.metrics.trades.trades
            trials.append(GridTrial(params, sharpe(result.returns), result.total_return, trades))
        best = max(trials, key=lambda trial: -1e9 if trial.sharpe is None else trial.sharpe)
        write_bytes(folder / "search.json", msgspec.json.format(msgspec.json.encode(trials)) + b"\n")
        return {"strategy": {"params": best.params}}
