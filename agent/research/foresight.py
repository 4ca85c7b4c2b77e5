"""Do decisions that were taken in another market fit what the real one did next? Then they were told by something else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np

from agent.core.events import Fill
from agent.research.evidence import Floats, Prices, Times

LAGS: Final = (-1, 0, 1, 2, 5)
"""Bars between a fill and the return that a position is held against; an order is decided a bar before it is filled."""

HORIZONS: Final = (5, 20, 60, 240, 1_440)
"""Bars after an entry."""

DRAWS: Final = 10_000
FEWEST: Final = 10
"""With fewer fills nothing can be told."""


_NEAR: Final = 0.05
"""Share of the time that fills are moved by at least: nearer ones still have a part of what the real times have."""


class Foresight(msgspec.Struct, frozen=True):
    """How well a strategy's fills are timed for real prices that it has never been shown.

    `way` says what fits best: positions against the next bar's returns, or entries against those over a longer time; `gain` is the sum of
    those log returns with the fills' signs, the largest position counted as 1. `p_value` is the chance that the same fills, all moved by
    one random span, do as well, times the number of ways that were looked at (Bonferroni). `example` is the first fill that was right.
    """

    fills: int
    way: str
    gain: float
    p_value: float
    example: Fill | None


class _Way:
    """One way to look: marks of each symbol that meet returns of the same length, whose product at no shift is the real one's."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pairs: list[tuple[Floats, Floats]] = []

    def gains(self, shares: Floats) -> Floats:
        """The sum of products, with all marks moved by each of `shares` of the time, around the end to the beginning."""
        total = np.zeros(len(shares))
        for marks, returns in self.pairs:
            n = len(returns)
            # All shifts at once, as a circular correlation
            moved = np.fft.irfft(np.conj(np.fft.rfft(marks)) * np.fft.rfft(returns), n)
            total += moved[(shares * n).astype(np.int64)]
        return total


def foresight(fills: Sequence[Fill], prices: Mapping[str, Prices], *, seed: int = 0) -> Foresight | None:
    """The most telling way to look at `fills`; None for fewer than `FEWEST`."""
    if len(fills) < FEWEST:
        return None
    spans = np.random.default_rng(seed).uniform(_NEAR, 1 - _NEAR, DRAWS)
    shares = np.concatenate(((0.0,), spans))  # the first moves nothing: the real times
    found: list[Foresight] = []
    for way in _ways(fills, prices):
        gains = way.gains(shares)
        chance = (1 + int((gains[1:] >= gains[0] - 1e-12).sum())) / (1 + DRAWS)
        found.append(Foresight(len(fills), way.name, float(gains[0]), chance, None))
    best = min(found, key=lambda each: each.p_value)
    return msgspec.structs.replace(
        best, p_value=min(1.0, best.p_value * len(found)), example=_right(fills, prices)
    )


def _ways(fills: Sequence[Fill], prices: Mapping[str, Prices]) -> Iterator[_Way]:
    lagged = {
        lag: _Way(f"positions, {lag + 1} bars after the decision" if lag + 1 else "positions") for lag in LAGS
    }
    entered = {horizon: _Way(f"entries, over the next {horizon} bars") for horizon in HORIZONS}
    for symbol, price in prices.items():
        own = [fill for fill in fills if fill.symbol == symbol]
        if not own or len(price.closes) < 3:
            continue
        logs = np.log(price.closes)
        rows = _rows(own, price.ts)
        signed = np.array([float(fill.qty) * fill.side.sign for fill in own])
        levels = np.cumsum(signed)
        largest = float(np.abs(levels).max()) or 1.0
        steps = np.zeros(len(logs))
        np.add.at(steps, rows, signed / largest)
        held = np.cumsum(steps)[:-1]
        for lag, way in lagged.items():
            way.pairs.append((held, np.roll(np.diff(logs), -lag)))
        grows = np.abs(levels) > np.abs(levels - signed) + 1e-12
        for horizon, way in entered.items():
            ahead = logs[horizon:] - logs[:-horizon]
            if len(ahead) < horizon:
                continue
            inside = grows & (rows < len(ahead))
            marks = np.zeros(len(ahead))
            np.add.at(marks, rows[inside], signed[inside] / largest)
            way.pairs.append((marks, ahead))
    for way in (*lagged.values(), *entered.values()):
        if way.pairs:
            yield way


def _right(fills: Sequence[Fill], prices: Mapping[str, Prices]) -> Fill | None:
    """The first fill after which the real price went its way until the symbol's next one."""
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
    rows: Times = np.maximum(
        np.searchsorted(ts, np.array([fill.ts for fill in fills], np.int64), side="right") - 1, 0
    )
    return rows
