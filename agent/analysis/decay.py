"""How long a headline's sentiment says something about the price: its information coefficient by age, and the half-life of that.

The coefficient of lag k is the rank correlation of the scores with the log returns of the k-th stretch of bars after availability
(Grinold and Kahn, *Active Portfolio Management*; Spearman's rank correlation). Stretches don't overlap, so that a persisting effect isn't
counted twice. To these coefficients is fitted, by least squares,

    IC(t) = a * 2 ** (-t / half-life)        t: from the middle of the first stretch

with every interval from the bootstrap over days (`clusters`). The p-value is of the hypothesis that all coefficients are zero:
how often the best fit to draws centred on zero explains as much as the fit to what was measured, so that the choice of the best
half-life is paid for. Where it is above 5 % there is nothing that could decay, and no half-life is stated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
import numpy as np

from agent.analysis.clusters import FEW_DAYS, LEVEL, DayBootstrap, band
from agent.analysis.daily import Closes, Floats, Ints
from agent.analysis.event_study import Headlines, bars_at
from agent.analysis.significance import Interval

FEW_HEADLINES: Final = 30
"""Nothing is fitted to fewer."""

_GRID: Final = 240
"""Half-lives tried, evenly by their logarithm."""


class Decay(msgspec.Struct, frozen=True):
    """`ages` are the ends of the stretches after availability, in ms; `ic` the coefficient of each, with its band.

    `initial` is `a` above; `half_life` is in ms, None with its `reason` where none can be stated. Its upper bound is None where
    the sentiment may not have decayed at all within the stretches looked at.
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
    """Of `stretches` stretches of `stretch` bars of `interval` ms; None where too few headlines have them all behind them."""
    rows = bars_at(headlines, closes)
    room = np.array([len(closes[s].ts) if s in closes else 0 for s in headlines.symbol.tolist()], np.int64)
    which = np.flatnonzero((rows >= 0) & (rows + stretch * stretches < room))
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
    """Correlation of `scores` (n,) with each column of `moves` (n, k): of all, and of each draw of days (draws, k)."""
    ones = np.ones(len(scores))
    own = (ones, scores, scores**2)
    columns = (moves, moves**2, moves * scores[:, None])
    whole = _correlation(*(x.sum(axis=0) for x in (*own, *columns)))
    drawn = _correlation(
        *(bootstrap.totals(x)[:, None] for x in own), *(bootstrap.totals(x) for x in columns)
    )
    return whole, drawn


def _correlation(n: Floats, x: Floats, xx: Floats, y: Floats, yy: Floats, xy: Floats) -> Floats:
    """Pearson's, from sums; 0 where one side doesn't vary."""
    spread = np.sqrt(np.maximum(xx / n - (x / n) ** 2, 0) * np.maximum(yy / n - (y / n) ** 2, 0))
    shared = xy / n - x / n * (y / n)
    correlation: Floats = np.divide(shared, spread, out=np.zeros_like(shared), where=spread > 1e-12)
    return correlation


def _ranks(values: Floats) -> Floats:
    """Ranks as fractions in (-0.5, 0.5), ties sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last: Ints = np.cumsum(counts)
    ranks: Floats = ((last - (counts - 1) / 2)[inverse] - (len(values) + 1) / 2) / len(values)
    return ranks


def _fitted(measured: Decay, ic: Floats, draws: Floats, stretch: int) -> Decay:
    """With half-life and `a` where `a` is distinguishable from zero; `stretch` in ms."""
    when = np.arange(len(ic)) * float(stretch)
    longest = 10 * stretch * len(ic)
    half_lives = np.geomspace(stretch / 4, longest, _GRID)
    curves = 2.0 ** (-when / half_lives[:, None])
    # the squared projection on one is what the fit explains
    curves /= np.sqrt((curves**2).sum(axis=1))[:, None]
    explained = curves @ ic
    best = int((explained**2).argmax())
    low, high = band(draws @ curves[best] * curves[best, 0])
    by_chance = ((draws - ic) @ curves.T) ** 2
    p_value = float((by_chance.max(axis=1) >= explained[best] ** 2).mean())
    stated = msgspec.structs.replace(
        measured,
        initial=Interval(float(explained[best] * curves[best, 0]), float(low), float(high)),
        p_value=p_value,
    )
    if p_value > 1 - LEVEL:
        reason = f"the information coefficient is not distinguishable from zero (p = {p_value:.2f})"
        return msgspec.structs.replace(stated, reason=reason)
    drawn = draws @ curves.T * np.sign(explained[best])
    shortest, furthest = band(half_lives[drawn.argmax(axis=1)])
    return msgspec.structs.replace(
        stated,
        half_life=float(half_lives[best]),
        half_life_low=float(shortest),
        half_life_high=float(furthest) if furthest < stretch * len(ic) else None,
    )
