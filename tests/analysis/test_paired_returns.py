"""Two equity curves over their common time: periods, returns, and the paired bootstrap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.analysis.comparison.comparison_text import paired_lines
from agent.analysis.comparison.paired_returns import RecordedCurve, paired_returns
from agent.core.events import DAY_MS, HOUR_MS, MINUTE_MS

DAY_0 = 19_783 * DAY_MS  # 2024-03-01
WINS = [int(digit) for digit in "11110010110001001001"]  # ten days with a gain, ten without a move


def curve(
    returns: Sequence[float], *, start: int = DAY_0, period: int = DAY_MS, interval: int = 0
) -> RecordedCurve:
    """A curve that begins with 10,000 at `start` and has one sample a period."""
    ts = start + np.arange(1, len(returns) + 1, dtype=np.int64) * period
    equity = 10_000.0 * np.cumprod(1 + np.array(returns))
    return RecordedCurve(start, 10_000.0, ts, equity, interval or period, "linear")


def test_the_interval_of_coin_tosses_is_that_of_the_binomial_distribution() -> None:
    """Each day gains 1 % or nothing, without dependence, so the number of gains in a resample of 20 days has
    the distribution B(20, 1/2). P(X <= 5) = 0.0207 < 0.025 < P(X <= 6) = 0.0577 and P(X <= 13) = 0.9423 <
    0.975 < P(X <= 14) = 0.9793: the bounds are 6 and 14 gains.
    """
    found = paired_returns(curve([0.01 * won for won in WINS]), curve([0.0] * 20))
    assert (found.periods, found.period, found.block, found.draws) == (20, DAY_MS, 1.0, 5_000)
    assert found.difference is not None
    lead = found.difference.total_return
    assert lead.value == pytest.approx(1.01**10 - 1, abs=1e-12)
    assert lead.low == pytest.approx(1.01**6 - 1, abs=1e-12)
    assert lead.high == pytest.approx(1.01**14 - 1, abs=1e-12)
    # mean 0.005, deviation 0.01 * sqrt(20 * 0.25 / 19); b has no ratio, which counts as 0
    ratio = 0.005 / (0.01 * (5 / 19) ** 0.5) * 365**0.5
    assert found.difference.sharpe.value == pytest.approx(ratio)
    assert found.correlation is None  # b never moved
    assert found.method.startswith("95 % intervals of 5,000 resamples of 20 paired daily returns")
    assert "blocks of 1.0 period on average" in found.method


def test_moves_that_both_share_cancel_out() -> None:
    """b moves by 5 % a day and a like b, plus 0.1 % of each growth: a leads in every single resample."""
    shared = [0.05 if won else -0.045 for won in WINS]
    ahead = [(1 + move) * 1.001 - 1 for move in shared]
    found = paired_returns(curve(ahead), curve(shared))
    assert found.difference is not None
    total = np.prod([1 + move for move in shared])
    assert found.difference.total_return.value == pytest.approx(total * (1.001**20 - 1))
    assert found.difference.worse == 0.0
    assert found.difference.total_return.low > 0
    assert found.correlation == pytest.approx(1.0)


def test_a_curve_against_itself_has_no_difference() -> None:
    own = curve([0.01 * won for won in WINS])
    found = paired_returns(own, own)
    assert found.difference is not None
    assert (found.difference.total_return.low, found.difference.total_return.high) == (0.0, 0.0)
    assert (found.difference.sharpe.low, found.difference.sharpe.high) == (0.0, 0.0)


@given(
    moves=st.lists(
        st.tuples(st.floats(-0.2, 0.2), st.floats(-0.2, 0.2)).filter(lambda pair: pair[0] != pair[1]),
        min_size=20,
        max_size=40,
    )
)
def test_exchanging_the_runs_changes_the_sign_only(moves: list[tuple[float, float]]) -> None:
    a, b = curve([one for one, _ in moves]), curve([other for _, other in moves])
    forth, back = paired_returns(a, b, draws=200), paired_returns(b, a, draws=200)
    assert (forth.periods, forth.block) == (back.periods, back.block)
    if forth.difference is None or back.difference is None:
        assert forth.difference is back.difference
        return
    one, other = forth.difference.total_return, back.difference.total_return
    assert one.value == pytest.approx(-other.value, abs=1e-9)
    assert one.low == pytest.approx(-other.high, abs=1e-9)
    assert one.high == pytest.approx(-other.low, abs=1e-9)


def test_only_the_common_time_counts() -> None:
    """a: days 1 to 30, b: days 11 to 40. Before the common time a has gained, which doesn't count."""
    a = curve([0.1] * 10 + [0.01 * won for won in WINS])
    b = curve([0.0] * 30, start=DAY_0 + 10 * DAY_MS)
    found = paired_returns(a, b)
    assert (found.start, found.end, found.periods) == (DAY_0 + 10 * DAY_MS, DAY_0 + 30 * DAY_MS, 20)
    assert found.total_return_a == pytest.approx(1.01**10 - 1)
    assert found.total_return_b == 0.0


@pytest.mark.parametrize(
    ("hours", "period", "periods", "absent"),
    [
        (24 * 21, DAY_MS, 21, ""),
        (24 * 19, HOUR_MS, 24 * 19, ""),
        (20, HOUR_MS, 20, ""),
        (19, HOUR_MS, 19, "the runs have 19 hours in common, fewer than 20"),
    ],
)
def test_short_runs_are_compared_by_the_hour(hours: int, period: int, periods: int, absent: str) -> None:
    """The bars are of a minute; samples of a replay are recorded once an hour."""
    moves = [0.001 * WINS[hour % 20] for hour in range(hours)]
    a = curve(moves, period=HOUR_MS, interval=MINUTE_MS)
    b = curve([0.0] * hours, period=HOUR_MS, interval=MINUTE_MS)
    found = paired_returns(a, b)
    assert (found.period, found.periods, found.absent) == (period, periods, absent)
    assert (found.difference is None) == bool(absent)
    assert found.total_return_a == pytest.approx(1.001 ** sum(move > 0 for move in moves) - 1)


def test_samples_of_each_bar_allow_periods_of_a_bar() -> None:
    moves = [0.001 * won for won in WINS]
    a, b = curve(moves, period=5 * MINUTE_MS), curve([0.0] * 20, period=5 * MINUTE_MS)
    found = paired_returns(a, b)
    assert (found.period, found.periods) == (5 * MINUTE_MS, 20)
    assert "paired 5m returns" in found.method


def test_runs_without_common_time_are_not_compared() -> None:
    a, b = curve([0.01] * 20), curve([0.01] * 20, start=DAY_0 + 20 * DAY_MS)
    found = paired_returns(a, b)
    assert (found.periods, found.difference, found.absent) == (0, None, "the runs have no time in common")
    assert paired_lines(found) == ["Not compared: the runs have no time in common."]


def test_nights_and_weekends_of_both_are_left_out() -> None:
    """Two markets with samples on weekdays: 4 weeks have 20 periods, not 28."""
    days = [day for day in range(28) if day % 7 < 5]
    ts = DAY_0 + (np.array(days, np.int64) + 1) * DAY_MS
    equity = 10_000.0 * np.cumprod(1 + 0.01 * np.array(WINS))
    a = RecordedCurve(DAY_0, 10_000.0, ts, equity, DAY_MS, "equity")
    found = paired_returns(a, a._replace(equity=np.full(20, 10_000.0)))
    assert found.periods == 20
    assert found.total_return_a == pytest.approx(1.01**10 - 1)
