"""The equity curve: streamed figures equal those of the whole series, for any division into blocks."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.analysis.equity import EquityCurve, without_flows
from agent.analysis.thinning import ThinnedCurve
from agent.core.events import DAY_MS, MINUTE_MS

START = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp() * 1000)


def curve_of(
    *equity: float, initial: float = 100.0, interval: int = DAY_MS, exposed: bool = True
) -> EquityCurve:
    curve = EquityCurve(initial, interval)
    for period, value in enumerate(equity, start=1):
        curve.add(START + period * interval, value, exposed)
    return curve


def day(number: int) -> int:
    return START + number * DAY_MS


def random_walk(length: int, seed: int) -> np.ndarray:
    return 100 * np.cumprod(1 + np.random.default_rng(seed).normal(0, 0.01, length))


@pytest.mark.parametrize(
    ("equity", "depth", "peak", "trough", "recovery", "longest"),
    [
        ((101, 102, 103), 0.0, 0, 0, None, 0),
        ((100, 100, 100), 0.0, 0, 0, None, 0),
        ((90, 95), -0.1, 0, 1, None, 2),  # falls from the initial capital
        ((110, 99, 110), -0.1, 1, 2, 3, 2),
        ((110, 99, 109), -0.1, 1, 2, None, 2),
        ((110, 99, 120, 60, 90, 120, 130), -0.5, 3, 4, 6, 3),
        ((110, 55, 110, 109, 109, 109, 109, 111), -0.5, 1, 2, 3, 5),  # the longest is not the deepest
        ((110, 110, 99, 111), -0.1, 2, 3, 4, 2),  # an equal peak counts as the later one
        ((50, 0, -10), -1.1, 0, 3, None, 3),
    ],
)
def test_drawdown(equity, depth, peak, trough, recovery, longest) -> None:
    summary = curve_of(*equity).summary()
    assert summary.drawdown.depth == pytest.approx(depth)
    assert (summary.drawdown.peak, summary.drawdown.trough) == (day(peak), day(trough))
    assert summary.drawdown.recovery == (None if recovery is None else day(recovery))
    assert summary.longest_drawdown == longest * DAY_MS


@given(
    seed=st.integers(0, 1_000),
    length=st.integers(1, 400),
    cuts=st.lists(st.integers(1, 399), max_size=6),
)
@settings(max_examples=60, deadline=None)
def test_figures_do_not_depend_on_the_division_into_blocks(seed: int, length: int, cuts: list[int]) -> None:
    equity = random_walk(length, seed)
    ts = START + np.arange(1, length + 1) * MINUTE_MS * 60
    whole = EquityCurve(100.0, MINUTE_MS * 60)
    whole.extend(ts, equity)
    blocks = EquityCurve(100.0, MINUTE_MS * 60)
    for part_ts, part in zip(np.split(ts, sorted(cuts)), np.split(equity, sorted(cuts)), strict=True):
        blocks.extend(part_ts, part)
    a, b = whole.summary(), blocks.summary()
    assert (a.drawdown, a.longest_drawdown, a.months, a.final, a.periods) == (
        b.drawdown,
        b.longest_drawdown,
        b.months,
        b.final,
        b.periods,
    )
    assert [a.mean, a.deviation, a.downside, a.average] == pytest.approx(
        [b.mean, b.deviation, b.downside, b.average], rel=1e-9, abs=1e-15
    )
    assert whole.points() == blocks.points()


def test_moments_equal_those_of_the_whole_series() -> None:
    equity = random_walk(20_000, seed=7)
    summary = curve_of(*equity.tolist(), interval=MINUTE_MS).summary()
    returns = np.diff(equity, prepend=100.0) / np.concatenate(([100.0], equity[:-1]))
    assert summary.periods == 20_000
    assert summary.mean == pytest.approx(returns.mean(), rel=1e-12)
    assert summary.deviation == pytest.approx(returns.std(ddof=1), rel=1e-12)
    assert summary.downside == pytest.approx(np.sqrt(np.mean(np.minimum(returns, 0) ** 2)), rel=1e-12)


def test_moments_are_stable_far_from_zero() -> None:
    """A sum of squares would lose a deviation of 10⁻⁹ of the mean."""
    growth = 1.01 + 1e-11 * np.tile([1.0, -1.0], 2_500)
    curve = EquityCurve(1.0, MINUTE_MS)
    with np.errstate(over="raise"):
        equity = np.cumprod(growth)
    curve.extend(START + np.arange(1, 5_001) * MINUTE_MS, equity)
    assert curve.summary().deviation == pytest.approx(1e-11, rel=1e-3)


def test_the_last_sample_of_a_period_counts() -> None:
    """If two symbols close a bar at the same time, the equity after the second one counts."""
    twice = EquityCurve(100.0, MINUTE_MS)
    for period in range(1, 10_000):
        twice.add(START + period * MINUTE_MS, -1.0, False)
        twice.add(START + period * MINUTE_MS, 100.0 + period % 7, True)
    once = curve_of(*(100.0 + period % 7 for period in range(1, 10_000)), interval=MINUTE_MS)
    assert twice.summary() == once.summary()


def test_exposure_counts_periods_with_a_position() -> None:
    curve = EquityCurve(100.0, MINUTE_MS)
    for period in range(1, 6_001):
        curve.add(START + period * MINUTE_MS, 100.0, period % 3 == 0)
    assert curve.summary().exposed == 2_000


def test_months_compound_to_the_total_and_end_at_midnight() -> None:
    summary = curve_of(*[100.0 + number for number in range(1, 61)]).summary()
    assert list(summary.months) == ["2024-01", "2024-02"]
    assert summary.months["2024-01"] == pytest.approx(0.31)  # day 31 closes at 00:00 of 1 February
    assert np.prod([1 + value for value in summary.months.values()]) == pytest.approx(1.60)


def test_bankruptcy_is_recorded_and_later_returns_are_zero() -> None:
    summary = curve_of(50.0, 0.0, -20.0, 30.0).summary()
    assert summary.bankrupt == day(2)
    assert summary.mean == pytest.approx((-0.5 - 1.0) / 4)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_equity_that_is_not_finite_is_rejected(wrong: float) -> None:
    with pytest.raises(ValueError, match="not a finite number"):
        curve_of(100.0, wrong).summary()


def test_samples_out_of_order_are_rejected() -> None:
    curve = curve_of(100.0, 101.0)
    curve.add(START, 99.0, True)
    with pytest.raises(ValueError, match="time order"):
        curve.summary()


def test_an_empty_curve_has_a_summary() -> None:
    curve = EquityCurve(100.0, MINUTE_MS)
    assert curve.points() == ([], [])
    assert (curve.summary().final, curve.summary().periods, curve.summary().months) == (100.0, 0, {})


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300), st.integers(1, 50))
@settings(max_examples=80, deadline=None)
def test_a_thinned_curve_keeps_the_extremes_and_the_last_sample(values: list[float], block: int) -> None:
    thinned = ThinnedCurve(limit=40)
    array, ts = np.array(values), np.arange(len(values), dtype=np.int64)
    for begin in range(0, len(values), block):
        thinned.extend(ts[begin : begin + block], array[begin : begin + block])
    times, kept = thinned.points()
    assert len(kept) <= 41
    assert times == sorted(set(times))
    assert [values[time] for time in times] == kept
    assert (max(kept), min(kept), kept[-1]) == (max(values), min(values), values[-1])
    assert len(kept) == len(values) or len(values) > 10


def test_deposits_and_withdrawals_are_excluded_from_returns() -> None:
    """10,000 and 250 at the start; +1 %; +2 % and a deposit of 1,000; −5 % and a withdrawal of 500."""
    ts = np.array([100, 200, 300])
    first = 10_250 * 1.01
    second = first * 1.02 + 1_000
    third = second * 0.95 - 500
    flows = [(50, 250.0), (200, 1_000.0), (250, -500.0)]
    initial, equity = without_flows(ts, np.array([first, second, third]), flows, 10_000.0)
    assert equity[-1] == third  # the equity of the account
    assert equity / initial == pytest.approx([1.01, 1.01 * 1.02, 1.01 * 1.02 * 0.95])


def test_without_flows_nothing_changes() -> None:
    initial, equity = without_flows(np.array([1, 2]), np.array([99.0, 101.0]), [], 100.0)
    assert (initial, equity.tolist()) == (100.0, [99.0, 101.0])


@given(
    st.lists(st.one_of(st.floats(1, 100), st.just(50.0)), max_size=200),
    st.integers(4, 40),
    st.integers(0, 200),
)
def test_single_samples_thin_a_curve_as_blocks_do_and_a_copy_goes_its_own_way(
    values: list[float], limit: int, cut: int
) -> None:
    by_block, by_sample = ThinnedCurve(limit), ThinnedCurve(limit)
    by_block.extend(np.arange(len(values)) * MINUTE_MS, np.array(values, float))
    for number, value in enumerate(values[:cut]):
        by_sample.add(number * MINUTE_MS, value)
    twin, before = by_sample.copy(), by_sample.points()
    for number, value in enumerate(values[cut:], cut):
        twin.add(number * MINUTE_MS, value)
    assert twin.points() == by_block.points()
    assert by_sample.points() == before
