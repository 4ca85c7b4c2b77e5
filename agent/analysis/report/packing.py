"""Numbers of charts as short text: differences of integers, as variable-length bytes, in Base64.

`page/unpack.js` reads them. A candle takes about twelve characters, a point of a line about six.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from math import floor, log10

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.analysis.report.report_data import Candles, Curve

Integers = NDArray[np.int64]

_DIGITS = 6  # of the largest price or value, at least
_LOWEST_DIGITS = 4  # of the lowest price, which may be far below the highest
_MOST_DIGITS = 13  # of any price: as many are exact after the division by the step, too
_VOLUME_DIGITS = 2  # of a median volume
_MIN_STEP, _MAX_STEP = -12, 12  # powers of ten


class PackedPoints(msgspec.Struct, frozen=True):
    """`count` points: columns of times in s and of values in `step`."""

    count: int
    step: float
    columns: str


class PackedCandles(msgspec.Struct, frozen=True):
    """`count` candles of `interval` ms: columns of times in s, then prices in `step`, volumes in
    `volume_step`: open minus the close before it, close minus open, and the lengths of both wicks.
    """

    count: int
    interval: int
    step: float
    volume_step: float
    columns: str


def pack(columns: Sequence[Integers]) -> str:
    """Encode columns of integers, one after the other."""
    return b64encode(b"".join(_varints(np.diff(column, prepend=0)) for column in columns)).decode()


def pack_points(curve: Curve) -> PackedPoints:
    """Pack a curve with about six digits; of points in the same second the last one is kept."""
    seconds, values = np.array(curve.ts, np.int64) // 1_000, np.array(curve.values, np.float64)
    kept = np.isfinite(values) & np.append(np.diff(seconds) > 0, True)[: len(seconds)]
    seconds, values = seconds[kept], values[kept]
    step = 10.0 ** _exponent(float(np.abs(values).max(initial=0.0)), _DIGITS)
    return PackedPoints(len(seconds), step, pack([seconds, np.rint(values / step).astype(np.int64)]))


def pack_candles(candles: Candles) -> PackedCandles:
    """Pack candles: the highest price with at least six digits, the lowest one with at least four if the
    highest then has at most 13, and a median volume with two.
    """
    prices = np.array([candles.open, candles.high, candles.low, candles.close], np.float64)
    volume = np.array(candles.volume, np.float64)
    step = _price_step(float(prices.max(initial=0.0)), float(prices.min(initial=np.inf)))
    typical = float(np.median(volume[volume > 0])) if (volume > 0).any() else 1.0
    largest = float(volume.max(initial=0.0)) / 2**53  # beyond it a count of steps isn't an integer
    volume_step = max(10.0 ** _exponent(typical, _VOLUME_DIGITS), largest)
    opened, high, low, close = np.rint(prices / step).astype(np.int64)
    before = np.concatenate(([0], close[:-1]))[: len(close)]
    columns = [
        opened - before,
        close - opened,
        high - np.maximum(opened, close),
        np.minimum(opened, close) - low,
        np.rint(volume / volume_step).astype(np.int64),
    ]
    text = b"".join(
        [
            _varints(np.diff(np.array(candles.ts, np.int64) // 1_000, prepend=0)),
            *(_varints(column) for column in columns),
        ]
    )
    return PackedCandles(len(close), candles.interval, step, volume_step, b64encode(text).decode())


def _price_step(highest: float, lowest: float) -> float:
    exponent = _exponent(highest, _DIGITS)
    if 0 < lowest < highest:
        exponent = min(exponent, max(_exponent(lowest, _LOWEST_DIGITS), _exponent(highest, _MOST_DIGITS)))
    return 10.0**exponent


def _exponent(size: float, digits: int) -> int:
    """Return the power of ten that shows a number of this size with at least `digits` digits."""
    if not size > 0:
        return 0
    return min(max(floor(log10(size)) + 1 - digits, _MIN_STEP), _MAX_STEP)


def _varints(values: Integers) -> bytes:
    """Encode as zigzag integers of seven bits a byte, the lowest first; the highest bit: more follow."""
    rest = (values.astype(np.uint64) << np.uint64(1)) ^ (values >> 63).astype(np.uint64)
    parts, more = [], []
    while True:
        parts.append((rest & np.uint64(127)).astype(np.uint8))
        rest = rest >> np.uint64(7)
        more.append(rest > 0)
        if not more[-1].any():
            break
    table, follows = np.array(parts).T, np.array(more).T
    used = np.concatenate((np.ones((len(values), 1), bool), follows[:, :-1]), axis=1)
    encoded: bytes = (table | (follows.astype(np.uint8) << 7))[used].tobytes()
    return encoded
