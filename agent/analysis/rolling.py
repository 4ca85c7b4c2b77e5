"""The Sharpe ratio over a trailing window of periods: whether a run earned steadily, or once."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from agent.analysis.daily import Days


def rolling_sharpe(returns: Days, window: int, per_year: float) -> Days:
    """Mean over sample deviation of the last `window` returns × √`per_year`, for each period that has so many before it.

    0 where nothing moved in the window, which is what a strategy that stayed out earned for its risk.
    """
    if len(returns.value) < window:
        return Days(returns.day[:0], returns.value[:0])
    windows = sliding_window_view(returns.value, window)
    mean, deviation = windows.mean(axis=1), windows.std(axis=1, ddof=1)
    moved = deviation > 1e-12
    ratio = np.where(moved, mean / np.where(moved, deviation, 1.0), 0.0) * per_year**0.5
    return Days(returns.day[window - 1 :], ratio)
