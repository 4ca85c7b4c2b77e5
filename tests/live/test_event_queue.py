"""The queue before the core: backlog, dropped events and their counts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.events import (
    MINUTE_MS,
    Command,
    Event,
    Fill,
    Gap,
    Kline,
    News,
    OrderStatus,
    OrderUpdate,
    Sentiment,
    Side,
)
from agent.live.event_queue import OPEN_BAR, EventQueue


def bar(number: int, symbol: str = "BTCUSDT", *, confirm: bool = True, close: float = 1.0) -> Kline:
    start = number * MINUTE_MS
    return Kline(
        symbol, MINUTE_MS, start, start + MINUTE_MS, start + MINUTE_MS, 1, 2, 0.5, close, 3, confirm=confirm
    )


def news(number: int) -> News:
    return News(str(number), number, number, f"headline {number}")


LASTING = [
    bar(1),
    Gap("BTCUSDT", MINUTE_MS, 0, MINUTE_MS, MINUTE_MS),
    Command("pause", 1, 1),
    Sentiment("1", 1, 1, 0.2, 0.3, 0.5),
    OrderUpdate("a", "BTCUSDT", 1, 1, OrderStatus.FILLED),
    Fill("f", "a", "BTCUSDT", 1, 1, Side.BUY, Decimal(1), Decimal(1), Decimal(0)),
]


async def fill(queue: EventQueue, *events: Event) -> None:
    for event in events:
        await asyncio.wait_for(queue.put(event), 1)


def drain(queue: EventQueue) -> list[Event]:
    events = []
    while (event := queue.get_nowait()) is not None:
        events.append(event)
    return events


async def test_events_leave_in_order_of_arrival() -> None:
    queue = EventQueue()
    events = [*LASTING, news(1), bar(2, confirm=False), news(2)]
    await fill(queue, *events)
    assert [await queue.get() for _ in events] == events


async def test_put_wakes_a_waiting_consumer() -> None:
    queue = EventQueue()
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    await queue.put(news(1))
    assert await asyncio.wait_for(waiting, 1) == news(1)


async def test_the_newest_state_of_an_open_bar_replaces_older_ones() -> None:
    queue = EventQueue()
    newest = bar(1, confirm=False, close=1.7)
    other = bar(1, "ETHUSDT", confirm=False)
    await fill(
        queue, bar(1, confirm=False, close=1.5), news(1), other, bar(1, confirm=False, close=1.6), newest
    )
    assert drain(queue) == [newest, news(1), other]
    stats = queue.stats().kinds[OPEN_BAR]
    assert (stats.put, stats.taken, stats.coalesced, stats.waiting) == (4, 2, 2, 0)


async def test_a_close_removes_open_states_of_its_bar_and_precedes_those_of_the_next() -> None:
    queue = EventQueue()
    following = bar(2, confirm=False)
    await fill(queue, bar(1, confirm=False), news(1), bar(1), following)
    assert drain(queue) == [news(1), bar(1), following]


async def test_excess_headlines_drop_the_oldest_and_are_counted() -> None:
    queue = EventQueue(news_capacity=3)
    await fill(queue, news(1), bar(1), *(news(number) for number in range(2, 8)))
    assert drain(queue) == [bar(1), news(5), news(6), news(7)]
    stats = queue.stats().kinds["News"]
    assert (stats.put, stats.dropped, stats.taken) == (7, 4, 3)


@pytest.mark.parametrize("event", LASTING, ids=lambda event: type(event).__name__)
async def test_a_full_queue_blocks_producers_of_lossless_events(event: Event) -> None:
    queue = EventQueue(capacity=2)
    await fill(queue, Command("pause", 1, 1), Command("resume", 2, 2))
    waiting = asyncio.create_task(queue.put(event))
    await asyncio.sleep(0)
    assert not waiting.done()
    await fill(queue, news(1), bar(1, "SOLUSDT", confirm=False))  # headlines and open bars don't block
    assert await queue.get() == Command("pause", 1, 1)
    await asyncio.wait_for(waiting, 1)
    assert event in drain(queue)
    assert queue.stats().blocked == 1


async def test_a_cancelled_put_adds_nothing() -> None:
    queue = EventQueue(capacity=1)
    await queue.put(Command("pause", 1, 1))
    waiting = asyncio.create_task(queue.put(bar(1)))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert drain(queue) == [Command("pause", 1, 1)]


async def test_stats_report_depth_and_waiting_times() -> None:
    now = 0.0
    queue = EventQueue(timer=lambda: now)
    for number in range(100):
        now = number / 1000
        await queue.put(bar(number))
    assert (len(queue), queue.stats().depth, queue.stats().high_water) == (100, 100, 100)
    now = 0.1
    drain(queue)
    stats = queue.stats()
    assert (stats.depth, stats.high_water) == (0, 100)
    kline = stats.kinds["Kline"]
    assert (kline.wait_p50, kline.wait_p99, kline.wait_max) == pytest.approx((50, 99, 100))


EVENTS = st.lists(
    st.one_of(
        st.builds(news, st.integers(0, 99)),
        st.builds(
            bar, st.integers(0, 3), st.sampled_from(["A", "B"]), confirm=st.booleans(), close=st.floats(1, 2)
        ),
        st.just(Command("pause", 1, 1)),
        st.none(),  # take one
    )
)


@given(EVENTS)
def test_every_lost_event_is_counted(steps: Sequence[Event | None]) -> None:
    async def play() -> None:
        queue = EventQueue(capacity=10_000, news_capacity=3)
        taken: list[Event] = []
        for step in steps:
            if step is not None:
                await queue.put(step)
            elif (event := queue.get_nowait()) is not None:
                taken.append(event)
            stats = queue.stats()
            assert stats.depth == sum(kind.waiting for kind in stats.kinds.values()) == len(queue)
            assert stats.kinds[OPEN_BAR].waiting <= 2 if OPEN_BAR in stats.kinds else True
        taken += drain(queue)

        def lasting(event: Event | None) -> bool:
            return isinstance(event, Command) or (isinstance(event, Kline) and event.confirm)

        assert [event for event in taken if lasting(event)] == [step for step in steps if lasting(step)]
        for symbol in ("A", "B"):
            states = [step for step in steps if isinstance(step, Kline) and step.symbol == symbol]
            told = [event for event in taken if isinstance(event, Kline) and event.symbol == symbol]
            assert told[-1:] == states[-1:], "the newest state of a series always gets through"

    asyncio.run(play())


async def test_an_open_bar_is_appended_at_once_and_what_may_not_be_lost_waits_for_room() -> None:
    queue = EventQueue(capacity=1)
    assert queue.emit(bar(1, confirm=False)) is None
    assert queue.emit(bar(1, confirm=False, close=2.0)) is None
    waiting = queue.emit(LASTING[2])
    assert waiting is not None
    await waiting
    full = queue.emit(LASTING[3])
    assert full is not None
    appended = asyncio.ensure_future(full)
    await asyncio.sleep(0)
    assert (len(queue), appended.done()) == (2, False)
    assert [event for event, _ in await queue.take(10)] == [bar(1, confirm=False, close=2.0), LASTING[2]]
    await appended
    assert await queue.get() == LASTING[3]
