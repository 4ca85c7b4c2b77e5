"""What goes wrong on purpose: each fault does what it says, as often as it says."""

from __future__ import annotations

import asyncio
import itertools
import json
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.errors import UsageError
from agent.sandbox.faults import Fault, Faults, fault_from, parse_fault, spoil

TIME = "/v5/market/time"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("drop", Fault("drop")),
        ("delay,ms=250,on=ws/public/kline*,p=0.5", Fault("delay", on="ws/public/kline*", p=0.5, ms=250)),
        ("status,code=429,count=3,after=2", Fault("status", code=429, count=3, after=2)),
        ("gap,rest=true", Fault("gap", rest=True)),
        ("skew,ms=-3000", Fault("skew", ms=-3000)),
    ],
)
def test_faults_are_read_from_texts(text: str, fault: Fault) -> None:
    assert parse_fault(text) == fault


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("dorp", "did you mean drop"),
        ("drop,q=1", "fields are"),
        ("drop,p=often", "fields are"),
        ("drop,p=2", ""),
        ("", "kinds are"),
    ],
)
def test_a_fault_that_cannot_be_is_refused_with_what_would_be_right(text: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_fault(text)
    assert hint in caught.value.hint


@given(st.integers(0, 5), st.integers(0, 20), st.integers(0, 10), st.floats(0, 1))
def test_the_same_seed_strikes_the_same_and_never_more_than_counted(
    seed: int, count: int, after: int, p: float
) -> None:
    fault = Fault("drop", p=p, count=count, after=after)
    runs = [
        [bool(faults.strike("x", "drop")) for _ in range(60)]
        for faults in (Faults(seed, [fault]), Faults(seed, [fault]))
    ]
    assert runs[0] == runs[1]
    assert sum(runs[0]) <= count
    assert not any(runs[0][:after])


@given(st.binary(min_size=8, max_size=60))
def test_what_is_spoiled_is_never_what_it_was(payload: bytes) -> None:
    text = json.dumps({"data": payload.hex()}).encode()
    for kind in ("corrupt", "truncate"):
        spoiled = spoil(text, [Fault(kind)])
        assert spoiled != text
        with pytest.raises(ValueError):
            json.loads(spoiled)


# -- REST ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [403, 429, 500, 503])
async def test_an_http_status_instead_of_an_answer(play: Any, code: int) -> None:
    async with play(faults=(Fault("status", on="rest/v5/market/time", code=code, count=1),)) as trader:
        url = trader.sandbox.rest_url + TIME
        async with trader.session.get(url) as response:
            assert response.status == code
        async with trader.session.get(url) as response:
            assert response.status == 200


@pytest.mark.parametrize("code", [10006, 10002, 10016, 10000])
async def test_a_return_code_and_nothing_done(play: Any, code: int) -> None:
    async with play(faults=(Fault("retcode", on="rest/v5/order/create", code=code, count=1),)) as trader:
        assert (await trader.order(orderLinkId="a"))["retCode"] == code
        assert (await trader.get("/v5/order/realtime", category="linear", orderLinkId="a"))["result"][
            "list"
        ] == []
        assert (await trader.order(orderLinkId="a"))["retCode"] == 0


async def test_a_lost_answer_leaves_an_order_that_is_there(play: Any) -> None:
    async with play(faults=(Fault("lost", on="rest/v5/order/create", count=1),)) as trader:
        answer = await trader.order(orderLinkId="mine")
        assert (answer["retCode"], answer["result"]) == (10000, {})
        found = (
            await trader.get("/v5/order/realtime", category="linear", symbol="BTCUSDT", orderLinkId="mine")
        )["result"]["list"]
        assert len(found) == 1
        assert (await trader.order(orderLinkId="mine"))["retCode"] == 110072


@pytest.mark.parametrize("kind", ["close", "timeout"])
async def test_a_request_without_an_answer(play: Any, kind: str) -> None:
    async with play(faults=(Fault(kind, on="rest*", ms=20, count=1),)) as trader:
        with pytest.raises(aiohttp.ClientError):
            await trader.order(orderLinkId="gone")
        assert (await trader.get("/v5/order/realtime", category="linear", orderLinkId="gone"))["result"][
            "list"
        ] == []


@pytest.mark.parametrize("kind", ["corrupt", "truncate"])
async def test_a_spoiled_answer(play: Any, kind: str) -> None:
    async with play(faults=(Fault(kind, on="rest*", count=1),)) as trader:
        async with trader.session.get(trader.sandbox.rest_url + TIME) as response:
            body = await response.text()
        with pytest.raises(ValueError):
            json.loads(body)
        assert (await trader.get(TIME, signed=False))["retCode"] == 0


@pytest.mark.parametrize(("ms", "code"), [(8_000, 10002), (-8_000, 10002), (0, 0)])
async def test_a_skewed_clock_refuses_honest_timestamps(play: Any, ms: int, code: int) -> None:
    async with play(speed=1.0, faults=(Fault("skew", ms=ms),)) as trader:
        stated = (await trader.get(TIME, signed=False))["time"]
        assert abs(stated - trader.sandbox.clock.now() - ms) < 1_000
        assert (await trader.get("/v5/user/query-api"))["retCode"] == code


# -- WebSocket -------------------------------------------------------------------------------------------------------


async def numbers(socket: Any, count: int) -> list[int]:
    return [(await socket.item("publicTrade.BTCUSDT"))["seq"] for _ in range(count)]


@pytest.mark.parametrize(
    ("kind", "steps"),
    [("drop", [2]), ("duplicate", [0]), ("reorder", [2, -1])],
)
async def test_messages_are_lost_doubled_and_exchanged(play: Any, kind: str, steps: list[int]) -> None:
    fault = Fault(kind, on="ws/public/publicTrade*", after=3, count=1)
    async with (
        play(faults=(fault,)) as trader,
        trader.socket("/v5/public/linear", "publicTrade.BTCUSDT") as socket,
    ):
        seen = await numbers(socket, 9)
        odd = [b - a for a, b in itertools.pairwise(seen) if b - a != 1]
        assert odd == (steps if kind != "reorder" else [2, -1, 2])


@pytest.mark.parametrize("kind", ["corrupt", "truncate"])
async def test_a_message_arrives_spoiled(play: Any, kind: str) -> None:
    fault = Fault(kind, on="ws/public/publicTrade*", count=1)
    async with (
        play(faults=(fault,)) as trader,
        trader.socket("/v5/public/linear", "publicTrade.BTCUSDT") as socket,
    ):
        with pytest.raises(ValueError):
            json.loads(await socket.text())
        assert json.loads(await socket.text())["topic"] == "publicTrade.BTCUSDT"


async def test_a_delay_holds_back_everything_behind_it(play: Any) -> None:
    fault = Fault("delay", on="ws/public/publicTrade*", ms=300, after=2, count=1)
    async with (
        play(faults=(fault,)) as trader,
        trader.socket("/v5/public/linear", "publicTrade.BTCUSDT") as socket,
    ):
        loop = asyncio.get_running_loop()
        times, seen = [], []
        for _ in range(12):
            seen += await numbers(socket, 1)
            times.append(loop.time())
        assert seen == list(range(seen[0], seen[0] + 12))
        assert max(b - a for a, b in itertools.pairwise(times)) > 0.2


async def test_a_connection_is_cut_and_can_be_made_again(play: Any) -> None:
    async with play(faults=(Fault("close", on="ws/public/publicTrade*", after=2, count=1),)) as trader:
        async with trader.socket("/v5/public/linear", "publicTrade.BTCUSDT") as socket:
            while await socket.text():
                pass
            assert socket.raw.closed or socket.raw.close_code is not None
        async with trader.socket("/v5/public/linear", "publicTrade.BTCUSDT") as socket:
            assert await numbers(socket, 3)


async def test_a_handshake_is_refused(play: Any) -> None:
    async with play(faults=(Fault("status", on="ws/public/connect", code=403, count=1),)) as trader:
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await trader.session.ws_connect(trader.sandbox.ws_url + "/v5/public/linear")
        assert caught.value.status == 403
        async with trader.socket("/v5/public/linear", "publicTrade.BTCUSDT") as socket:
            assert await numbers(socket, 1)


async def test_in_a_stall_nothing_comes_not_even_a_pong_and_then_all_goes_on(play: Any) -> None:
    async with play() as trader, trader.socket("/v5/public/linear", "publicTrade.BTCUSDT") as socket:
        before = (await numbers(socket, 2))[-1]
        await add(trader, {"kind": "stall", "on": "ws/public/*", "ms": 300, "count": 1})
        await socket.send(op="ping")
        after = (await numbers(socket, 1))[0]
        while after == before + 1:  # what was on its way when the stall began
            before, after = after, (await numbers(socket, 1))[0]
        assert after > before + 2


@pytest.mark.parametrize("rest", [False, True])
async def test_a_gap_swallows_a_whole_bar_in_the_stream_and_if_wanted_in_history(
    play: Any, rest: bool
) -> None:
    fault = Fault("gap", on="market/BTCUSDT", after=2, count=1, rest=rest)
    async with (
        play(faults=(fault,), history_bars=30) as trader,
        trader.socket("/v5/public/linear", "kline.1.BTCUSDT") as socket,
    ):
        starts: list[int] = []
        while len(starts) < 7:
            starts.append((await socket.item("kline.1.BTCUSDT", lambda item: item["confirm"]))["start"])
        steps = [(b - a) // 60_000 for a, b in itertools.pairwise(starts)]
        assert sorted(steps) == [1, 1, 1, 1, 1, 2]
        lost = starts[steps.index(2)] + 60_000
        rows = (
            await trader.get(
                "/v5/market/kline", signed=False, category="linear", symbol="BTCUSDT", interval="1", limit=30
            )
        )["result"]
        assert (str(lost) in [row[0] for row in rows["list"]]) is not rest


# -- while it runs ---------------------------------------------------------------------------------------------------


async def add(trader: Any, *faults: dict[str, Any]) -> dict[str, Any]:
    async with trader.session.post(
        f"{trader.sandbox.rest_url}/_sandbox/faults", json=list(faults)
    ) as response:
        return {"status": response.status} | await response.json()


async def test_faults_are_added_counted_and_cleared_over_http(play: Any) -> None:
    async with play() as trader:
        url = f"{trader.sandbox.rest_url}/_sandbox"
        assert (await add(trader, {"kind": "status", "on": "rest*", "code": 500, "count": 2}))[
            "status"
        ] == 200
        for expected in (500, 500, 200):
            async with trader.session.get(trader.sandbox.rest_url + TIME) as response:
                assert response.status == expected
        async with trader.session.get(f"{url}/state") as response:
            state = await response.json()
        assert [(fault["kind"], fault["hits"], fault["seen"]) for fault in state["faults"]] == [
            ("status", 2, 3)
        ]
        async with trader.session.delete(f"{url}/faults") as response:
            assert await response.json() == {"faults": []}
        bad = await add(trader, {"kind": "dorp"})
        assert bad["status"] == 400
        assert "did you mean drop" in bad["error"]


def test_fields_may_be_numbers_or_texts() -> None:
    assert fault_from({"kind": "drop", "p": "0.5"}) == fault_from({"kind": "drop", "p": 0.5})
