"""Stream and history of one series, merged: every bar once, in order, and gaps exactly where nobody has the bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from agent.core.events import MINUTE_MS, Gap, Kline
from agent.live.market_data.kline_series import Series

T0 = 1_790_409_600_000


def at(number: int) -> int:
    return T0 + number * MINUTE_MS


def closed(number: int) -> Kline:
    return Kline("BTCUSDT", MINUTE_MS, at(number), at(number + 1), at(number + 1), 1, 2, 0.5, 1.5, 10, 15)


def still_open(number: int, ms: int = 1_000) -> Kline:
    return Kline(
        "BTCUSDT", MINUTE_MS, at(number), at(number) + ms, at(number) + ms, 1, 2, 0.5, 1.5, 10, 15, confirm=False
    )  # fmt: skip


def told(events: Sequence[Kline | Gap]) -> list[str]:
    """Closed bars as `3`, open ones as `3?`, gaps as `3-5` (end exclusive)."""
    words = []
    for event in events:
        number = (event.start - T0) // MINUTE_MS
        if isinstance(event, Gap):
            words.append(f"{number}-{(event.end - T0) // MINUTE_MS}")
        else:
            words.append(f"{number}" if event.confirm else f"{number}?")
    return words


def live_series(last: int) -> Series:
    series = Series("BTCUSDT", MINUTE_MS, at(last))
    assert list(series.fill([], at(last))) == []
    assert series.live
    return series


def offer_all(series: Series, *bars: Kline) -> list[str]:
    return told([event for bar in bars for event in series.offer(bar)])


def test_a_new_series_waits_for_its_history_and_continues_with_what_the_stream_brought_meanwhile() -> None:
    series = Series("BTCUSDT", MINUTE_MS)
    assert offer_all(series, still_open(3), closed(3), still_open(4)) == []
    assert told(list(series.fill([closed(1), closed(2), closed(3)], at(3)))) == ["1", "2", "3", "4?"]
    assert series.live


def test_the_next_bar_goes_on_at_once() -> None:
    assert offer_all(live_series(4), still_open(5), closed(5), still_open(6)) == ["5?", "5", "6?"]


def test_a_repeated_close_is_counted_and_dropped() -> None:
    series = live_series(4)
    assert offer_all(series, closed(5), closed(5), closed(4)) == ["5"]
    assert series.duplicates == 2


def test_closes_that_come_in_the_wrong_order_are_put_right_without_asking_the_history() -> None:
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


def test_marks_go_on_while_the_history_is_asked_if_nothing_can_be_missing_before_them() -> None:
    series = live_series(4)
    series.suspend()
    assert offer_all(series, still_open(5)) == ["5?"]


def test_a_lost_close_holds_the_series_back_until_the_history_has_it() -> None:
    series = live_series(4)
    assert offer_all(series, closed(6)) == []
    assert not series.live
    assert told(list(series.fill([closed(4), closed(5), closed(6)], at(6)))) == ["5", "6"]


def test_what_the_history_does_not_have_is_a_gap() -> None:
    series = live_series(4)
    offer_all(series, closed(7))
    assert told(list(series.fill([], at(6)))) == ["5-7", "7"]


def test_a_history_too_young_to_prove_a_gap_proves_none() -> None:
    series = live_series(4)
    offer_all(series, closed(7))
    assert told(list(series.fill([closed(5)], at(5)))) == ["5"]
    assert not series.live
    assert told(list(series.fill([closed(5), closed(6)], at(6)))) == ["6", "7"]


def test_giving_up_turns_what_is_missing_into_a_gap() -> None:
    series = live_series(4)
    offer_all(series, closed(7))
    assert told(list(series.give_up())) == ["5-7", "7"]
    assert series.live


def test_a_taker_that_is_cancelled_half_way_loses_nothing_and_gets_nothing_twice() -> None:
    series = Series("BTCUSDT", MINUTE_MS)
    release = series.fill([closed(1), closed(3), closed(4)], at(4))
    # the second was handed over, but its taker was cancelled before it had it
    taken = [next(release), next(release)]
    release.close()
    assert told(taken) == ["1", "2-3"]
    assert told(list(series.give_up())) == ["2-3", "3", "4"]


def test_a_close_is_overdue_a_whole_interval_after_the_last() -> None:
    series = live_series(4)
    assert not series.overdue(at(6) - 1)
    assert series.overdue(at(6))


@dataclass
class World:
    """Bars 1 to `now` are closed. The stream loses and shuffles; the history lacks some; connections break."""

    lost: frozenset[int]
    absent: frozenset[int]
    now: int = 0
    given: list[Kline | Gap] = field(default_factory=list)
    series: Series = field(default_factory=lambda: Series("BTCUSDT", MINUTE_MS, at(0)))

    def deliver(self, number: int) -> None:
        self.now = max(self.now, number)
        if number not in self.lost:
            self.given += self.series.offer(still_open(number))
            self.given += self.series.offer(closed(number))
        self.given += self.series.offer(still_open(self.now + 1))

    def ask_history(self) -> None:
        bars = [closed(number) for number in range(1, self.now + 1) if number not in self.absent]
        self.given += self.series.fill(bars, at(self.now))


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
def test_whatever_the_interleaving_each_bar_comes_once_and_in_order(
    lost: frozenset[int],
    absent: frozenset[int],
    jumps: list[int],
    repeats: frozenset[int],
    breaks: frozenset[int],
    asks: frozenset[int],
) -> None:
    """Bars may come up to three places too late; `lost` ones never, `absent` ones are not in the history."""
    world = World(lost, absent)
    for number in sorted(range(1, COUNT + 1), key=lambda n: (n + jumps[n - 1], n)):
        world.deliver(number)
        if number in repeats:
            world.deliver(number)
        if number in breaks:
            world.series.suspend()
        if number in asks:
            world.ask_history()
    world.ask_history()
    bars = [
        (event.start - T0) // MINUTE_MS for event in world.given if isinstance(event, Kline) and event.confirm
    ]
    gaps = {
        number
        for event in world.given
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
    closes = [event.start for event in world.given if isinstance(event, Kline)]
    assert closes == sorted(closes), "no state of an older bar after a newer one"
