"""Forecasts compared with outcomes: the confusion matrix and the reliability of signals or predictions.

The outcome of a forecast is the move over `horizon` bars from the first close at or after it, which is about
the price an order would get: down, flat or up. *Flat* is the smallest third of all moves of that length in
the run, so that each class has about the same frequency and a random guess is right a third of the time. The
share of correct forecasts is compared with their confidence in bins, with bands from the bootstrap over days
(`day_bootstrap`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.analysis.daily import Closes, Floats, Ints
from agent.analysis.day_bootstrap import DayBootstrap, band
from agent.analysis.significance import Interval

CLASSES: Final = ("down", "flat", "up")
BINS: Final = 10
"""Number of confidence bins from 0 to 1; empty ones are left out."""


class Forecasts(NamedTuple):
    """Forecasts, all of shape (n,): time (UTC ms), symbol, index of `CLASSES`, confidence in [0, 1]."""

    ts: Ints
    symbol: NDArray[np.str_]
    predicted: Ints
    confidence: Floats


class ConfidenceBin(msgspec.Struct, frozen=True):
    """Forecasts of similar confidence: their count, mean confidence and the share that was correct."""

    count: int
    confidence: float
    right: Interval


class Outcomes(msgspec.Struct, frozen=True):
    """Results of all forecasts of one kind.

    `confusion[predicted][actual]` counts forecasts. `flat` is the half-width of the flat band by symbol, as a
    fraction.
    """

    kind: str  # "signals" or "predictions"
    horizon: int  # bars
    interval: int  # ms
    count: int
    days: int
    confusion: list[list[int]]
    accuracy: Interval
    chance: float  # accuracy of always predicting the most frequent outcome
    bins: list[ConfidenceBin]
    flat: dict[str, float]
    left_out: int  # forecasts whose outcome lies after the end of the run, or that came before its first bar


def outcomes(
    kind: str, forecasts: Forecasts, closes: Mapping[str, Closes], interval: int, horizon: int
) -> Outcomes | None:
    """Compare forecasts with the moves over the next `horizon` bars of `interval` ms.

    Returns None if no outcome is known.
    """
    actual = np.full(len(forecasts.ts), -1)
    flat: dict[str, float] = {}
    for symbol, own in closes.items():
        if len(own.ts) <= horizon:
            continue
        logs = np.log(own.price)
        moves = logs[horizon:] - logs[:-horizon]
        edge = float(np.quantile(np.abs(moves), 1 / 3))
        flat[symbol] = float(np.expm1(edge))
        row = np.searchsorted(own.ts, forecasts.ts, side="left")
        known = (forecasts.symbol == symbol) & (forecasts.ts >= own.ts[0]) & (row < len(moves))
        move = moves[row[known]]
        actual[known] = np.where(move > edge, 2, np.where(move < -edge, 0, 1))
    which = np.flatnonzero(actual >= 0)
    if not len(which):
        return None
    predicted, actual = forecasts.predicted[which], actual[which]
    confusion = np.zeros((3, 3), np.int64)
    np.add.at(confusion, (predicted, actual), 1)
    right = (predicted == actual).astype(float)
    confidence = forecasts.confidence[which]
    bootstrap = DayBootstrap(forecasts.ts[which])
    place = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    bins = [
        ConfidenceBin(
            int(own.sum()), float(confidence[own].mean()), _share(right * own, own.astype(float), bootstrap)
        )
        for own in (place == number for number in range(BINS))
        if own.any()
    ]
    return Outcomes(
        kind=kind,
        horizon=horizon,
        interval=interval,
        count=len(which),
        days=bootstrap.days,
        confusion=confusion.tolist(),
        accuracy=_share(right, np.ones(len(which)), bootstrap),
        chance=float(confusion.sum(axis=0).max() / len(which)),
        bins=bins,
        flat=flat,
        left_out=len(forecasts.ts) - len(which),
    )


def _share(part: Floats, whole: Floats, bootstrap: DayBootstrap) -> Interval:
    """Return the sum of `part` over the sum of `whole`, with its interval."""
    drawn = bootstrap.totals(whole)
    shares = np.divide(bootstrap.totals(part), drawn, out=np.full(len(drawn), np.nan), where=drawn > 0)
    low, high = band(shares)
    return Interval(float(part.sum() / whole.sum()), float(low), float(high))
