"""What is learned anew in each fold: nothing, the best parameters of a grid, or a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from agent.analysis.significance import sharpe
from agent.research.folds import Window
from agent.research.material import Material
from agent.research.rehearsal import with_params
from agent.research.space import Range, Value, grid
from agent.system.atomic import write_bytes


class Fitter(Protocol):
    """Learns from a window, and says how the configuration must be for what it has learned to trade."""

    def fit(self, window: tuple[int, int], folder: Path) -> dict[str, Any]:
        """Learn from [start, end) in UTC ms and nothing else; files go into `folder`, which exists. Answers nested overrides."""
        ...


class Fixed:
    """Learns nothing."""

    def fit(self, window: tuple[int, int], folder: Path) -> dict[str, Any]:
        """No override."""
        return {}


class Tried(msgspec.Struct, frozen=True):
    """One combination, in sample; `sharpe` is per day, None where equity never moved."""

    params: dict[str, Value]
    sharpe: float | None
    total_return: float
    trades: int


class Refit(NamedTuple):
    """The combination of a grid with the best Sharpe ratio of daily returns in the window; of equals, the first.

    All that was tried is kept in `search.json`.
    """

    material: Material
    ranges: list[Range]
    points: int = 5
    warmup: int = 0

    def fit(self, window: tuple[int, int], folder: Path) -> dict[str, Any]:
        """Search the grid."""
        config = self.material.config
        stage = self.material.stage(Window(*window), warmup=self.warmup, judged_from=window[1])
        tried = []
        for params in grid(self.ranges, config.strategy.name, config.strategy.params, points=self.points):
            result = stage.rehearse(with_params(config, params))
            tried.append(
                Tried(params, sharpe(result.returns), result.total_return, result.metrics.trades.trades)
            )
        best = max(tried, key=lambda trial: -1e9 if trial.sharpe is None else trial.sharpe)
        write_bytes(folder / "search.json", msgspec.json.format(msgspec.json.encode(tried)) + b"\n")
        return {"strategy": {"params": best.params}}
