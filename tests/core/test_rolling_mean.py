"""The crossing of two means: what is found ahead of the bars is what pushing them one by one gives."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from agent.core.bar_block import BarBlock, BarSpan
from agent.core.events import MINUTE_MS
from agent.core.rolling_mean import MeanCross

CENTS = st.integers(9_990, 10_010)
"""A few prices on a grid, so that the means cross often and are often equal."""


def span_of(closes: list[float], first: int) -> BarSpan:
    """Return bars of one symbol, the first of which opens `first` minutes after 0."""
    start = (np.arange(len(closes), dtype=np.int64) + first) * MINUTE_MS
    values = tuple(np.array(closes) for _ in range(5))
    block = BarBlock(("BTCUSDT",), MINUTE_MS, None, start, start + MINUTE_MS, values)
    return BarSpan(block, 0, 0, len(closes), None)


def trends(pushed: list[float], fast: int, slow: int) -> list[int]:
    """Return what `push` says of each close, one after another."""
    means = MeanCross(fast, slow)
    return [means.push(MINUTE_MS * (number + 1), close) for number, close in enumerate(pushed)]


@given(
    st.lists(
        st.tuples(st.lists(CENTS, min_size=1, max_size=30), st.sampled_from(["quiet", "part", "other"]))
    ),
    st.integers(1, 4),
    st.integers(5, 9),
    st.booleans(),
    st.booleans(),
)
def test_looking_ahead_finds_what_pushing_finds(
    parts: list[tuple[list[int], str]], fast: int, slow: int, above: bool, below: bool
) -> None:
    """Added are the quiet bars, a part of them, or other bars than those that were looked at."""
    means, pushed = MeanCross(fast, slow), list[float]()
    for cents, what in parts:
        closes = [c / 100 for c in cents]
        ahead = trends(pushed + closes, fast, slow)[len(pushed) :]
        wanted = [n for n, trend in enumerate(ahead) if (trend > 0 and above) or (trend < 0 and below)]
        quiet = means.count_before(span_of(closes, len(pushed)), above=above, below=below)
        assert quiet == (wanted[0] if wanted else len(closes))
        added = closes[:quiet] if what == "quiet" else closes[: quiet // 2]
        if what == "other":
            added = [close + 0.01 for close in closes[:quiet]]
        if added:
            means.extend(span_of(added, len(pushed)))
            pushed += added
            assert means.next_start == len(pushed) * MINUTE_MS
        assert (
            means.push((len(pushed) + 1) * MINUTE_MS, closes[-1])
            == trends([*pushed, closes[-1]], fast, slow)[-1]
        )
        pushed.append(closes[-1])
