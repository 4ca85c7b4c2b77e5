"""A price outside the band is accepted once it lasts or the history confirms it.

An isolated spike never is.
"""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.events import MINUTE_MS, Kline
from agent.live.market_data.price_band import PriceBand

T0 = 1_790_409_600_000
WIDTH, AFTER = 0.1, 3_000


def state(price: float, seconds: float) -> Kline:
    """An open bar with this last price."""
    ts = T0 + round(seconds * 1000)
    return Kline("BTCUSDT", MINUTE_MS, T0, ts, ts, price, price, price, price, 1.0, confirm=False)


def bar(low: float, high: float, close: float) -> Kline:
    return Kline("BTCUSDT", MINUTE_MS, T0, T0 + MINUTE_MS, T0 + MINUTE_MS, close, high, low, close, 1.0)


def band(last: float | None = 100.0, width: float = WIDTH) -> PriceBand:
    return PriceBand(width, AFTER, last)


STATES = [
    # prices with their seconds, which of them are accepted
    ([(100, 1), (109, 2), (92, 3)], [True, True, False]),
    ([(109, 1), (119, 2), (130, 3)], [True, True, True]),  # a trend, each step within the band of the last
    ([(50, 1), (100, 2), (50, 3), (101, 9)], [False, True, False, True]),  # two isolated spikes
    # a crash, once it has lasted three seconds
    ([(50, 1), (50, 2), (51, 3.9), (50, 4)], [False, False, False, True]),
    # a price that continues to fall
    ([(50, 1), (48, 2), (45, 3), (42, 4), (41, 5)], [False, False, False, True, True]),
    ([(50, 1), (50, 1), (50, 1)], [False, False, False]),  # a repeated message confirms nothing
    ([(50, 1), (200, 3), (50, 5), (200, 7)], [False, False, False, False]),  # no level lasts
    ([(1e308, 1), (1e308, 9), (1e-9, 20), (1e-9, 40), (100, 41)], [False, False, False, False, True]),
]


@pytest.mark.parametrize(("prices", "accepted"), STATES)
def test_states_inside_the_band_or_confirmed_by_time_are_accepted(
    prices: list[tuple[float, float]], accepted: list[bool]
) -> None:
    one = band()
    assert [one.accepts_price(state(price, at)) for price, at in prices] == accepted


BARS = [
    # accepted prices of the open bar, then low, high and close of its close; whether it is accepted
    ([101, 102], (100, 102, 102), True),
    ([101, 102], (91, 111, 101), True),
    ([101, 102], (50, 102, 101), False),  # a wick
    ([101, 102], (100, 150, 101), False),
    ([108, 117, 126], (100, 126, 125), True),  # a rise in steps within the band
    ([], (100, 112, 111), False),
]


@pytest.mark.parametrize(("seen", "prices", "fits"), BARS)
def test_a_closed_bar_must_fit_the_accepted_prices(
    seen: list[float], prices: tuple[float, float, float], fits: bool
) -> None:
    one = band()
    assert all(one.accepts_price(state(price, number)) for number, price in enumerate(seen))
    assert one.accepts_bar(bar(*prices)) is fits


def test_the_history_confirms_a_bar_that_the_stream_alone_does_not() -> None:
    one = band()
    crash = bar(48, 100, 50)
    assert not one.accepts_bar(crash)
    assert one.confirm_bars([crash]) == [crash]
    assert one.accepts_price(state(51, 61))


def test_an_absurd_price_is_refused_even_from_the_history() -> None:
    one = band()
    assert one.confirm_bars([bar(99, 1e6, 100), bar(1e-9, 100, 100), bar(99, 101, 100)]) == [
        bar(99, 101, 100)
    ]


def test_without_a_last_price_the_first_one_must_be_confirmed() -> None:
    one = band(last=None)
    assert [
        one.accepts_price(state(price, at)) for price, at in ((70, 1), (7, 2), (7, 4), (7.1, 5), (70, 6))
    ] == [
        False,
        False,
        False,
        True,
        False,
    ]
    assert band(last=None).accepts_bar(bar(99, 101, 100))
    assert not band(last=None).accepts_bar(bar(50, 101, 100))


def test_a_width_of_zero_disables_the_band() -> None:
    one = band(width=0.0)
    assert one.accepts_price(state(1e9, 1))
    assert one.accepts_bar(bar(1, 1e9, 2))


FAR = st.floats(1e-300, 60.0) | st.floats(200.0, 1e308) | st.just(inf)


@given(
    st.lists(
        st.tuples(st.floats(98.0, 102.0), FAR, st.booleans(), st.floats(0.1, 60.0)), min_size=1, max_size=40
    )
)
def test_no_isolated_spike_is_accepted(steps: list[tuple[float, float, bool, float]]) -> None:
    one, at = band(), 0.0
    for price, spike, spikes, waits in steps:
        at += waits
        if spikes:
            assert not one.accepts_price(state(spike, at))
            at += waits
        assert one.accepts_price(state(price, at))


@given(
    st.floats(2.0, 80.0) | st.floats(125.0, 9_000.0),
    st.lists(st.floats(0.99, 1.01), min_size=4, max_size=20),
    st.floats(1.0, 10.0),
)
def test_a_lasting_move_is_accepted_within_the_delay(level: float, noise: list[float], every: float) -> None:
    one = band()
    accepted = [
        one.accepts_price(state(level * wobble, every * number)) for number, wobble in enumerate(noise)
    ]
    within = next(number for number in range(1, 5) if round(every * number * 1000) >= AFTER)
    assert not any(accepted[:within])
    assert all(accepted[within:])
