"""Bull, bear and sideways markets, by a rule that uses nothing but closes of days gone by.

A day is *bull* where the trailing return over `lookback` days, measured by its own volatility, is above `threshold`, *bear* where it is
below minus that, else *sideways*:

    z = ln(C[d-1] / C[d-1-N]) / (s * sqrt(N))        s: sample deviation of the N daily log returns up to day d-1

That is the t-value of the mean daily return: a walk without drift is above 1 about a sixth of the time. The regime of day d is
known when it begins. Days with a shorter past are *unknown*.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

import msgspec
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from agent.analysis.daily import Days, Floats


class Regime(str, Enum):
    """The state of a market."""

    BULL = "bull"
    BEAR = "bear"
    SIDEWAYS = "sideways"
    UNKNOWN = "unknown"


class RegimeRule(msgspec.Struct, frozen=True):
    """See the module. `lookback` counts days with a close, so trading days where a market rests at weekends."""

    lookback: int = 30
    threshold: float = 1.0

    def __post_init__(self) -> None:
        if self.lookback < 2 or not self.threshold > 0:
            raise ValueError(
                f"no rule: lookback {self.lookback} (2 or more), threshold {self.threshold} (above 0)"
            )


def trend(closes: Floats, lookback: int) -> Floats:
    """z of each day from the closes before it, shape (days,) -> (days,); NaN for the first `lookback` + 1 days."""
    z = np.full(len(closes), np.nan)
    steps = np.diff(np.log(closes))
    if len(steps) <= lookback:
        return z
    windows = sliding_window_view(steps[:-1], lookback)  # the last close is known only after the last day
    moved = windows.sum(axis=1)
    noise = windows.std(axis=1, ddof=1) * lookback**0.5
    # Equal steps differ by rounding alone: that is a trend without noise, or no move at all
    quiet = noise <= 1e-12 * np.abs(moved)
    noiseless = np.where(moved > 0, np.inf, np.where(moved < 0, -np.inf, 0.0))
    z[lookback + 1 :] = np.where(quiet, noiseless, moved / np.where(quiet, 1.0, noise))
    return z


RULE: Final = RegimeRule()
"""A month, against what chance would have moved."""


def regimes(closes: Days, rule: RegimeRule = RULE) -> list[Regime]:
    """The regime of each day of `closes` (prices at the days' ends)."""
    return [
        Regime.UNKNOWN
        if np.isnan(z)
        else Regime.BULL
        if z > rule.threshold
        else Regime.BEAR
        if z < -rule.threshold
        else Regime.SIDEWAYS
        for z in trend(closes.value, rule.lookback)
    ]
