"""How long the sentiment of a headline predicts the price: information coefficient by age, and half-life.

The coefficient of lag k is the rank correlation (Spearman) of the scores with the log returns of the k-th
stretch of bars after the headline became available (Grinold and Kahn, *Active Portfolio Management*).
Stretches don't overlap, so that a lasting effect isn't counted twice. An exponential is fitted to the
coefficients by least squares:

    IC(t) = a * 2 ** (-t / half-life)        t: from the middle of the first stretch

All intervals are from the bootstrap over days (`day_bootstrap`). The null hypothesis of the p-value is that
all coefficients are zero: it is the share of draws, centred on zero, whose best fit explains as much as the
fit to the measured coefficients. This accounts for the choice of the best half-life. If the p-value is above
5 %, no half-life is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
import numpy as np

from agent.analysis.daily import Closes, Floats, Ints
from agent.analysis.day_bootstrap import FEW_DAYS, LEVEL, DayBootstrap, band
from agent.analysis.event_study import Headlines, bar_counts, bars_at
from agent.analysis.significance import Interval

FEW_HEADLINES: Final = 30
"""With fewer headlines nothing is fitted."""

_GRID: Final = 240
"""Number of half-lives tried, evenly spaced on a logarithmic scale."""


class Decay(msgspec.Struct, frozen=True):
    """The information coefficient `ic` of each stretch with its band; `ages` are the ends of stretches in ms.

    `initial` is `a` of the fit. `half_life` is in ms, or None with a `reason`. Without an upper bound the
    sentiment may not decay at all within the stretches.
    """

    headlines: int
    days: int
    ages: list[int]
    ic: list[float]
    low: list[float]
    high: list[float]
    initial: Interval | None = None
    p_value: float | None = None
    half_life: float | None = None
    half_life_low: float | None = None
    half_life_high: float | None = None
    reason: str = ""


def sentiment_decay(
    headlines: Headlines, closes: Mapping[str, Closes], interval: int, *, stretch: int, stretches: int
) -> Decay | None:
    """Measure the decay over `stretches` stretches of `stretch` bars; `interval` is the bar length in ms.

    Returns None if too few headlines have that many bars after them.
    """
    rows, counts = bars_at(headlines, closes), bar_counts(headlines, closes)
    which = np.flatnonzero((rows >= 0) & (rows + stretch * stretches < counts))
    if len(which) < FEW_HEADLINES or np.ptp(headlines.score[which]) == 0:
        return None
    bootstrap = DayBootstrap(headlines.ts[which])
    if bootstrap.days < FEW_DAYS:
        return None
    moves = np.empty((len(which), stretches))
    edges = np.arange(stretches + 1) * stretch
    for symbol, own in closes.items():
        mine = headlines.symbol[which] == symbol
        moves[mine] = np.diff(np.log(own.price)[rows[which[mine]][:, None] + edges], axis=1)
    ic, draws = _coefficients(
        _ranks(headlines.score[which]), np.apply_along_axis(_ranks, 0, moves), bootstrap
    )
    low, high = band(draws)
    ages = (edges[1:] * interval).tolist()
    measured = Decay(len(which), bootstrap.days, ages, ic.tolist(), low.tolist(), high.tolist())
    return _fitted(measured, ic, draws, stretch * interval)


def _coefficients(scores: Floats, moves: Floats, bootstrap: DayBootstrap) -> tuple[Floats, Floats]:
    """Correlate `scores` (n,) with each column of `moves` (n, k).

    Returns the correlations over all rows, (k,), and over each draw of days, (draws, k).
    """
    ones = np.ones(len(scores))
    own = (ones, scores, scores**2)
    columns = (moves, moves**2, moves * scores[:, None])
    whole = _correlation(*(x.sum(axis=0) for x in (*own, *columns)))
    drawn = _correlation(
        *(bootstrap.totals(x)[:, None] for x in own), *(bootstrap.totals(x) for x in columns)
    )
    return whole, drawn


def _correlation(n: Floats, x: Floats, xx: Floats, y: Floats, yy: Floats, xy: Floats) -> Floats:
    """Return Pearson's correlation from sums; 0 if one of the two is constant."""
    spread = np.sqrt(np.maximum(xx / n - (x / n) ** 2, 0) * np.maximum(yy / n - (y / n) ** 2, 0))
    shared = xy / n - x / n * (y / n)
    correlation: Floats = np.divide(shared, spread, out=np.zeros_like(shared), where=spread > 1e-12)
    return correlation


def _ranks(values: Floats) -> Floats:
    """Return ranks as fractions in (-0.5, 0.5); ties get their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last: Ints = np.cumsum(counts)
    ranks: Floats = ((last - (counts - 1) / 2)[inverse] - (len(values) + 1) / 2) / len(values)
    return ranks


def _fitted(measured: Decay, ic: Floats, draws: Floats, stretch: int) -> Decay:
    """Add the fit to `measured`, and the half-life if the fit is significant; `stretch` is in ms."""
    when = np.arange(len(ic)) * float(stretch)
    longest = 10 * stretch * len(ic)
    half_lives = np.geomspace(stretch / 4, longest, _GRID)
    curves = 2.0 ** (-when / half_lives[:, None])
    curves /= np.sqrt((curves**2).sum(axis=1))[
        :, None
    ]  # of unit length: a fit explains its squared projection
    explained = curves @ ic
    best = int((explained**2).argmax())
    low, high = band(draws @ curves[best] * curves[best, 0])
    null = ((draws - ic) @ curves.T) ** 2
    p_value = float((null.max(axis=1) >= explained[best] ** 2).mean())
    fitted = msgspec.structs.replace(
        measured,
        initial=Interval(float(explained[best] * curves[best, 0]), float(low), float(high)),
        p_value=p_value,
    )
    if p_value > 1 - LEVEL:
        reason = f"the information coefficient is not distinguishable from zero (p = {p_value:.2f})"
        return msgspec.structs.replace(fitted, reason=reason)
    drawn = draws @ curves.T * np.sign(explained[best])
    shortest, furthest = band(half_lives[drawn.argmax(axis=1)])
    return msgspec.structs.replace(
        fitted,
        half_life=float(half_lives[best]),
        half_life_low=float(shortest),
        half_life_high=float(furthest) if furthest < stretch * len(ic) else None,
    )
