"""Tests of timing: would the same trades have earned as much at random times?

Each round trip keeps its side, size, holding time and cost; only its time is drawn. The real trades are
valued by the same closes and the same rule as the drawn ones, so that they differ in nothing but their times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np

from agent.analysis.daily import Floats, Ints

_Placement = Callable[[np.random.Generator], Sequence[tuple[Ints, Ints]]]

DRAWS: Final = 2_000


class HeldTrades(NamedTuple):
    """Round trips of one symbol as rows of its closes: a trade is held from close `entries` to close `exits`.

    Trades are in order and don't overlap. `weights` are signed fractions of equity at entry. `costs` are
    fractions of the notional for the whole round trip: fees, spread, slippage and funding.
    """

    closes: Floats  # (bars,)
    entries: Ints  # (trades,)
    exits: Ints
    weights: Floats
    costs: Floats


class ChanceTest(msgspec.Struct, frozen=True):
    """The total return of the real trades compared with `draws` random placements.

    `low` and `high` enclose 95 % of the drawn returns. `p_value` is (1 + draws at least as good as the real
    trades) over (1 + draws); if it is small, luck is an unlikely explanation of the timing.
    """

    value: float
    median: float
    low: float
    high: float
    p_value: float
    draws: int


def random_entries(symbols: Sequence[HeldTrades], *, draws: int = DRAWS, seed: int = 0) -> ChanceTest | None:
    """Compare with random entries: the trades of each symbol in random order at random times without overlap.

    Turnover, sides, sizes and holding times stay the same. Returns None without trades.
    """

    def place(trades: HeldTrades, random: np.random.Generator) -> tuple[Ints, Ints]:
        order = random.permutation(len(trades.entries))
        held = (trades.exits - trades.entries)[order]
        room = len(trades.closes) - 1 - int(held.sum())
        # All placements are equally likely: in a row of trades and free bars, draw which items are the trades
        marks = np.sort(random.choice(room + len(held), len(held), replace=False, shuffle=False))
        gaps = np.diff(marks - np.arange(len(held)), prepend=0)
        starts = np.empty(len(held), np.int64)
        starts[order] = (gaps + held).cumsum() - held
        return starts, starts + trades.exits - trades.entries

    return _test(symbols, lambda random: [place(trades, random) for trades in symbols], draws, seed)


def shifted_signals(symbols: Sequence[HeldTrades], *, draws: int = DRAWS, seed: int = 0) -> ChanceTest | None:
    """Compare with shifted signals: all trades of all symbols move by the same random time span.

    A trade that moves beyond the end starts again at the beginning. The distances between trades and their
    coincidence across symbols stay the same. Returns None without trades.
    """

    def shift(random: np.random.Generator) -> list[tuple[Ints, Ints]]:
        share = random.random()
        moved = []
        for trades in symbols:
            last = len(trades.closes) - 1
            starts = (trades.entries + int(share * last)) % last
            moved.append((starts, starts + trades.exits - trades.entries))
        return moved

    return _test(symbols, shift, draws, seed)


def _test(symbols: Sequence[HeldTrades], place: _Placement, draws: int, seed: int) -> ChanceTest | None:
    if not any(len(trades.entries) for trades in symbols):
        return None
    random = np.random.default_rng(seed)
    real = _growth(symbols, [(trades.entries, trades.exits) for trades in symbols])
    drawn = np.array([_growth(symbols, place(random)) for _ in range(draws)])
    low, median, high = np.expm1(np.quantile(drawn, (0.025, 0.5, 0.975)))
    at_least = int((drawn >= real - 1e-12).sum())
    return ChanceTest(
        float(np.expm1(real)), float(median), float(low), float(high), (1 + at_least) / (1 + draws), draws
    )


def _growth(symbols: Sequence[HeldTrades], times: Sequence[tuple[Ints, Ints]]) -> float:
    """Return the log growth of equity. A trade that runs beyond the last close continues at the first."""
    total = 0.0
    for trades, (starts, ends) in zip(symbols, times, strict=True):
        closes, last = trades.closes, len(trades.closes) - 1
        beyond = ends > last
        move = closes[np.where(beyond, last, ends)] / closes[starts]
        move = np.where(beyond, move * closes[np.where(beyond, ends - last, 0)] / closes[0], move)
        gain = trades.weights * (move - 1) - np.abs(trades.weights) * trades.costs
        total += float(np.log1p(np.maximum(gain, -1 + 1e-12)).sum())
    return total
