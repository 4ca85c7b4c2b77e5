"""Merging stream and history of one series: each bar once and in order, gaps for bars missing in both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from agent.core.events import MINUTE_MS, Gap, Kline
from agent.live.market_data.kline_series import KlineSeries

T0 = 1_790_409_600_000


def at(number: int) -> int:
    return T0 + number * MINUTE_MS


def closed(number: int) -> Kline:
    return Kline("BTCUSDT", MINUTE_MS, at(number), at(number + 1), at(number + 1), 1, 2, 0.5, 1.5, 10, 15)


def still_open(number: int, ms: int = 1_000) -> Kline:
    return Kline(
        "BTCUSDT",
        MINUTE_MS,
        at(number),
        at(number) + ms,
        at(number) + ms,
        1,
        2,
        0.5,
        1.5,
        10,
        15,
        confirm=False,
    )


def shown(events: Sequence[Kline | Gap]) -> list[str]:
    """Closed bars as `3`, open ones as `3?`, gaps as `3-5` (end exclusive)."""
    words = []
    for event in events:
        number = (event.start - T0) // MINUTE_MS
        if isinstance(event, Gap):
            words.append(f"{number}-{(event.end - T0) // MINUTE_MS}")
        else:
            words.append(f"{number}" if event.confirm else f"{number}?")
    return words


def live_series(last: int) -> KlineSeries:
    series = KlineSeries("BTCUSDT", MINUTE_MS, at(last))
    assert list(series.add_history([], at(last))) == []
    assert series.live
    return series


def offer_all(series: KlineSeries, *bars: Kline) -> list[str]:
    return shown([event for bar in bars for event in series.add(bar)])


def test_a_new_series_waits_for_its_history_and_continues_with_buffered_bars() -> None:
    series = KlineSeries("BTCUSDT", MINUTE_MS)
    assert offer_all(series, still_open(3), closed(3), still_open(4)) == []
    assert shown(list(series.add_history([closed(1), closed(2), closed(3)], at(3)))) == ["1", "2", "3", "4?"]
    assert series.live


def test_the_next_bar_is_released_at_once() -> None:
    assert offer_all(live_series(4), still_open(5), closed(5), still_open(6)) == ["5?", "5", "6?"]


def test_a_repeated_close_is_counted_and_dropped() -> None:
    series = live_series(4)
    assert offer_all(series, closed(5), closed(5), closed(4)) == ["5"]
    assert series.duplicates == 2


def test_swapped_closes_are_reordered_without_the_history() -> None:
    series = live_series(4)
    assert offer_all(series, closed(6), closed(5)) == ["5", "6"]
    assert series.live


def test_a_state_of_the_next_bar_waits_for_a_late_close() -> None:
    assert offer_all(live_series(4), still_open(5), still_open(6), closed(5)) == ["5?", "5", "6?"]


def test_an_older_state_of_an_open_bar_is_dropped() -> None:
    series = live_series(4)
    assert offer_all(series, still_open(5, 9_000), still_open(5, 8_000), closed(5), still_open(5)) == [
        "5?",
        "5",
    ]
    assert series.stale == 2


def test_open_bars_are_released_during_a_history_request_if_no_close_can_be_missing() -> None:
    series = live_series(4)
    series.suspend()
    assert offer_all(series, still_open(5)) == ["5?"]


def test_a_lost_close_holds_back_later_bars_until_the_history_has_it() -> None:
    series = live_series(4)
    assert offer_all(series, closed(6)) == []
    assert not series.live
    assert shown(list(series.add_history([closed(4), closed(5), closed(6)], at(6)))) == ["5", "6"]


def test_a_bar_missing_in_the_history_is_a_gap() -> None:
    series = live_series(4)
    offer_all(series, closed(7))
    assert shown(list(series.add_history([], at(6)))) == ["5-7", "7"]


def test_a_history_that_ends_too_early_proves_no_gap() -> None:
    series = live_series(4)
    offer_all(series, closed(7))
    assert shown(list(series.add_history([closed(5)], at(5)))) == ["5"]
    assert not series.live
    assert shown(list(series.add_history([closed(5), closed(6)], at(6)))) == ["6", "7"]


def test_continuing_without_history_turns_missing_bars_into_a_gap() -> None:
    series = live_series(4)
    offer_all(series, closed(7))
    assert shown(list(series.continue_without_history())) == ["5-7", "7"]
    assert series.live


def test_a_cancelled_consumer_loses_nothing_and_gets_nothing_twice() -> None:
    series = KlineSeries("BTCUSDT", MINUTE_MS)
    release = series.add_history([closed(1), closed(3), closed(4)], at(4))
    # the second was yielded, but its consumer was cancelled before it processed it
    taken = [next(release), next(release)]
    release.close()
    assert shown(taken) == ["1", "2-3"]
    assert shown(list(series.continue_without_history())) == ["2-3", "3", "4"]


def test_a_close_is_overdue_a_whole_interval_after_the_last() -> None:
    series = live_series(4)
    assert not series.is_overdue(at(6) - 1)
    assert series.is_overdue(at(6))


@dataclass
class LossySource:
    """Bars 1 to `now` are closed; the stream loses and reorders bars, the history lacks some."""

    lost: frozenset[int]
    absent: frozenset[int]
    now: int = 0
    given: list[Kline | Gap] = field(default_factory=list)
    series: KlineSeries = field(default_factory=lambda: KlineSeries("BTCUSDT", MINUTE_MS, at(0)))

    def deliver(self, number: int) -> None:
        self.now = max(self.now, number)
        if number not in self.lost:
            self.given += self.series.add(still_open(number))
            self.given += self.series.add(closed(number))
        self.given += self.series.add(still_open(self.now + 1))

    def fetch_history(self) -> None:
        bars = [closed(number) for number in range(1, self.now + 1) if number not in self.absent]
        self.given += self.series.add_history(bars, at(self.now))


COUNT = 30
NUMBERS = st.frozensets(st.integers(1, COUNT), max_size=12)


@given(
    lost=NUMBERS,
    absent=NUMBERS,
    jumps=st.lists(st.integers(0, 3), min_size=COUNT, max_size=COUNT),
    repeats=NUMBERS,
    breaks=NUMBERS,
    asks=NUMBERS,
)
def test_each_bar_is_released_once_and_in_order_for_any_interleaving(
    lost: frozenset[int],
    absent: frozenset[int],
    jumps: list[int],
    repeats: frozenset[int],
    breaks: frozenset[int],
    asks: frozenset[int],
) -> None:
    """Bars arrive up to three places late; `lost` ones never arrive, the history lacks `absent` ones."""
    source = LossySource(lost, absent)
    for number in sorted(range(1, COUNT + 1), key=lambda n: (n + jumps[n - 1], n)):
        source.deliver(number)
        if number in repeats:
            source.deliver(number)
        if number in breaks:
            source.series.suspend()
        if number in asks:
            source.fetch_history()
    source.fetch_history()
    bars = [
        (event.start - T0) // MINUTE_MS
        for event in source.given
        if isinstance(event, Kline) and event.confirm
    ]
    gaps = {
        number
        for event in source.given
        if isinstance(event, Gap)
        for number in range((event.start - T0) // MINUTE_MS, (event.end - T0) // MINUTE_MS)
    }
    assert bars == sorted(set(bars)), "once, and in order"
    assert gaps.isdisjoint(bars), "a gap is what did not come"
    assert gaps.union(bars) == set(range(1, max([*bars, 0]) + 1)), (
        "up to the last bar, nothing is left unsaid"
    )
    assert not gaps - absent, "nothing that the history has is a gap"
    assert max([*bars, 0]) == max({*range(COUNT + 1)} - (lost & absent)), (
        "the newest bar that anybody has went on"
    )
    closes = [event.start for event in source.given if isinstance(event, Kline)]
    assert closes == sorted(closes), "no state of an older bar after a newer one"
