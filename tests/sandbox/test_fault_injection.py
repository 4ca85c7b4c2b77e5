"""Fault injection: each fault has its documented effect, as often as configured."""

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
from agent.sandbox.faults import Fault, FaultInjector, damage_payload, fault_from, parse_fault

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
def test_parse_fault(text: str, fault: Fault) -> None:
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
def test_invalid_fault_gives_a_hint(text: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_fault(text)
    assert hint in caught.value.hint


@given(st.integers(0, 5), st.integers(0, 20), st.integers(0, 10), st.floats(0, 1))
def test_same_seed_draws_the_same_hits_up_to_the_count(seed: int, count: int, after: int, p: float) -> None:
    fault = Fault("drop", p=p, count=count, after=after)
    runs = [
        [bool(faults.draw("x", "drop")) for _ in range(60)]
        for faults in (FaultInjector(seed, [fault]), FaultInjector(seed, [fault]))
    ]
    assert runs[0] == runs[1]
    assert sum(runs[0]) <= count
    assert not any(runs[0][:after])


@given(st.binary(min_size=8, max_size=60))
def test_damaged_payload_is_never_valid(payload: bytes) -> None:
    text = json.dumps({"data": payload.hex()}).encode()
    for kind in ("corrupt", "truncate"):
        spoiled = damage_payload(text, [Fault(kind)])
        assert spoiled != text
        with pytest.raises(ValueError):
            json.loads(spoiled)


# -- REST --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [403, 429, 500, 503])
async def test_http_status_fault(play: Any, code: int) -> None:
    async with play(faults=(Fault("status", on="rest/v5/market/time", code=code, count=1),)) as client:
        url = client.sandbox.rest_url + TIME
        async with client.session.get(url) as response:
            assert response.status == code
        async with client.session.get(url) as response:
            assert response.status == 200


@pytest.mark.parametrize("code", [10006, 10002, 10016, 10000])
async def test_retcode_fault_does_not_carry_out_the_request(play: Any, code: int) -> None:
    async with play(faults=(Fault("retcode", on="rest/v5/order/create", code=code, count=1),)) as client:
        assert (await client.try_order(orderLinkId="a"))["retCode"] == code
        assert (await client.get("/v5/order/realtime", category="linear", orderLinkId="a"))["result"][
            "list"
        ] == []
        assert (await client.try_order(orderLinkId="a"))["retCode"] == 0


async def test_lost_fault_carries_out_the_request(play: Any) -> None:
    async with play(faults=(Fault("lost", on="rest/v5/order/create", count=1),)) as client:
        response = await client.try_order(orderLinkId="mine")
        assert (response["retCode"], response["result"]) == (10000, {})
        found = (
            await client.get("/v5/order/realtime", category="linear", symbol="BTCUSDT", orderLinkId="mine")
        )["result"]["list"]
        assert len(found) == 1
        assert (await client.try_order(orderLinkId="mine"))["retCode"] == 110072


@pytest.mark.parametrize("kind", ["close", "timeout"])
async def test_request_without_response_is_not_carried_out(play: Any, kind: str) -> None:
    async with play(faults=(Fault(kind, on="rest*", ms=20, count=1),)) as client:
        with pytest.raises(aiohttp.ClientError):
            await client.try_order(orderLinkId="gone")
        assert (await client.get("/v5/order/realtime", category="linear", orderLinkId="gone"))["result"][
            "list"
        ] == []


@pytest.mark.parametrize("kind", ["corrupt", "truncate"])
async def test_damaged_response(play: Any, kind: str) -> None:
    async with play(faults=(Fault(kind, on="rest*", count=1),)) as client:
        async with client.session.get(client.sandbox.rest_url + TIME) as response:
            body = await response.text()
        with pytest.raises(ValueError):
            json.loads(body)
        assert (await client.get(TIME, signed=False))["retCode"] == 0


@pytest.mark.parametrize(("ms", "code"), [(8_000, 10002), (-8_000, 10002), (0, 0)])
async def test_skewed_clock_rejects_correct_timestamps(play: Any, ms: int, code: int) -> None:
    async with play(speed=1.0, faults=(Fault("skew", ms=ms),)) as client:
        stated = (await client.get(TIME, signed=False))["time"]
        assert abs(stated - client.sandbox.clock.now() - ms) < 1_000
        assert (await client.get("/v5/user/query-api"))["retCode"] == code


# -- WebSocket ---------------------------------------------------------------------------------------------


async def sequence_numbers(socket: Any, count: int) -> list[int]:
    return [(await socket.item("publicTrade.BTCUSDT"))["seq"] for _ in range(count)]


@pytest.mark.parametrize(("kind", "steps"), [("drop", [2]), ("duplicate", [0]), ("reorder", [2, -1])])
async def test_messages_are_dropped_duplicated_and_reordered(play: Any, kind: str, steps: list[int]) -> None:
    fault = Fault(kind, on="ws/public/publicTrade*", after=3, count=1)
    async with (
        play(faults=(fault,)) as client,
        client.socket("/v5/public/linear", "publicTrade.BTCUSDT") as socket,
    ):
        seen = await sequence_numbers(socket, 9)
        odd = [b - a for a, b in itertools.pairwise(seen) if b - a != 1]
        assert odd == (steps if kind != "reorder" else [2, -1, 2])


@pytest.mark.parametrize("kind", ["corrupt", "truncate"])
async def test_damaged_message(play: Any, kind: str) -> None:
    fault = Fault(kind, on="ws/public/publicTrade*", count=1)
    async with (
        play(faults=(fault,)) as client,
        client.socket("/v5/public/linear", "publicTrade.BTCUSDT") as socket,
    ):
        with pytest.raises(ValueError):
            json.loads(await socket.text())
        assert json.loads(await socket.text())["topic"] == "publicTrade.BTCUSDT"


async def test_delayed_message_delays_later_messages(play: Any) -> None:
    fault = Fault("delay", on="ws/public/publicTrade*", ms=300, after=2, count=1)
    async with (
        play(faults=(fault,)) as client,
        client.socket("/v5/public/linear", "publicTrade.BTCUSDT") as socket,
    ):
        loop = asyncio.get_running_loop()
        times, seen = [], []
        for _ in range(12):
            seen += await sequence_numbers(socket, 1)
            times.append(loop.time())
        assert seen == list(range(seen[0], seen[0] + 12))
        assert max(b - a for a, b in itertools.pairwise(times)) > 0.2


async def test_client_can_reconnect_after_close_fault(play: Any) -> None:
    async with play(faults=(Fault("close", on="ws/public/publicTrade*", after=2, count=1),)) as client:
        async with client.socket("/v5/public/linear", "publicTrade.BTCUSDT") as socket:
            while await socket.text():
                pass
            assert socket.raw.closed or socket.raw.close_code is not None
        async with client.socket("/v5/public/linear", "publicTrade.BTCUSDT") as socket:
            assert await sequence_numbers(socket, 3)


async def test_handshake_is_rejected(play: Any) -> None:
    async with play(faults=(Fault("status", on="ws/public/connect", code=403, count=1),)) as client:
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await client.session.ws_connect(client.sandbox.ws_url + "/v5/public/linear")
        assert caught.value.status == 403
        async with client.socket("/v5/public/linear", "publicTrade.BTCUSDT") as socket:
            assert await sequence_numbers(socket, 1)


async def test_stall_suppresses_messages_and_pongs_until_it_ends(play: Any) -> None:
    async with play() as client, client.socket("/v5/public/linear", "publicTrade.BTCUSDT") as socket:
        before = (await sequence_numbers(socket, 2))[-1]
        await add(client, {"kind": "stall", "on": "ws/public/*", "ms": 300, "count": 1})
        await socket.send(op="ping")
        after = (await sequence_numbers(socket, 1))[0]
        while after == before + 1:  # already on its way when the stall began
            before, after = after, (await sequence_numbers(socket, 1))[0]
        assert after > before + 2


@pytest.mark.parametrize("rest", [False, True])
async def test_gap_removes_a_bar_from_the_stream_and_optionally_from_history(play: Any, rest: bool) -> None:
    fault = Fault("gap", on="market/BTCUSDT", after=2, count=1, rest=rest)
    async with (
        play(faults=(fault,), history_bars=30) as client,
        client.socket("/v5/public/linear", "kline.1.BTCUSDT") as socket,
    ):
        starts: list[int] = []
        while len(starts) < 7:
            starts.append((await socket.item("kline.1.BTCUSDT", lambda item: item["confirm"]))["start"])
        steps = [(b - a) // 60_000 for a, b in itertools.pairwise(starts)]
        assert sorted(steps) == [1, 1, 1, 1, 1, 2]
        lost = starts[steps.index(2)] + 60_000
        rows = (
            await client.get(
                "/v5/market/kline", signed=False, category="linear", symbol="BTCUSDT", interval="1", limit=30
            )
        )["result"]
        assert (str(lost) in [row[0] for row in rows["list"]]) is not rest


# -- at runtime --------------------------------------------------------------------------------------------


async def add(client: Any, *faults: dict[str, Any]) -> dict[str, Any]:
    async with client.session.post(
        f"{client.sandbox.rest_url}/_sandbox/faults", json=list(faults)
    ) as response:
        return {"status": response.status} | await response.json()


async def test_faults_are_added_counted_and_cleared_over_http(play: Any) -> None:
    async with play() as client:
        url = f"{client.sandbox.rest_url}/_sandbox"
        assert (await add(client, {"kind": "status", "on": "rest*", "code": 500, "count": 2}))[
            "status"
        ] == 200
        for expected in (500, 500, 200):
            async with client.session.get(client.sandbox.rest_url + TIME) as response:
                assert response.status == expected
        async with client.session.get(f"{url}/state") as response:
            state = await response.json()
        assert [(fault["kind"], fault["hits"], fault["seen"]) for fault in state["faults"]] == [
            ("status", 2, 3)
        ]
        async with client.session.delete(f"{url}/faults") as response:
            assert await response.json() == {"faults": []}
        bad = await add(client, {"kind": "dorp"})
        assert bad["status"] == 400
        assert "did you mean drop" in bad["error"]


def test_fault_fields_may_be_numbers_or_strings() -> None:
    assert fault_from({"kind": "drop", "p": "0.5"}) == fault_from({"kind": "drop", "p": 0.5})
