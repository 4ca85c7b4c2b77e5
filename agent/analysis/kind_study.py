"""Average price moves around headlines of each kind of news, in the predicted direction.

The move of a headline over k bars is the abnormal log return of `event_study`, times 1 if it is predicted
to be bullish and -1 if bearish:

    M[k] = direction * (ln(C[i+k] / C[i]) - k * m)        C[i]: last close known with the headline

If the mean is positive, the price followed the prediction. A move before the headline is that from C[i-k] to
C[i]: positive if the price had already moved when the headline became known. Neutral headlines have no
direction and take part in no move. Intervals are from the bootstrap over days (`day_bootstrap`).
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.analysis.daily import Closes, Floats, Ints
from agent.analysis.day_bootstrap import DayBootstrap, band
from agent.analysis.event_study import Headlines, bar_counts, bars_at
from agent.analysis.significance import Interval
from agent.core.events import DAY_MS, HOUR_MS, MINUTE_MS
from agent.core.news_kinds import NEWS_KINDS

HORIZONS: Final = (-HOUR_MS, 5 * MINUTE_MS, HOUR_MS, 4 * HOUR_MS, DAY_MS)
"""Lengths of the moves in ms; a negative one ends when the headline becomes known.

They are counted in bars, so hours in which the market is closed don't count.
"""


class KindMove(msgspec.Struct, frozen=True):
    """The mean move over `horizon` ms in the predicted direction, as a fraction, with its interval.

    `events` headlines have a direction and bars that reach so far, on `days` days; without any, `mean` is
    None.
    """

    horizon: int
    events: int
    days: int
    mean: Interval | None


class KindPath(msgspec.Struct, frozen=True):
    """The moves around the headlines of one kind; `directed` of the `headlines` have a direction.

    `votes` is False if the run's configuration bars the kind from voting.
    """

    headlines: int
    directed: int
    votes: bool
    moves: list[KindMove]


class KindStudy(msgspec.Struct, frozen=True):
    """Moves by kind of news, in the order of `NEWS_KINDS`; the key is empty for headlines without a kind.

    All numbers count a headline once for each traded symbol that it is about. For `own` of the `headlines`
    the model scored the symbol's asset itself; the others have the score of the headline as a whole.
    """

    headlines: int
    own: int
    kinds: dict[str, KindPath]


def kind_study(
    headlines: Headlines,
    kinds: NDArray[np.str_],
    own: int,
    closes: Mapping[str, Closes],
    interval: int,
    voting: Container[str] = NEWS_KINDS,
) -> KindStudy | None:
    """Average the moves of each of `kinds`, which has the kind of each headline, over each horizon.

    `own` is the number of headlines that are scored for the symbol's asset itself. Bars are `interval` ms
    long. Kinds other than `voting` may not vote. Returns None if no headline has a kind.
    """
    if not (kinds != "").any():
        return None
    rows, counts = bars_at(headlines, closes), bar_counts(headlines, closes)
    direction = headlines.predicted - 1
    found = {}
    for kind in _ordered(kinds):
        of_kind = kinds == kind
        moves = []
        for horizon in horizons_of(interval):
            bars = horizon // interval
            first, last = min(bars, 0), max(bars, 0)
            inside = (rows >= 0) & (rows + first >= 0) & (rows + last < counts)
            which = np.flatnonzero(of_kind & (direction != 0) & inside)
            moves.append(_move(headlines, closes, which, rows, direction, bars, horizon))
        directed = int((of_kind & (direction != 0)).sum())
        found[kind] = KindPath(int(of_kind.sum()), directed, not kind or kind in voting, moves)
    return KindStudy(len(kinds), own, found)


def horizons_of(interval: int) -> list[int]:
    """Return the `HORIZONS` that bars of `interval` ms can measure; else one bar in either direction."""
    return [horizon for horizon in HORIZONS if horizon % interval == 0] or [-interval, interval]


def _ordered(kinds: NDArray[np.str_]) -> list[str]:
    """Return the kinds that occur: known ones in their order, then others, then the empty one."""
    found = sorted(set(kinds.tolist()))
    return [
        *(kind for kind in NEWS_KINDS if kind in found),
        *(kind for kind in found if kind and kind not in NEWS_KINDS),
        *(kind for kind in found if not kind),
    ]


def _move(
    headlines: Headlines,
    closes: Mapping[str, Closes],
    which: Ints,
    rows: Ints,
    direction: Ints,
    bars: int,
    horizon: int,
) -> KindMove:
    if not len(which):
        return KindMove(horizon, 0, 0, None)
    moves: Floats = np.zeros(len(which))
    for symbol, own in closes.items():
        mine = headlines.symbol[which] == symbol
        if mine.any():
            logs = np.log(own.price)
            normal = (logs[-1] - logs[0]) / (len(logs) - 1) * abs(bars)
            at = rows[which[mine]]
            moves[mine] = logs[at + max(bars, 0)] - logs[at + min(bars, 0)] - normal
    moves *= direction[which]
    bootstrap = DayBootstrap(headlines.ts[which])
    low, high = band(bootstrap.totals(moves) / bootstrap.totals(np.ones(len(which))))
    mean = Interval(float(moves.mean()), float(low), float(high))
    return KindMove(horizon, len(which), bootstrap.days, mean)
