"""The average move of a symbol around headlines of each predicted class: whether the price goes where the model says, and when.

The path of a headline is the abnormal log return from the last close that was known when the headline became available (bar 0):

    A[k] = ln(C[i+k] / C[i]) - k * m        m: mean log return a bar of that symbol, over all bars given

(the constant-mean-return model: MacKinlay, "Event studies in economics and finance", 1997). Before bar 0 it shows what the price had
done already: a headline that comes after its own move is not news. Bands come from the bootstrap over days (`clusters`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.analysis.clusters import DayBootstrap, band
from agent.analysis.daily import Closes, Floats, Ints

CLASSES: Final = ("bearish", "neutral", "bullish")
_BLOCK: Final = 4_096  # headlines whose paths are in memory at once


class Headlines(NamedTuple):
    """Headlines as the model read them, one row for each symbol that each is about; all of shape (n,).

    `ts` is when the score was available (UTC ms), `score` bullish minus bearish, `predicted` an index of `CLASSES`.
    """

    ts: Ints
    symbol: NDArray[np.str_]
    score: Floats
    predicted: Ints


class EventPath(msgspec.Struct, frozen=True):
    """The mean path of one class, as a fraction, at each of the study's offsets, with its band."""

    events: int
    days: int
    mean: list[float]
    low: list[float]
    high: list[float]


class EventStudy(msgspec.Struct, frozen=True):
    """`offsets` are bars of `interval` ms from availability. `left_out` headlines had no full window of bars around them."""

    interval: int
    offsets: list[int]
    classes: dict[str, EventPath]
    left_out: int


def event_study(
    headlines: Headlines, closes: Mapping[str, Closes], interval: int, *, before: int, after: int
) -> EventStudy | None:
    """The study from `before` bars ahead of availability to `after` behind it; None where no headline has such a window."""
    offsets = np.arange(-before, after + 1)
    rows = bars_at(headlines, closes)
    room = np.array([len(closes[s].ts) if s in closes else 0 for s in headlines.symbol.tolist()], np.int64)
    inside = (rows >= before) & (rows + after < room)
    classes = {}
    for number, name in enumerate(CLASSES):
        which = np.flatnonzero(inside & (headlines.predicted == number))
        if len(which):
            classes[name] = _path(headlines, closes, which, rows, offsets)
    if not classes:
        return None
    return EventStudy(interval, offsets.tolist(), classes, int((~inside).sum()))


def bars_at(headlines: Headlines, closes: Mapping[str, Closes]) -> Ints:
    """For each headline the row of its symbol's last close at or before it; -1 where there is none."""
    rows = np.full(len(headlines.ts), -1)
    for symbol, own in closes.items():
        mine = headlines.symbol == symbol
        rows[mine] = np.searchsorted(own.ts, headlines.ts[mine], side="right") - 1
    return rows


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
    """From (availability, symbol, score, predicted class) each."""
    ts, symbol, score, predicted = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Headlines(
        np.array(ts, np.int64),
        np.array(symbol, np.str_),
        np.array(score, float),
        np.array(predicted, np.int64),
    )
