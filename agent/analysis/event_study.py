"""Average price moves around headlines of each predicted class: do prices follow the prediction, and when?

The path of a headline is the abnormal log return from the last close known when the headline became available
(bar 0):

    A[k] = ln(C[i+k] / C[i]) - k * m        m: mean log return per bar of that symbol, over all its bars

(the constant-mean-return model: MacKinlay, "Event studies in economics and finance", 1997). The path before
bar 0 shows how much the price had moved before the headline was known. Bands are from the bootstrap over days
(`day_bootstrap`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.analysis.daily import Closes, Floats, Ints
from agent.analysis.day_bootstrap import DayBootstrap, band

CLASSES: Final = ("bearish", "neutral", "bullish")
_BLOCK: Final = 4_096  # headlines processed at a time, to bound memory


class Headlines(NamedTuple):
    """Scored headlines, one row per headline and symbol that it is about; all of shape (n,).

    `ts` is when the score was available (UTC ms), `score` is bullish minus bearish, `predicted` an index of
    `CLASSES`.
    """

    ts: Ints
    symbol: NDArray[np.str_]
    score: Floats
    predicted: Ints


class EventPath(msgspec.Struct, frozen=True):
    """The mean path of one class with its band: fractions at the offsets of the study."""

    events: int
    days: int
    mean: list[float]
    low: list[float]
    high: list[float]


class EventStudy(msgspec.Struct, frozen=True):
    """Paths by class; `offsets` count bars of `interval` ms. `left_out` headlines have too few bars."""

    interval: int
    offsets: list[int]
    classes: dict[str, EventPath]
    left_out: int


def event_study(
    headlines: Headlines, closes: Mapping[str, Closes], interval: int, *, before: int, after: int
) -> EventStudy | None:
    """Average the paths from `before` bars before the headline to `after` bars after it.

    `interval` is the bar length in ms. Returns None if no headline has that many bars around it.
    """
    offsets = np.arange(-before, after + 1)
    rows = bars_at(headlines, closes)
    inside = (rows >= before) & (rows + after < bar_counts(headlines, closes))
    classes = {}
    for number, name in enumerate(CLASSES):
        which = np.flatnonzero(inside & (headlines.predicted == number))
        if len(which):
            classes[name] = _path(headlines, closes, which, rows, offsets)
    if not classes:
        return None
    return EventStudy(interval, offsets.tolist(), classes, int((~inside).sum()))


def bars_at(headlines: Headlines, closes: Mapping[str, Closes]) -> Ints:
    """Return for each headline the row of the last close of its symbol at or before it, or -1."""
    rows = np.full(len(headlines.ts), -1)
    for symbol, own in closes.items():
        mine = headlines.symbol == symbol
        rows[mine] = np.searchsorted(own.ts, headlines.ts[mine], side="right") - 1
    return rows


def bar_counts(headlines: Headlines, closes: Mapping[str, Closes]) -> Ints:
    """Return for each headline the number of bars of its symbol."""
    return np.array([len(closes[s].ts) if s in closes else 0 for s in headlines.symbol.tolist()], np.int64)


def _path(
    headlines: Headlines, closes: Mapping[str, Closes], which: Ints, rows: Ints, offsets: Ints
) -> EventPath:
    days = DayBootstrap(headlines.ts[which])
    sums = np.zeros((days.days, len(offsets)))
    for symbol, own in closes.items():
        mine = np.flatnonzero(headlines.symbol[which] == symbol)
        if not len(mine):
            continue
        logs = np.log(own.price)
        normal = (logs[-1] - logs[0]) / (len(logs) - 1) * offsets
        for begin in range(0, len(mine), _BLOCK):
            block = mine[begin : begin + _BLOCK]
            at = rows[which[block]]
            np.add.at(sums, days.row_of(block), logs[at[:, None] + offsets] - logs[at][:, None] - normal)
    counts = np.bincount(days.row_of(slice(None)), minlength=days.days).astype(float)
    low, high = band(days.of_day_sums(sums) / days.of_day_sums(counts)[:, None])
    return EventPath(
        len(which), days.days, (sums.sum(axis=0) / len(which)).tolist(), low.tolist(), high.tolist()
    )


def headlines_of(rows: Sequence[tuple[int, str, float, int]]) -> Headlines:
    """Build `Headlines` from rows of availability (UTC ms), symbol, score and predicted class."""
    ts, symbol, score, predicted = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Headlines(
        np.array(ts, np.int64),
        np.array(symbol, np.str_),
        np.array(score, float),
        np.array(predicted, np.int64),
    )
