"""Bull, bear and sideways markets, by a rule that uses only closes of earlier days.

A day is *bull* if the return of the `lookback` days before it, in units of its own volatility, is above
`threshold`. It is *bear* if that is below minus `threshold`, else *sideways*:

    z = ln(C[d-1] / C[d-1-N]) / (s * sqrt(N))     s: sample deviation of the N daily log returns to day d-1

z is the t-value of the mean daily return: for a random walk without drift it is above 1 about a sixth of the
time. The regime of a day is known when the day begins. Days without enough earlier closes are *unknown*.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

import msgspec
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from agent.analysis.daily import DailyValues, Floats


class Regime(str, Enum):
    """The regime of a market on one day."""

    BULL = "bull"
    BEAR = "bear"
    SIDEWAYS = "sideways"
    UNKNOWN = "unknown"


class RegimeRule(msgspec.Struct, frozen=True):
    """Parameters of the rule above. `lookback` counts days with a close, that is, trading days."""

    lookback: int = 30
    threshold: float = 1.0

    def __post_init__(self) -> None:
        if self.lookback < 2 or not self.threshold > 0:
            raise ValueError(
                f"lookback {self.lookback} must be 2 or more, and threshold {self.threshold} must be above 0"
            )


def trend(closes: Floats, lookback: int) -> Floats:
    """Return z of each day from earlier closes, shape (days,); NaN for the first `lookback` + 1 days."""
    z = np.full(len(closes), np.nan)
    steps = np.diff(np.log(closes))
    if len(steps) <= lookback:
        return z
    # Without the last close, because it is known only after the day that it belongs to
    windows = sliding_window_view(steps[:-1], lookback)
    moved = windows.sum(axis=1)
    noise = windows.std(axis=1, ddof=1) * lookback**0.5
    # Equal returns differ by rounding only: a trend without noise, or no move at all
    quiet = noise <= 1e-12 * np.abs(moved)
    noiseless = np.where(moved > 0, np.inf, np.where(moved < 0, -np.inf, 0.0))
    z[lookback + 1 :] = np.where(quiet, noiseless, moved / np.where(quiet, 1.0, noise))
    return z


RULE: Final = RegimeRule()
"""The rule of the report: 30 days, and one standard deviation of a random walk."""


def regimes(closes: DailyValues, rule: RegimeRule = RULE) -> list[Regime]:
    """Return the regime of each day of `closes`."""
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
