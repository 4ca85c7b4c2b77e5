"""The ten price features, incremental: O(1) a bar, the same code for training, replay and live.

All are free of the price's scale, so that one model serves every symbol. Each is NaN until it is warm (`WARM_UP_BARS` for all)
and everything starts anew after a gap. Rolling sums are taken against a reference that is refreshed every 256 bars and are then
recomputed exactly, so that rounding errors cannot pile up over millions of bars.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from math import fsum, isnan, nan, sqrt
from typing import Final, NamedTuple

from agent.events import DAY_MS, Kline

WARM_UP_BARS: Final = 34
"""Bars until every feature is defined; MACD's signal line is the last."""

_WINDOW: Final = 20
_WILDER: Final = 14
_RESUM_EVERY: Final = 256


class Features(NamedTuple):
    """The ten features at the close of one bar."""

    return_1: float
    """Simple return over 1 bar: close / close 1 bar ago - 1 (TA-Lib ROCP)."""
    return_5: float
    """Simple return over 5 bars."""
    return_20: float
    """Simple return over 20 bars."""
    volume_ratio: float
    """Volume / mean volume of the last 20 bars, this one included; 1 where none of them traded."""
    volatility: float
    """Population standard deviation of the last 20 one-bar returns, per bar (TA-Lib STDDEV of ROCP)."""
    rsi: float
    """Wilder's relative strength index over 14 bars, 0..100 (TA-Lib RSI; 50 instead of TA-Lib's 0 where nothing moved at all)."""
    macd: float
    """MACD(12, 26, 9) histogram / close (TA-Lib MACD, seeded with simple means as there)."""
    bollinger: float
    """(close - mean) / (2 population standard deviations) of the last 20 closes: -1 and 1 are the bands; 0 in a flat market."""
    atr_ratio: float
    """Wilder's average true range over 14 bars / close (TA-Lib ATR)."""
    vwap_distance: float
    """Close / volume-weighted average of the typical price (high + low + close) / 3 since 00:00 UTC, - 1; 0 before the first trade."""

    @property
    def warm(self) -> bool:
        """Every feature is defined."""
        return not any(map(isnan, self))


COLD: Final = Features(*[nan] * 10)
"""What is known before the first bar."""


class FeatureTracker:
    """The features of one symbol on one interval. Feed it every closed bar in order, `reset` it where bars are missing."""

    __slots__ = ("_send", "values")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything: the next bar is the first."""
        self.values = COLD
        machine = _machine()
        next(machine)
        self._send = machine.send

    def update(self, kline: Kline) -> Features:
        """The features at the close of `kline`."""
        values = self.values = self._send(kline)
        return values


def _machine() -> Generator[Features, Kline, None]:
    """A coroutine rather than an object: its state lives in local variables, which CPython reads and writes fastest."""
    make = tuple.__new__  # a NamedTuple's own constructor costs three times as much
    n = 0
    closes: deque[float] = deque(maxlen=_WINDOW + 1)
    volumes: deque[float] = deque(maxlen=_WINDOW)
    returns: deque[float] = deque([0.0] * _WINDOW, maxlen=_WINDOW)
    reference = previous = 0.0
    sum_close = sum_close2 = sum_volume = sum_return = sum_return2 = 0.0
    gain = loss = atr = 0.0
    ema12 = ema26 = signal = macd = 0.0
    sum_macd = 0.0
    value_traded = volume_traded = 0.0
    day_end = 0
    values = COLD
    while True:
        kline = yield values
        close = kline.close
        high = kline.high
        low = kline.low
        volume = kline.volume
        n += 1

        # Daily VWAP, by the UTC day in which the bar opened
        start = kline.start
        typical = (high + low + close) / 3.0
        if start >= day_end:
            day_end = start - start % DAY_MS + DAY_MS
            value_traded = typical * volume
            volume_traded = volume
        else:
            value_traded += typical * volume
            volume_traded += volume
        vwap_distance = close * volume_traded / value_traded - 1.0 if volume_traded > 0.0 else 0.0

        if n == 1:
            reference = previous = close
            closes.append(close)
            volumes.append(volume)
            sum_volume = volume
            values = Features(nan, nan, nan, nan, nan, nan, nan, nan, nan, vwap_distance)
            continue

        change = close - previous
        return_1 = change / previous
        true_range = (high if high > previous else previous) - (low if low < previous else previous)
        previous = close

        if n > WARM_UP_BARS:
            if change > 0.0:
                gain += (change - gain) / 14.0
                loss -= loss / 14.0
            else:
                gain -= gain / 14.0
                loss -= (change + loss) / 14.0
            atr += (true_range - atr) / 14.0
            ema12 += (close - ema12) * (2.0 / 13.0)
            ema26 += (close - ema26) * (2.0 / 27.0)
            macd = ema12 - ema26
            signal += (macd - signal) * 0.2

            old = closes[1] - reference
            new = close - reference
            sum_close += new - old
            sum_close2 += new * new - old * old
            closes.append(close)
            sum_volume += volume - volumes[0]
            volumes.append(volume)
            old = returns[0]
            sum_return += return_1 - old
            sum_return2 += return_1 * return_1 - old * old
            returns.append(return_1)
        else:
            # The first 34 bars seed each average as TA-Lib does, with the simple mean of its first period
            up = change if change > 0.0 else 0.0
            down = -change if change < 0.0 else 0.0
            if n <= _WILDER + 1:
                gain += up / 14.0
                loss += down / 14.0
                atr += true_range / 14.0
            else:
                gain += (up - gain) / 14.0
                loss += (down - loss) / 14.0
                atr += (true_range - atr) / 14.0
            ema26 += close / 26.0 if n <= 26 else (close - ema26) * (2.0 / 27.0)
            if n == 2:
                ema26 += closes[0] / 26.0
            if 14 < n <= 26:
                ema12 += close / 12.0
            elif n > 26:
                ema12 += (close - ema12) * (2.0 / 13.0)
            if n >= 26:
                macd = ema12 - ema26
                sum_macd += macd
                signal = sum_macd / 9.0
            closes.append(close)
            volumes.append(volume)
            returns.append(return_1)

        if n <= WARM_UP_BARS or n % _RESUM_EVERY == 0:
            reference = close
            window = [c - close for c in closes][-_WINDOW:]
            sum_close = fsum(window)
            sum_close2 = fsum([c * c for c in window])
            sum_volume = fsum(volumes)
            sum_return = fsum(returns)
            sum_return2 = fsum([r * r for r in returns])

        mean = sum_close / 20.0
        variance = sum_close2 / 20.0 - mean * mean
        # Below a billionth of the price it is rounding, not movement
        bollinger = (close - reference - mean) / (2.0 * sqrt(variance)) if variance > 1e-18 * close * close else 0.0
        mean = sum_return / 20.0
        variance = sum_return2 / 20.0 - mean * mean
        moved = gain + loss
        if n >= WARM_UP_BARS:
            values = make(
                Features,
                (
                    return_1,
                    close / closes[-6] - 1.0,
                    close / closes[0] - 1.0,
                    volume * 20.0 / sum_volume if sum_volume > 0.0 else 1.0,
                    sqrt(variance) if variance > 0.0 else 0.0,
                    100.0 * gain / moved if moved > 0.0 else 50.0,
                    (macd - signal) / close,
                    bollinger,
                    atr / close,
                    vwap_distance,
                ),
            )
            continue
        has_20 = n > _WINDOW
        has_14 = n > _WILDER
        values = Features(
            return_1,
            close / closes[-6] - 1.0 if n > 5 else nan,
            close / closes[0] - 1.0 if has_20 else nan,
            (volume * 20.0 / sum_volume if sum_volume > 0.0 else 1.0) if n >= _WINDOW else nan,
            (sqrt(variance) if variance > 0.0 else 0.0) if has_20 else nan,
            (100.0 * gain / moved if moved > 0.0 else 50.0) if has_14 else nan,
            nan,
            bollinger if n >= _WINDOW else nan,
            atr / close if has_14 else nan,
            vwap_distance,
        )
