"""What the same trades would have earned at other times: is it the timing that pays, or just being in the market?

Each real round trip keeps its side, size, holding time and cost; only when it happens is drawn anew. The real trades are valued
by the same closes and the same rule as the drawn ones, so nothing but their times differs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_Placing = Callable[[np.random.Generator], Sequence[tuple[Ints, Ints]]]

DRAWS: Final = 2_000


class HeldTrades(NamedTuple):
    """One symbol's round trips over its closes. A trade holds from the close number `entries` to the close number `exits`.

    Trades are in order and don't overlap. `weights` are signed fractions of equity at entry, `costs` fractions of the notional, for the
    whole round trip: fees, spread, slippage and funding.
    """

    closes: Floats  # (bars,)
    entries: Ints  # (trades,)
    exits: Ints
    weights: Floats
    costs: Floats


class ChanceTest(msgspec.Struct, frozen=True):
    """The real trades' total return among that of `draws` drawn ones.

    `low` and `high` hold 95 % of those, `p_value` is (1 + drawn at least as good as the real) / (1 + draws): small says that luck with
    the times is an unlikely explanation.
    """

    value: float
    median: float
    low: float
    high: float
    p_value: float
    draws: int


def random_entries(symbols: Sequence[HeldTrades], *, draws: int = DRAWS, seed: int = 0) -> ChanceTest | None:
    """Against entries at random: each symbol's trades in random order at random places that don't overlap.

    So turnover, sides, sizes and holding times are equal. None without trades.
    """

    def place(trades: HeldTrades, random: np.random.Generator) -> tuple[Ints, Ints]:
        order = random.permutation(len(trades.entries))
        held = (trades.exits - trades.entries)[order]
        room = len(trades.closes) - 1 - int(held.sum())
        # Every placement is as likely: trades and free bars in one row, and which of them are trades is drawn
        marks = np.sort(random.choice(room + len(held), len(held), replace=False, shuffle=False))
        gaps = np.diff(marks - np.arange(len(held)), prepend=0)
        starts = np.empty(len(held), np.int64)
        starts[order] = (gaps + held).cumsum() - held
        return starts, starts + trades.exits - trades.entries

    return _test(symbols, lambda random: [place(trades, random) for trades in symbols], draws, seed)


def shifted_signals(symbols: Sequence[HeldTrades], *, draws: int = DRAWS, seed: int = 0) -> ChanceTest | None:
    """Against the same signals at other times: all trades of all symbols move by one random span, around the end to the beginning.

    So the rhythm of the trades and what they have in common stay as they were. None without trades.
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


def _test(symbols: Sequence[HeldTrades], place: _Placing, draws: int, seed: int) -> ChanceTest | None:
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
    """Log growth of equity. A trade that runs over the end goes on at the beginning."""
    total = 0.0
    for trades, (starts, ends) in zip(symbols, times, strict=True):
        closes, last = trades.closes, len(trades.closes) - 1
        beyond = ends > last
        move = closes[np.where(beyond, last, ends)] / closes[starts]
        move = np.where(beyond, move * closes[np.where(beyond, ends - last, 0)] / closes[0], move)
        total += float(
            np.log1p(
                np.maximum(trades.weights * (move - 1) - np.abs(trades.weights) * trades.costs, -1 + 1e-12)
            ).sum()
        )
    return total
