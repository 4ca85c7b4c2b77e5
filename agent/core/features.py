"""The ten price features, updated in O(1) per bar by the same code in training, replay and live trading.

All are independent of the price's scale, so one model serves every symbol. Each is NaN until enough bars have
come (`WARM_UP_BARS` for all of them), and again after a gap. Rolling sums are taken relative to a reference
price; every 256 bars they are recomputed exactly with a new one, so rounding errors do not accumulate over
millions of bars.
"""

from __future__ import annotations

from math import fsum, isnan, nan, sqrt
from typing import Final, NamedTuple

from librt.vecs import vec
from mypy_extensions import i64

from agent.core.events import DAY_MS, Kline

WARM_UP_BARS: Final = 34
"""Bars until every feature is defined; MACD's signal line is the last."""

_RING: Final = 64  # bars kept, a power of two
_MASK: Final = _RING - 1
_VOLUME: Final = _RING  # of a bar's volume behind its close, in the ring
_RETURN: Final = 2 * _RING


class Features(NamedTuple):
    """The ten features at the close of one bar."""

    return_1: float
    """Simple return over 1 bar: close / close 1 bar ago - 1 (TA-Lib ROCP)."""
    return_5: float
    """Simple return over 5 bars."""
    return_20: float
    """Simple return over 20 bars."""
    volume_ratio: float
    """Volume / mean volume of the last 20 bars, this one included; 1 if none of them traded."""
    volatility: float
    """Population standard deviation of the last 20 one-bar returns, per bar (TA-Lib STDDEV of ROCP)."""
    rsi: float
    """Wilder's relative strength index over 14 bars, 0..100 (TA-Lib RSI; 50, not 0, without any move)."""
    macd: float
    """MACD(12, 26, 9) histogram / close (TA-Lib MACD, including its seeding with simple means)."""
    bollinger: float
    """(close - mean) / (2 population standard deviations) of the last 20 closes: -1 and 1 are the bands.

    0 if the price has not moved.
    """
    atr_ratio: float
    """Wilder's average true range over 14 bars / close (TA-Lib ATR)."""
    vwap_distance: float
    """Close / VWAP - 1, with the VWAP of the typical price (high + low + close) / 3 since 00:00 UTC.

    0 before the first trade of the day.
    """

    @property
    def warm(self) -> bool:
        """True if every feature is defined."""
        return not any(map(isnan, self))


COLD: Final = Features(*[nan] * 10)
"""The features before the first bar: all NaN."""


class FeatureTracker:
    """The features of one symbol on one interval.

    Pass every closed bar to `add`, `advance` or `update`, in order, and call `reset` if bars are missing.
    `values` are the features up to the last call of `advance`, `update` or `latest`.
    """

    __slots__ = (
        "_atr",
        "_bars",
        "_day_end",
        "_due",
        "_ema12",
        "_ema26",
        "_gain",
        "_kind",
        "_loss",
        "_make",
        "_previous",
        "_reference",
        "_ring",
        "_signal",
        "_sum_close",
        "_sum_close2",
        "_sum_macd",
        "_sum_return",
        "_sum_return2",
        "_sum_volume",
        "_traded",
        "_volume",
        "first_start",
        "values",
    )

    def __init__(self) -> None:
        # A NamedTuple's own constructor takes three times as long as tuple.__new__
        self._make = tuple.__new__
        self._kind = Features
        # Compiled code doesn't ask whether an attribute is set if each is set here, without a call before
        self.values: Features = COLD
        self.first_start: int = -1
        """Open time of the first bar since the last reset (UTC ms); -1 without one."""
        self._due: bool = False  # True if bars have been added since `values` was built
        self._bars: i64 = 0
        self._ring: vec[float] = vec[float]([0.0] * (3 * _RING))  # closes, then volumes, then returns
        self._reference: float = 0.0
        self._previous: float = 0.0
        self._sum_close: float = 0.0  # sum of close - reference over 20 bars
        self._sum_close2: float = 0.0
        self._sum_volume: float = 0.0
        self._sum_return: float = 0.0
        self._sum_return2: float = 0.0
        self._gain: float = 0.0
        self._loss: float = 0.0
        self._atr: float = 0.0
        self._ema12: float = 0.0
        self._ema26: float = 0.0
        self._signal: float = 0.0
        self._sum_macd: float = 0.0
        self._day_end: i64 = 0
        self._traded: float = 0.0  # value traded since 00:00 UTC, at typical prices
        self._volume: float = 0.0

    def reset(self) -> None:
        """Discard all state: the next bar is the first."""
        self.take(FeatureTracker())

    def update(self, kline: Kline) -> Features:
        """Add a closed bar and return the features at its close."""
        return self.advance(kline.start, kline.high, kline.low, kline.close, kline.volume)

    def advance(self, start: int, high: float, low: float, close: float, volume: float) -> Features:
        """Add a closed bar, given by its fields; `start` is its open time (UTC ms)."""
        self.add(start, high, low, close, volume)
        return self.latest()

    def add(self, start: i64, high: float, low: float, close: float, volume: float) -> None:
        """Add a closed bar, as `advance`, without building its features: half of the time."""
        self._update_vwap(start, (high + low + close) / 3.0, volume)
        n = self._bars
        self._bars = n + 1
        if n < WARM_UP_BARS:
            self._warm_up(n, start, close, high, low, volume)
            return

        previous = self._previous
        self._previous = close
        change = close - previous
        return_1 = change / previous
        true_range = (high if high > previous else previous) - (low if low < previous else previous)
        if change > 0.0:
            self._gain += (change - self._gain) / 14.0
            self._loss -= self._loss / 14.0
        else:
            self._gain -= self._gain / 14.0
            self._loss -= (change + self._loss) / 14.0
        self._atr += (true_range - self._atr) / 14.0
        self._ema12 += (close - self._ema12) * (2.0 / 13.0)
        self._ema26 += (close - self._ema26) * (2.0 / 27.0)
        self._signal += (self._ema12 - self._ema26 - self._signal) * 0.2

        ring, oldest = self._ring, (n - 20) & _MASK
        old = ring[oldest] - self._reference
        new = close - self._reference
        self._sum_close += new - old
        self._sum_close2 += new * new - old * old
        self._sum_volume += volume - ring[oldest + _VOLUME]
        old = ring[oldest + _RETURN]
        self._sum_return += return_1 - old
        self._sum_return2 += return_1 * return_1 - old * old
        self._keep(n, close, volume, return_1)
        if n & 255 == 0:
            self._resum(n, close)
        self._due = True

    def latest(self) -> Features:
        """Return the features at the close of the last bar."""
        if not self._due:
            return self.values
        self._due = False
        values: Features = self._make(
            self._kind,
            (
                self._value(0),
                self._value(1),
                self._value(2),
                self._value(3),
                self._value(4),
                self._value(5),
                self._value(6),
                self._value(7),
                self._value(8),
                self._value(9),
            ),
        )
        self.values = values
        return values

    def value(self, number: int) -> float:
        """Return one feature at the close of the last bar, by its number in `Features`."""
        return self._value(number) if self._due else self.values[number]

    def _value(self, number: int) -> float:
        """Compute a feature at the close of the last bar, once all of them are defined."""
        n, close = self._bars - 1, self._previous
        match number:
            case 0:
                return self._ring[(n & _MASK) + _RETURN]
            case 1:
                return close / self._ring[(n - 5) & _MASK] - 1.0
            case 2:
                return close / self._ring[(n - 20) & _MASK] - 1.0
            case 3:
                return self._volume_ratio(self._ring[(n & _MASK) + _VOLUME])
            case 4:
                return self._volatility()
            case 5:
                moved = self._gain + self._loss
                return 100.0 * self._gain / moved if moved > 0.0 else 50.0
            case 6:
                return (self._ema12 - self._ema26 - self._signal) / close
            case 7:
                return self._bollinger(close)
            case 8:
                return self._atr / close
            case _:
                return self._vwap_distance(close)

    def take(self, other: FeatureTracker) -> None:
        """Take over the state of another tracker, which stays as it is."""
        self.values, self._due, self._bars = other.values, other._due, other._bars
        self.first_start = other.first_start
        self._ring = other._ring[:]
        self._reference, self._previous = other._reference, other._previous
        self._sum_close, self._sum_close2 = other._sum_close, other._sum_close2
        self._sum_volume = other._sum_volume
        self._sum_return, self._sum_return2 = other._sum_return, other._sum_return2
        self._gain, self._loss, self._atr = other._gain, other._loss, other._atr
        self._ema12, self._ema26 = other._ema12, other._ema26
        self._signal, self._sum_macd = other._signal, other._sum_macd
        self._day_end, self._traded, self._volume = other._day_end, other._traded, other._volume

    @property
    def bars(self) -> int:
        """Bars since the last reset."""
        return self._bars

    def _update_vwap(self, start: i64, typical: float, volume: float) -> None:
        """Update the VWAP of the UTC day in which the bar opened."""
        if start >= self._day_end:
            self._day_end = start - start % DAY_MS + DAY_MS
            self._traded = typical * volume
            self._volume = volume
        else:
            self._traded += typical * volume
            self._volume += volume

    def _vwap_distance(self, close: float) -> float:
        return close * self._volume / self._traded - 1.0 if self._volume > 0.0 else 0.0

    def _keep(self, n: i64, close: float, volume: float, return_1: float) -> None:
        ring, at = self._ring, n & _MASK
        ring[at] = close
        ring[at + _VOLUME] = volume
        ring[at + _RETURN] = return_1

    def _volume_ratio(self, volume: float) -> float:
        return volume * 20.0 / self._sum_volume if self._sum_volume > 0.0 else 1.0

    def _volatility(self) -> float:
        mean = self._sum_return / 20.0
        variance = self._sum_return2 / 20.0 - mean * mean
        return sqrt(variance) if variance > 0.0 else 0.0

    def _bollinger(self, close: float) -> float:
        mean = self._sum_close / 20.0
        variance = self._sum_close2 / 20.0 - mean * mean
        # A deviation below a billionth of the price is a rounding error
        return (
            (close - self._reference - mean) / (2.0 * sqrt(variance))
            if variance > 1e-18 * close * close
            else 0.0
        )

    def _resum(self, n: i64, close: float) -> None:
        """Recompute the rolling sums of the 20 bars up to number `n`, with `close` as the new reference."""
        closes: list[float] = []
        volumes: list[float] = []
        returns: list[float] = []
        for i in range(n - 19, n + 1):
            at = i & _MASK
            closes.append(self._ring[at] - close)
            volumes.append(self._ring[at + _VOLUME])
            returns.append(self._ring[at + _RETURN])
        self._reference = close
        self._sum_close = fsum(closes)
        self._sum_close2 = fsum([c * c for c in closes])
        self._sum_volume = fsum(volumes)
        self._sum_return = fsum(returns)
        self._sum_return2 = fsum([r * r for r in returns])

    def _warm_up(self, n: i64, start: i64, close: float, high: float, low: float, volume: float) -> None:
        """Seed each average with the simple mean of its first period, as TA-Lib does (first 34 bars)."""
        if not n:
            self.first_start = start
        previous = self._previous if n else close
        self._previous = close
        change = close - previous
        return_1 = change / previous
        self._keep(n, close, volume, return_1)
        up = change if change > 0.0 else 0.0
        down = -change if change < 0.0 else 0.0
        true_range = (high if high > previous else previous) - (low if low < previous else previous)
        if n > 14:
            self._gain += (up - self._gain) / 14.0
            self._loss += (down - self._loss) / 14.0
            self._atr += (true_range - self._atr) / 14.0
        elif n > 0:
            self._gain += up / 14.0
            self._loss += down / 14.0
            self._atr += true_range / 14.0
        closes = self._ring
        if n > 25:
            self._ema26 += (close - self._ema26) * (2.0 / 27.0)
            self._ema12 += (close - self._ema12) * (2.0 / 13.0)
        elif n == 25:
            self._ema26 = fsum(closes[:26]) / 26.0
            self._ema12 = fsum(closes[14:26]) / 12.0
        macd = self._ema12 - self._ema26
        if n >= 25:
            self._sum_macd += macd
            self._signal = self._sum_macd / 9.0
        if n >= 19:
            self._resum(n, close)
        moved = self._gain + self._loss
        self.values = Features(
            return_1 if n >= 1 else nan,
            close / closes[n - 5] - 1.0 if n >= 5 else nan,
            close / closes[n - 20] - 1.0 if n >= 20 else nan,
            self._volume_ratio(volume) if n >= 19 else nan,
            self._volatility() if n >= 20 else nan,
            (100.0 * self._gain / moved if moved > 0.0 else 50.0) if n >= 14 else nan,
            (macd - self._signal) / close if n >= 33 else nan,
            self._bollinger(close) if n >= 19 else nan,
            self._atr / close if n >= 14 else nan,
            self._vwap_distance(close),
        )
