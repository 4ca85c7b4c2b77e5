"""What was said, against what happened: the confusion matrix and the reliability of signals or predictions.

What happened to a symbol within `horizon` bars from the first close at or after a statement, which is about where an order would have
met the market, is down, flat or up; *flat* is the third of all moves of that length in the run that was
smallest, so that each class is what happens about a third of the time and guessing is right as often. The share of statements that
came true is compared with the confidence they were made with, in bins, with bands from the bootstrap over days (`clusters`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.analysis.clusters import DayBootstrap, band
from agent.analysis.daily import Closes, Floats, Ints
from agent.analysis.significance import Interval

CLASSES: Final = ("down", "flat", "up")
BINS: Final = 10
"""Of confidence, from 0 to 1; those that nothing falls into are left out."""


class Statements(NamedTuple):
    """All of shape (n,): time (UTC ms), symbol, index of the class said, and the confidence in [0, 1]."""

    ts: Ints
    symbol: NDArray[np.str_]
    said: Ints
    confidence: Floats


class Bin(msgspec.Struct, frozen=True):
    """Statements of like confidence: how many, their mean confidence, and the share that came true."""

    count: int
    confidence: float
    right: Interval


class Outcomes(msgspec.Struct, frozen=True):
    """`confusion[said][happened]` counts; `flat` is the half-width of the flat band as a fraction, by symbol."""

    kind: str  # signals or predictions
    horizon: int  # bars
    interval: int  # ms
    count: int
    days: int
    confusion: list[list[int]]
    accuracy: Interval
    chance: float  # how often saying the commonest outcome each time would have been right
    bins: list[Bin]
    flat: dict[str, float]
    left_out: int  # too near the end of the run to know, or before its first bar


def outcomes(
    kind: str, statements: Statements, closes: Mapping[str, Closes], interval: int, horizon: int
) -> Outcomes | None:
    """Compare `statements` with the moves over the next `horizon` bars; None where nothing can be compared."""
    happened = np.full(len(statements.ts), -1)
    flat: dict[str, float] = {}
    for symbol, own in closes.items():
        if len(own.ts) <= horizon:
            continue
        logs = np.log(own.price)
        moves = logs[horizon:] - logs[:-horizon]
        edge = float(np.quantile(np.abs(moves), 1 / 3))
        flat[symbol] = float(np.expm1(edge))
        row = np.searchsorted(own.ts, statements.ts, side="left")
        known = (statements.symbol == symbol) & (statements.ts >= own.ts[0]) & (row < len(moves))
        move = moves[row[known]]
        happened[known] = np.where(move > edge, 2, np.where(move < -edge, 0, 1))
    which = np.flatnonzero(happened >= 0)
    if not len(which):
        return None
    said, came = statements.said[which], happened[which]
    confusion = np.zeros((3, 3), np.int64)
    np.add.at(confusion, (said, came), 1)
    right = (said == came).astype(float)
    confidence = statements.confidence[which]
    bootstrap = DayBootstrap(statements.ts[which])
    place = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    bins = [
        Bin(int(own.sum()), float(confidence[own].mean()), _share(right * own, own.astype(float), bootstrap))
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
        left_out=len(statements.ts) - len(which),
    )


def _share(part: Floats, whole: Floats, bootstrap: DayBootstrap) -> Interval:
    """Sum over sum, with its interval; draws without any don't count."""
    drawn = bootstrap.totals(whole)
    shares = np.divide(bootstrap.totals(part), drawn, out=np.full(len(drawn), np.nan), where=drawn > 0)
    low, high = band(shares)
    return Interval(float(part.sum() / whole.sum()), float(low), float(high))
