"""Timing test: do fills fit the later course of prices that the strategy was never shown?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np

from agent.core.events import Fill
from agent.research.assessment import ClosePrices, Floats, Times

LAGS: Final = (-1, 0, 1, 2, 5)
"""Bars between a fill and the return that the position is multiplied with.

An order is decided a bar before its fill.
"""

HORIZONS: Final = (5, 20, 60, 240, 1_440)
"""Bars after an entry over which its return is taken."""

DRAWS: Final = 10_000
MIN_FILLS: Final = 10
"""With fewer fills the test has no power."""

_MIN_SHIFT: Final = 0.05
"""Smallest shift, as a share of the time: a smaller one keeps a part of the real timing."""


class TimingTest(msgspec.Struct, frozen=True):
    """How well fills are timed for the real prices.

    - `way`: the statistic with the smallest p-value. Positions are multiplied with the returns of single
      bars, entries with returns over a longer time.
    - `gain`: the sum of these products (log returns, the largest position counts as 1).
    - `p_value`: chance that the same fills, all shifted by one random time, reach this gain; times the number
      of statistics (Bonferroni).
    - `example`: the first fill after which the real price moved in its direction until the symbol's next
      fill.
    """

    fills: int
    way: str
    gain: float
    p_value: float
    example: Fill | None


def timing_test(
    fills: Sequence[Fill], prices: Mapping[str, ClosePrices], *, seed: int = 0
) -> TimingTest | None:
    """Test the timing of `fills` by the most telling statistic; None if there are fewer than `MIN_FILLS`."""
    if len(fills) < MIN_FILLS:
        return None
    shifts = np.random.default_rng(seed).uniform(_MIN_SHIFT, 1 - _MIN_SHIFT, DRAWS)
    found: list[TimingTest] = []
    for name, pairs in _statistics(fills, prices).items():
        gains = _gains(pairs, np.concatenate(((0.0,), shifts)))  # the first is the real timing
        p_value = (1 + int((gains[1:] >= gains[0] - 1e-12).sum())) / (1 + DRAWS)
        found.append(TimingTest(len(fills), name, float(gains[0]), p_value, None))
    best = min(found, key=lambda each: each.p_value)
    p_value = min(1.0, best.p_value * len(found))
    return msgspec.structs.replace(best, p_value=p_value, example=_first_right(fills, prices))


def _gains(pairs: Sequence[tuple[Floats, Floats]], shifts: Floats) -> Floats:
    """Sum weights times returns for each of `shifts`: shares of the time by which weights rotate."""
    total = np.zeros(len(shifts))
    for weights, returns in pairs:
        n = len(returns)
        correlation = np.fft.irfft(np.conj(np.fft.rfft(weights)) * np.fft.rfft(returns), n)  # at every shift
        total += correlation[(shifts * n).astype(np.int64)]
    return total


def _statistics(
    fills: Sequence[Fill], prices: Mapping[str, ClosePrices]
) -> dict[str, list[tuple[Floats, Floats]]]:
    """Return for each statistic the weights of each symbol and the returns to multiply with."""
    positions = {
        lag: f"positions, {lag + 1} bars after the decision" if lag + 1 else "positions" for lag in LAGS
    }
    entries = {horizon: f"entries, over the next {horizon} bars" for horizon in HORIZONS}
    pairs: dict[str, list[tuple[Floats, Floats]]] = {
        name: [] for name in (*positions.values(), *entries.values())
    }
    for symbol, price in prices.items():
        own = [fill for fill in fills if fill.symbol == symbol]
        if not own or len(price.closes) < 3:
            continue
        logs = np.log(price.closes)
        rows = _rows(own, price.ts)
        signed = np.array([float(fill.qty) * fill.side.sign for fill in own])
        levels = np.cumsum(signed)
        largest = float(np.abs(levels).max()) or 1.0
        changes = np.zeros(len(logs))
        np.add.at(changes, rows, signed / largest)
        held = np.cumsum(changes)[:-1]
        for lag, name in positions.items():
            pairs[name].append((held, np.roll(np.diff(logs), -lag)))
        is_entry = np.abs(levels) > np.abs(levels - signed) + 1e-12
        for horizon, name in entries.items():
            ahead = logs[horizon:] - logs[:-horizon]
            if len(ahead) < horizon:
                continue
            inside = is_entry & (rows < len(ahead))
            weights = np.zeros(len(ahead))
            np.add.at(weights, rows[inside], signed[inside] / largest)
            pairs[name].append((weights, ahead))
    return {name: own for name, own in pairs.items() if own}


def _first_right(fills: Sequence[Fill], prices: Mapping[str, ClosePrices]) -> Fill | None:
    for number, fill in enumerate(fills):
        price = prices.get(fill.symbol)
        later = next((other for other in fills[number + 1 :] if other.symbol == fill.symbol), None)
        if price is None or later is None:
            continue
        begin, end = _rows([fill, later], price.ts).tolist()
        if (price.closes[end] - price.closes[begin]) * fill.side.sign > 0:
            return fill
    return None


def _rows(fills: Sequence[Fill], ts: Times) -> Times:
    times = np.array([fill.ts for fill in fills], np.int64)
    rows: Times = np.maximum(np.searchsorted(ts, times, side="right") - 1, 0)
    return rows
