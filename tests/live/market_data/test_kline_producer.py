"""The kline producer against a venue on loopback with all known faults."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import pytest
from aiohttp import web

from agent.config.live import BybitConfig
from agent.core.errors import ConfigError
from agent.core.events import HOUR_MS, MINUTE_MS, Command, Event, Gap, Kline
from agent.live.market_data.bybit_stream import BybitStream, HandshakeRejected, KlineHealth, StreamLost
from agent.live.market_data.kline_producer import KlineProducer
from agent.system.backoff import BackoffConfig
from tests.support.producers import (
    Client,
    EventCollector,
    ManualClock,
    Venue,
    push,
    start_of,
    stream_row,
    until,
)

QUICK = BackoffConfig(first=1, ceiling=4, stable_after=60_000)


def config_for(url: str, **other: Any) -> BybitConfig:
    return BybitConfig.model_validate(
        {
            "endpoint": url,
            "settle": 0,
            "max_ahead": "1h",  # the clock does not advance while bars are pushed
            "warmup_bars": 3,
            "reconnect": QUICK,
            "retry": QUICK,
            "ban_wait": 30,
            "throttle_wait": 20,
        }
        | other
    )


class Rig(NamedTuple):
    """A producer that has emitted bars 1 to 4 and reads the stream; bar 5 is open."""

    venue: Venue
    client: Client
    producer: KlineProducer
    collector: EventCollector
    clock: ManualClock
    task: asyncio.Task[None]

    def close_bar(self, number: int, *, in_history: bool = True) -> None:
        """Advance the clocks past the close of a bar."""
        self.venue.time = self.clock.time = start_of(number + 1) + 100
        if in_history:
            self.venue.history["BTCUSDT"].add(number)


Run = Callable[[Any], asyncio.Task[None]]
Start = Callable[..., Awaitable[Rig]]


@pytest.fixture
def start(venue: Venue, collector: EventCollector, clock: ManualClock, background: Run) -> Start:
    async def begin(**other: Any) -> Rig:
        venue.history["BTCUSDT"] = {0, 1, 2, 3, 4}
        venue.time = clock.time = start_of(5) + 5_000
        producer = KlineProducer(
            config_for(venue.url, **other),
            "linear",
            ["BTCUSDT"],
            [MINUTE_MS],
            clock,
            last={("BTCUSDT", MINUTE_MS): start_of(0)},
        )
        task = background(producer.run(collector))
        client = await venue.client(1)
        await collector.expect("1", "2", "3", "4")
        return Rig(venue, client, producer, collector, clock, task)

    return begin


# -- order, restart and warm-up ------------------------------------------------------------------------------


async def test_the_history_comes_first_then_the_stream(start: Start) -> None:
    rig = await start()
    rig.clock.time = start_of(5) + 700
    await rig.client.push(push(5, confirm=False))
    await until(lambda: len(rig.collector.marks) == 1)
    rig.close_bar(5)
    await rig.client.push(push(5))
    await rig.collector.expect("1", "2", "3", "4", "5")
    mark, bar = rig.collector.events[-2:]
    assert mark == Kline(
        "BTCUSDT",
        MINUTE_MS,
        start_of(5),
        start_of(5) + 500,
        start_of(5) + 700,
        100,
        102,
        99.5,
        101.5,
        7.316,
        740.2,
        False,
    )
    assert bar == Kline(
        "BTCUSDT", MINUTE_MS, start_of(5), start_of(6), start_of(6) + 100, 100, 102, 99.5, 101.5, 7.316, 740.2
    )
    assert rig.producer.health.state == "live"
    assert rig.producer.health.backfilled == 4


async def test_a_first_start_fetches_the_bars_to_warm_up_with(
    venue: Venue, collector: EventCollector, clock: ManualClock, background: Run
) -> None:
    venue.history["BTCUSDT"] = {0, 1, 2, 3, 4}
    venue.time = clock.time = start_of(5) + 100
    background(KlineProducer(config_for(venue.url), "linear", ["BTCUSDT"], [MINUTE_MS], clock).run(collector))
    await collector.expect("2", "3", "4")


async def test_long_downtime_is_fetched_page_by_page(
    venue: Venue, collector: EventCollector, clock: ManualClock, background: Run
) -> None:
    venue.history["BTCUSDT"] = set(range(2_500))
    venue.time = clock.time = start_of(2_500) + 1
    known = {("BTCUSDT", MINUTE_MS): start_of(0)}
    background(
        KlineProducer(config_for(venue.url), "linear", ["BTCUSDT"], [MINUTE_MS], clock, last=known).run(
            collector
        )
    )
    await collector.expect(*map(str, range(1, 2_500)))
    assert len(venue.queries) == 3


async def test_downtime_longer_than_max_backfill_begins_with_a_gap(
    venue: Venue, collector: EventCollector, clock: ManualClock, background: Run
) -> None:
    venue.history["BTCUSDT"] = set(range(50))
    venue.time = clock.time = start_of(50) + 1
    config = config_for(venue.url, max_backfill=5)
    known = {("BTCUSDT", MINUTE_MS): start_of(0)}
    background(KlineProducer(config, "linear", ["BTCUSDT"], [MINUTE_MS], clock, last=known).run(collector))
    await collector.expect("1-45", "45", "46", "47", "48", "49")


async def test_a_restart_continues_after_the_last_bar(start: Start, background: Run) -> None:
    rig = await start()
    rig.task.cancel()
    await asyncio.wait([rig.task])
    rig.close_bar(5)
    background(rig.producer.run(rig.collector))
    await rig.collector.expect("1", "2", "3", "4", "5")


async def test_a_cancellation_takes_effect_while_the_connection_ends(
    venue: Venue, clock: ManualClock, background: Run
) -> None:
    async def ignore(_: object) -> None: ...

    async def end_both() -> None:
        run.cancel()
        raise StreamLost("at the same moment")

    url = f"{venue.url.replace('http', 'ws')}/v5/public/linear"
    stream = BybitStream(
        url, ["kline.1.BTCUSDT"], BybitConfig(), clock, KlineHealth("test"), ignore, lambda _: None
    )
    run = asyncio.create_task(stream.run(end_both))
    await asyncio.wait([run])
    assert run.cancelled()


async def test_a_clock_skew_does_not_change_the_bars(start: Start) -> None:
    rig = await start()
    rig.close_bar(5)
    rig.clock.time -= 5_000
    await rig.client.push(push(5))
    await rig.collector.expect("1", "2", "3", "4", "5")
    assert rig.collector.events[-1].available_at == start_of(6), (
        "a bar isn't known before its close, whatever the clock says"
    )
    assert rig.producer.health.lag == -4_900


# -- bars of the future, and prices outside the band ---------------------------------------------------------


async def test_a_future_bar_is_refused_and_later_bars_are_accepted(start: Start) -> None:
    rig = await start(max_ahead="5s")
    await rig.client.push(push(45), push(45, ts=start_of(5) + 6_000))
    await until(lambda: rig.producer.health.corrupt == 2)
    for number in (5, 6, 7):
        rig.close_bar(number)
        await rig.client.push(push(number))
    await rig.collector.expect("1", "2", "3", "4", "5", "6", "7")
    health = rig.producer.health
    assert (health.gaps, health.duplicates, health.stale) == (0, 0, 0)
    assert health.ahead >= 2


async def test_a_future_timestamp_of_a_state_is_replaced_by_the_current_time(start: Start) -> None:
    rig = await start(max_ahead="5s")
    await rig.client.push(push(5, confirm=False, ts=start_of(45)))
    await until(lambda: len(rig.collector.marks) == 1)
    assert rig.collector.marks[0].ts <= rig.clock.time + 5_000
    assert rig.producer.health.ahead == 1


def tick(price: str, at: int) -> dict[str, Any]:
    """A state of bar 5 with this last price, `at` ms after its open."""
    prices = {"high": str(max(102.0, float(price))), "low": str(min(99.5, float(price)))}
    return push(5, confirm=False, ts=start_of(5) + at, close=price, **prices)


async def test_a_spike_is_withheld_counted_and_reported_as_an_alarm(start: Start) -> None:
    rig = await start()
    await rig.client.push(
        tick("101", 500),
        tick("50", 600),
        tick("101.2", 700),
        tick("1e308", 800),
        tick("1e-9", 5_000),
        tick("102", 5_100),
    )
    await until(lambda: len(rig.collector.marks) == 3)
    assert [mark.close for mark in rig.collector.marks] == [101, 101.2, 102]
    assert rig.producer.health.withheld >= 2
    alarms = [event for event in rig.collector.events if isinstance(event, Command)]
    assert [(alarm.action, alarm.args["rule"], alarm.args["symbol"]) for alarm in alarms] == [
        ("alarm", "price band", "BTCUSDT")
    ]


async def test_a_crash_is_accepted_once_it_has_lasted(start: Start) -> None:
    rig = await start()
    await rig.client.push(
        tick("101", 500), tick("50", 600), tick("49", 1_600), tick("48", 3_600), tick("47", 3_700)
    )
    await until(lambda: len(rig.collector.marks) == 3)
    assert [mark.close for mark in rig.collector.marks] == [101, 48, 47]


async def test_the_history_corrects_a_wick_that_only_the_stream_has(start: Start) -> None:
    rig = await start()
    rig.close_bar(5)
    await rig.client.push(push(5, low="50"))
    await rig.collector.expect("1", "2", "3", "4", "5")
    assert (
        next(
            event for event in rig.collector.events if isinstance(event, Kline) and event.start == start_of(5)
        ).low
        == 99.5
    )


async def test_bars_after_a_withheld_one_wait_until_the_history_has_it(start: Start) -> None:
    rig = await start()
    rig.close_bar(5, in_history=False)
    rig.venue.time = start_of(5) + 30_000  # by the history's clock bar 5 is open
    await rig.client.push(push(5, high="500"), push(6, confirm=False))
    await until(lambda: len(rig.venue.queries) >= 4)
    assert rig.collector.bars == ["1", "2", "3", "4"]
    rig.close_bar(5)
    await rig.collector.expect("1", "2", "3", "4", "5")


# -- faults of the stream ------------------------------------------------------------------------------------


async def nothing(rig: Rig) -> None: ...


async def closed(rig: Rig) -> None:
    await rig.client.close()
    await rig.venue.client(2)


async def aborted(rig: Rig) -> None:
    rig.client.abort()
    await rig.venue.client(2)


async def closed_at_once_again_and_again(rig: Rig) -> None:
    rig.venue.close_at_once = 5
    await rig.client.close()
    await rig.venue.client(2)


def refused(*statuses: int) -> Callable[[Rig], Awaitable[None]]:
    async def fault(rig: Rig) -> None:
        rig.venue.handshakes = list(statuses)
        await rig.client.close()
        await rig.venue.client(2)

    fault.__name__ = f"refused with {', '.join(map(str, statuses))}"
    return fault


def said(*messages: dict[str, Any] | str | bytes) -> Callable[[Rig], Awaitable[None]]:
    async def fault(rig: Rig) -> None:
        await rig.client.push(*messages)

    return fault


async def stalled(rig: Rig) -> None:
    rig.venue.unresponsive = True
    await until(lambda: rig.producer.health.reconnects == 1)
    rig.venue.unresponsive = False
    await rig.venue.client(2)


async def missed_the_close(rig: Rig) -> None:
    rig.close_bar(5)
    await rig.client.push(push(6, confirm=False))
    await rig.collector.expect("1", "2", "3", "4", "5")


async def missed_all_while_away(rig: Rig) -> None:
    rig.venue.handshakes = [503]
    await rig.client.close()
    rig.close_bar(5)
    await rig.venue.client(2)
    await rig.collector.expect("1", "2", "3", "4", "5")


WHOLE = json.dumps(push(5))
NO_GAP = ("1", "2", "3", "4", "5", "6")

FAULTS = [
    # fault, expected counters, options
    (nothing, {}, {}),
    (closed, {"reconnects": 1, "connects": 2, "errors": 1}, {}),
    (aborted, {"reconnects": 1, "connects": 2, "errors": 1}, {}),
    (closed_at_once_again_and_again, {"reconnects": 6, "connects": 7, "errors": 6}, {}),
    (refused(403), {"reconnects": 2, "connects": 2, "errors": 2}, {}),
    (refused(429), {"reconnects": 2, "connects": 2, "errors": 2}, {}),
    (refused(500, 502, 503, 404), {"reconnects": 5, "connects": 2, "errors": 5}, {}),
    (stalled, {"reconnects": 1, "connects": 2}, {"ping_interval": 20, "pong_timeout": 200}),
    (missed_all_while_away, {"reconnects": 2, "backfilled": 5}, {}),
    (missed_the_close, {"gaps": 0, "backfilled": 5}, {"audit_interval": 5}),
    (said("{not json"), {"corrupt": 1}, {}),
    (said(WHOLE[:-20]), {"corrupt": 1}, {}),
    (said(WHOLE.encode()[:40]), {"corrupt": 1}, {}),
    (said(b"\xff\xfe\x00"), {"corrupt": 1}, {}),
    (said("[]"), {"corrupt": 1}, {}),
    (said('{"topic": 5}'), {"corrupt": 1}, {}),
    (said(WHOLE.replace('"101.5"', '"1o1.5"')), {"corrupt": 1}, {}),
    (said(WHOLE.replace('"data": [', '"data": [[], ')), {"corrupt": 1}, {}),
    (said(push(5, close="nan")), {"corrupt": 1}, {}),
    (said(push(5, high="inf")), {"corrupt": 1}, {}),
    (said(push(5, high="98")), {"corrupt": 1}, {}),
    (said(push(5, volume="-1")), {"corrupt": 1}, {}),
    (said(push(5, start=start_of(5) + 1)), {"corrupt": 1}, {}),
    (said(push(60 * 24, ts=start_of(6))), {"corrupt": 1}, {}),
    (said(push(60 * 24)), {"corrupt": 1}, {}),
    (said(push(5, symbol="NEVERASKED")), {"unknown": 1}, {}),
    (
        said({"topic": "tickers.BTCUSDT", "type": "delta", "ts": start_of(5), "data": {"lastPrice": "3"}}),
        {"unknown": 1},
        {},
    ),
    (said({"op": "auth", "success": False, "ret_msg": "who are you"}), {"unknown": 1}, {}),
    (said({"hello": "world"}), {"unknown": 1}, {}),
    (said(push(5), push(5)), {"duplicates": 2}, {}),
    (said(push(4), push(3)), {"duplicates": 2}, {}),
    (said(push(5, confirm=False), push(5, confirm=False, ts=start_of(5) + 100)), {"stale": 1}, {}),
    (said(push(6), push(5)), {"duplicates": 2, "gaps": 0}, {}),
]


@pytest.mark.parametrize(
    ("fault", "counted", "options"), FAULTS, ids=lambda value: getattr(value, "__name__", "")
)
async def test_no_stream_fault_loses_or_duplicates_a_bar(
    start: Start, fault: Callable[[Rig], Awaitable[None]], counted: dict[str, int], options: dict[str, Any]
) -> None:
    rig = await start(**options)
    await fault(rig)
    for number in (5, 6):
        rig.close_bar(number)
        await rig.venue.clients[-1].push(push(number))
    await rig.collector.expect(*NO_GAP)
    # once this is read, all earlier messages have been read
    await rig.venue.clients[-1].push(push(7, confirm=False))
    await until(lambda: bool(rig.collector.marks) and rig.collector.marks[-1].start == start_of(7))
    health = rig.producer.health
    assert {name: getattr(health, name) for name in counted} == counted


async def test_a_silent_connection_is_replaced(start: Start) -> None:
    rig = await start(silence_timeout=40)
    await until(lambda: rig.producer.health.reconnects > 0)
    assert "no kline" in rig.producer.health.last_error


async def test_a_venue_that_ignores_the_subscription_is_disconnected(
    venue: Venue, collector: EventCollector, clock: ManualClock, background: Run
) -> None:
    venue.unresponsive = True
    producer = KlineProducer(config_for(venue.url, ack_timeout=20), "linear", ["BTCUSDT"], [MINUTE_MS], clock)
    background(producer.run(collector))
    await until(lambda: producer.health.reconnects >= 2)
    assert "no answer to a subscription" in producer.health.last_error


async def test_a_refused_connection_is_retried(
    collector: EventCollector, clock: ManualClock, background: Run
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    producer = KlineProducer(
        config_for(f"http://127.0.0.1:{port}"), "linear", ["BTCUSDT"], [MINUTE_MS], clock
    )
    background(producer.run(collector))
    await until(lambda: producer.health.reconnects >= 3)
    assert producer.health.connects == 0
    assert f"no connection to ws://127.0.0.1:{port}/v5/public/linear" in producer.health.last_error


@pytest.mark.parametrize(
    ("status", "headers", "wait"),
    [
        (403, {}, 600),
        (429, {}, 60),
        (429, {"Retry-After": "300"}, 300),
        (429, {"Retry-After": "5"}, 60),
        (429, {"Retry-After": "99999999"}, 600),
        (429, {"Retry-After": "inf"}, 60),
        (503, {"Retry-After": "300"}, 0),
    ],
)
async def test_a_rejected_handshake_sets_the_waiting_time(
    venue: Venue, clock: ManualClock, status: int, headers: dict[str, str], wait: float
) -> None:
    async def ignore(_: object) -> None: ...

    venue.handshakes, venue.handshake_headers = [status], headers
    url = f"{venue.url.replace('http', 'ws')}/v5/public/linear"
    stream = BybitStream(
        url, ["kline.1.BTCUSDT"], BybitConfig(), clock, KlineHealth("test"), ignore, lambda _: None
    )
    with pytest.raises(HandshakeRejected, match=f"HTTP {status}") as raised:
        await stream.run()
    assert raised.value.wait == wait


async def test_a_ban_blocks_all_connections(
    venue: Venue, collector: EventCollector, clock: ManualClock, background: Run
) -> None:
    venue.handshakes = [403]
    config = config_for(venue.url, ban_wait=HOUR_MS, args_characters=20)
    venue.history["ETHUSDT"] = set()
    producer = KlineProducer(config, "linear", ["BTCUSDT", "ETHUSDT"], [MINUTE_MS], clock)
    background(producer.run(collector))
    await until(lambda: producer.health.errors >= 1)
    attempts = venue.attempts
    for _ in range(50):
        await asyncio.sleep(0.001)
    assert attempts == venue.attempts <= 2, "the second connection may have been on its way already"


async def test_connection_attempts_stay_within_the_budget(
    venue: Venue, collector: EventCollector, clock: ManualClock, background: Run
) -> None:
    venue.close_at_once = 1_000
    background(
        KlineProducer(config_for(venue.url, max_connects=7), "linear", ["BTCUSDT"], [MINUTE_MS], clock).run(
            collector
        )
    )
    await until(lambda: venue.attempts == 7)
    for _ in range(50):
        await asyncio.sleep(0.001)
    assert venue.attempts == 7


# -- subscriptions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answers_without_number", [False, True])
async def test_a_rejected_topic_is_isolated_and_the_others_are_subscribed(
    venue: Venue, collector: EventCollector, clock: ManualClock, background: Run, answers_without_number: bool
) -> None:
    venue.omits_request_id = answers_without_number
    symbols = ["AUSDT", "BUSDT", "CUSDT", "DUSDT", "NOSUCH", "EUSDT", "FUSDT"]
    venue.history = {symbol: {4} for symbol in symbols}
    venue.time = clock.time = start_of(5)
    venue.unknown = {"kline.1.NOSUCH"}
    producer = KlineProducer(config_for(venue.url, warmup_bars=1), "linear", symbols, [MINUTE_MS], clock)
    background(producer.run(collector))
    await until(lambda: producer.health.state == "live")
    assert producer.health.rejected == {"kline.1.NOSUCH"}
    assert sorted(venue.clients[0].topics) == sorted(
        f"kline.1.{symbol}" for symbol in symbols if symbol != "NOSUCH"
    )
    assert {event.symbol for event in collector.events if isinstance(event, Kline)} == {*symbols} - {"NOSUCH"}

    await venue.clients[0].close()
    again = await venue.client(2)
    await until(lambda: len(again.requests) == 2)
    assert again.requests[1] == ["kline.1.NOSUCH"], "next time it goes alone"


async def test_spot_subscriptions_have_at_most_ten_topics_per_request(
    venue: Venue, collector: EventCollector, clock: ManualClock, background: Run
) -> None:
    symbols = [f"C{n}USDT" for n in range(25)]
    venue.history = {symbol: set() for symbol in symbols}
    background(KlineProducer(config_for(venue.url), "spot", symbols, [MINUTE_MS], clock).run(collector))
    client = await venue.client(1)
    await until(lambda: len(client.requests) == 3)
    assert [len(topics) for topics in client.requests] == [10, 10, 5]
    await until(lambda: len(venue.queries) == 25)
    assert venue.queries[0]["category"] == "spot"


async def test_topics_over_the_limit_are_spread_over_several_connections(
    venue: Venue, collector: EventCollector, clock: ManualClock, background: Run
) -> None:
    symbols = [f"C{n}USDT" for n in range(10)]
    venue.history = {symbol: set() for symbol in symbols}
    config = config_for(venue.url, args_characters=70)
    background(KlineProducer(config, "linear", symbols, [MINUTE_MS, 5 * MINUTE_MS], clock).run(collector))
    await until(lambda: sum(len(client.topics) for client in venue.clients) == 20)
    assert all(len(json.dumps(client.topics, separators=(",", ":"))) <= 72 for client in venue.clients)
    assert len(venue.clients) == 5


# -- faults of the history -----------------------------------------------------------------------------------


def error(code: int, message: str) -> dict[str, Any]:
    return {"retCode": code, "retMsg": message, "result": {}, "retExtInfo": {}, "time": start_of(5)}


HISTORY_FAULTS = [
    web.Response(status=500),
    web.Response(status=503, text="<html>busy</html>", content_type="text/html"),
    web.Response(status=403, text="access too frequent"),
    web.Response(status=429),
    web.Response(text="<html>hello</html>", content_type="text/html"),
    web.Response(text='{"retCode":0,"result":{"li', content_type="application/json"),
    error(10006, "Too many visits!"),
    error(10016, "Server error"),
    error(10000, "Server Timeout"),
    {"retCode": 0, "retMsg": "OK", "result": {"list": [["x"] * 7]}, "time": start_of(5)},
    {"retCode": 0, "retMsg": "OK", "result": {}, "time": start_of(5)},
]


@pytest.mark.parametrize("fault", range(len(HISTORY_FAULTS)))
async def test_a_failed_history_request_is_retried(start: Start, venue: Venue, fault: int) -> None:
    answer = HISTORY_FAULTS[fault]
    venue.answers = [
        answer
        if isinstance(answer, dict)
        else web.Response(status=answer.status, body=answer.body, headers=answer.headers)
    ]
    rig = await start()
    assert rig.producer.health.errors == 1
    assert len(venue.queries) == 2


async def test_a_symbol_refused_by_the_history_is_not_requested_again(
    venue: Venue, collector: EventCollector, clock: ManualClock, background: Run
) -> None:
    venue.answers = [error(10001, "Not supported symbols")]
    clock.time = start_of(5)
    producer = KlineProducer(config_for(venue.url), "linear", ["BTCUSDT"], [MINUTE_MS], clock)
    background(producer.run(collector))
    client = await venue.client(1)
    await until(lambda: producer.health.state == "live")
    await client.push(push(5))
    await collector.expect("5")
    assert len(venue.queries) == 1


async def test_invalid_rows_of_the_history_are_dropped(
    venue: Venue, collector: EventCollector, clock: ManualClock, background: Run
) -> None:
    rows = [
        [str(start_of(n)), "100", "102", "99.5", "101.5", "7", "700", "a column of tomorrow"]
        for n in (4, 3, 2, 1)
    ]
    rows[2][2] = "1"  # bar 2: a high below its low
    answer = {"symbol": "BTCUSDT", "category": "linear", "list": rows}
    venue.answers = [{"retCode": 0, "retMsg": "OK", "result": answer, "time": start_of(5)}]
    clock.time = start_of(5)
    producer = KlineProducer(config_for(venue.url), "linear", ["BTCUSDT"], [MINUTE_MS], clock)
    background(producer.run(collector))
    await collector.expect("1", "2-3", "3", "4")
    assert producer.health.corrupt == 1


async def test_bars_that_neither_source_has_are_a_gap(start: Start) -> None:
    rig = await start()
    rig.close_bar(6)
    await rig.client.push(push(6))
    await rig.collector.expect("1", "2", "3", "4", "5-6", "6")
    assert (rig.producer.health.gaps, rig.producer.health.missing) == (1, 1)
    gap = next(event for event in rig.collector.events if isinstance(event, Gap))
    assert gap == Gap("BTCUSDT", MINUTE_MS, start_of(5), start_of(6), start_of(7) + 100, start_of(6))


async def test_without_a_history_the_stream_continues_after_the_timeout(start: Start) -> None:
    rig = await start(backfill_timeout=300)
    rig.venue.answers = [web.Response(status=500) for _ in range(200)]
    rig.close_bar(6)
    await rig.client.push(push(6))
    await rig.collector.expect("1", "2", "3", "4", "5-6", "6")


async def test_the_open_bar_of_the_history_is_never_a_close(start: Start) -> None:
    rig = await start()
    assert str(5) not in rig.collector.bars
    assert any(int(query["end"]) >= start_of(5) for query in rig.venue.queries), "it was in the answer"


async def test_a_bar_that_closed_a_moment_ago_is_left_to_the_stream(start: Start) -> None:
    rig = await start(settle=2_000)
    rig.close_bar(5)
    await rig.client.close()
    client = await rig.venue.client(2)
    await until(lambda: rig.producer.health.state == "live")
    assert rig.collector.bars == ["1", "2", "3", "4"]
    await client.push(push(5))
    await rig.collector.expect("1", "2", "3", "4", "5")


# -- consumer ------------------------------------------------------------------------------------------------


async def test_a_slow_consumer_causes_no_reconnection(
    venue: Venue, collector: EventCollector, clock: ManualClock, background: Run
) -> None:
    venue.history["BTCUSDT"] = {3, 4}
    venue.time = clock.time = start_of(5) + 100
    may_go = asyncio.Event()

    async def reluctant(event: Event) -> None:
        if isinstance(event, Kline) and event.start == start_of(5):
            await may_go.wait()
        collector(event)

    config = config_for(venue.url, warmup_bars=2, ping_interval=50, pong_timeout=30, silence_timeout=200)
    producer = KlineProducer(config, "linear", ["BTCUSDT"], [MINUTE_MS], clock)
    background(producer.run(reluctant))
    client = await venue.client(1)
    await collector.expect("3", "4")
    await client.push(push(5, confirm=False))
    pinged = venue.pings
    await until(lambda: venue.pings > pinged + 5)  # more than five times the pong timeout
    assert producer.health.reconnects == 0
    may_go.set()
    await until(lambda: len(collector.marks) == 1)


async def test_an_exception_of_the_consumer_ends_the_run(venue: Venue, clock: ManualClock) -> None:
    venue.history["BTCUSDT"] = {4}
    venue.time = clock.time = start_of(5)

    def broken(event: Event) -> None:
        raise RuntimeError("the journal is full")

    producer = KlineProducer(config_for(venue.url, warmup_bars=1), "linear", ["BTCUSDT"], [MINUTE_MS], clock)
    with pytest.raises(BaseExceptionGroup, match="TaskGroup") as raised:
        await asyncio.wait_for(producer.run(broken), 10)
    assert raised.group_contains(RuntimeError, match="the journal is full")


def test_an_interval_unknown_to_the_venue_is_refused(clock: ManualClock) -> None:
    with pytest.raises(ConfigError, match=r"no klines of 7m.*one of 1m, 3m, 5m"):
        KlineProducer(BybitConfig(), "linear", ["BTCUSDT"], [7 * MINUTE_MS], clock)


@pytest.mark.parametrize(
    "endpoint", ["https://api.bybit.com", "http://192.168.0.4:80", "sandbox", "ftp://127.0.0.1/"]
)
def test_the_endpoint_is_a_known_venue_or_loopback(endpoint: str) -> None:
    with pytest.raises(ValueError, match="neither mainnet, testnet nor"):
        BybitConfig(endpoint=endpoint)


def test_a_simulated_stream_row_has_the_venues_fields(shared_data: Any) -> None:
    captured = json.loads((shared_data / "bybit/messages/live_capture/ws_kline_1_linear.json").read_text())
    assert captured["data"][0].keys() == stream_row(0).keys()
