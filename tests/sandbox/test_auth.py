"""Who is let in, and how often."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import aiohttp
import pytest

BALANCE = "/v5/account/wallet-balance"
QUERY = urlencode({"accountType": "UNIFIED"})
Sign = Callable[..., dict[str, str]]


@pytest.mark.parametrize(
    ("offset", "window", "code"),
    [
        (0, "5000", 0),
        (-4_000, "5000", 0),
        (-6_000, "5000", 10002),
        (-6_000, "10000", 0),
        (900, "5000", 0),
        (2_000, "5000", 10002),  # ahead of the venue, however wide the window
        (2_000, "60000", 10002),
    ],
)
async def test_a_timestamp_must_fall_into_its_window(
    play: Any, sign_request: Sign, offset: int, window: str, code: int
) -> None:
    async with play(speed=1.0) as trader:
        headers = sign_request(QUERY, at=trader.sandbox.clock.now() + offset, window=window)
        answer = await trader.ask("GET", BALANCE, QUERY, **headers)
        assert answer["retCode"] == code
        if code:
            assert "req_timestamp[" in answer["retMsg"]


async def test_in_an_accelerated_market_both_times_are_right(play: Any, sign_request: Sign) -> None:
    async with play(speed=6_000.0) as trader:
        while trader.sandbox.clock.now() < int(sign_request(QUERY)["X-BAPI-TIMESTAMP"]) + 60_000:
            await asyncio.sleep(0)
        assert (await trader.get(BALANCE, accountType="UNIFIED"))["retCode"] == 0
        assert (
            await trader.ask("GET", BALANCE, QUERY, **sign_request(QUERY, at=trader.sandbox.clock.now()))
        )["retCode"] == 0


@pytest.mark.parametrize(
    ("changes", "code", "status"),
    [
        ({"secret": "other"}, 10004, 200),
        ({"key": "other"}, 10003, 200),
        ({"at": "yesterday"}, 10001, 200),
    ],
)
async def test_wrong_credentials(
    play: Any, sign_request: Sign, changes: dict[str, Any], code: int, status: int
) -> None:
    async with play() as trader:
        answer = await trader.ask("GET", BALANCE, QUERY, **sign_request(QUERY, **changes))
        assert (answer["retCode"], answer["status"]) == (code, status)


@pytest.mark.parametrize("missing", ["X-BAPI-API-KEY", "X-BAPI-TIMESTAMP", "X-BAPI-SIGN"])
async def test_a_missing_header_is_401(play: Any, missing: str) -> None:
    async with play() as trader:
        answer = await trader.ask("GET", BALANCE, QUERY, **{missing: ""})
        assert (answer["status"], answer["retCode"]) == (401, 10003)
        assert missing in answer["retMsg"]


@pytest.mark.parametrize(
    "body",
    [
        '{"category":"linear","symbol":"BTCUSDT","side":"Buy","orderType":"Limit","qty":"0.01","price":"49000"}',
        ' { "price" : "49000", "qty":"0.01",\n"orderType":"Limit", "side":"Buy", "symbol":"BTCUSDT", "category":"linear" } ',
        '{"category":"linear","symbol":"BTCUSDT","side":"Buy","orderType":"Limit","qty":0.01,"price":49000.0}',
    ],
)
async def test_the_signature_is_over_the_bytes_as_sent(play: Any, sign_request: Sign, body: str) -> None:
    async with play() as trader:
        assert (await trader.ask("POST", "/v5/order/create", body))["retCode"] == 0
        respaced = await trader.ask(
            "POST", "/v5/order/create", body, **sign_request(json.dumps(json.loads(body), indent=1))
        )
        assert respaced["retCode"] == 10004


async def test_a_query_is_signed_unescaped_or_escaped_as_it_travels(play: Any) -> None:
    async with play() as trader:
        for query in ("accountType=UNIFIED&coin=BTC%2CUSDT", "coin=BTC,USDT&accountType=UNIFIED"):
            answer = await trader.ask("GET", BALANCE, query)
            assert [coin["coin"] for coin in answer["result"]["list"][0]["coin"]] == ["BTC", "USDT"]


async def test_a_body_that_is_no_object_is_a_parameter_error(play: Any) -> None:
    async with play() as trader:
        for body in ("[]", "{", '"x"'):
            assert (await trader.ask("POST", "/v5/order/create", body))["retCode"] == 10001


async def test_a_key_has_so_many_requests_a_second_and_is_told(play: Any) -> None:
    async with play() as trader:
        answers = []
        for _ in range(12):
            answers.append((await trader.get("/v5/user/query-api"))["retCode"])
            assert trader.headers["X-Bapi-Limit"] == "10"
            left = int(trader.headers["X-Bapi-Limit-Status"])
            if answers[-1]:
                break
        if answers[-1]:  # twelve within a second, unless the machine was too slow for it
            assert (answers[-1], left) == (10006, 0)
        else:
            pytest.skip("this machine can't ask ten times a second")
        assert int(trader.headers["X-Bapi-Limit-Reset-Timestamp"]) > 0
        assert (await trader.get("/v5/account/info"))["retCode"] == 0  # each endpoint for itself


async def test_an_address_that_asks_too_often_is_shut_out(play: Any) -> None:
    async with play(ip_limit=20) as trader:
        url = f"{trader.sandbox.rest_url}/v5/market/time"
        statuses = []
        for _ in range(25):
            async with trader.session.get(url) as response:
                statuses.append(response.status)
                text = await response.text()
        assert statuses == [200] * 20 + [403] * 5
        assert text == "access too frequent"


async def test_who_connects_too_often_is_refused(play: Any) -> None:
    async with play(socket_limit=3) as trader:
        for _ in range(3):
            async with trader.socket("/v5/public/linear", "tickers.BTCUSDT"):
                pass
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await trader.session.ws_connect(trader.sandbox.ws_url + "/v5/public/linear")
        assert caught.value.status == 403


async def test_a_get_with_a_body_is_refused(play: Any, sign_request: Sign) -> None:
    async with play() as trader:
        url = f"{trader.sandbox.rest_url}{BALANCE}?{QUERY}"
        async with trader.session.get(url, data="{}", headers=sign_request(QUERY)) as response:
            assert response.status == 403


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (lambda sign: sign(secret="other"), "sign"),
        (lambda sign: ["other", *sign()[1:]], "key"),
        (lambda sign: sign(expires=1), "expired"),
        (lambda sign: sign()[:2], "args"),
        (lambda sign: "nothing", "args"),
    ],
)
async def test_a_private_socket_that_cannot_sign_in_is_closed(
    play: Any, sign_socket: Any, args: Any, reason: str
) -> None:
    async with play() as trader:
        for path in ("/v5/private", "/v5/trade"):
            async with trader.session.ws_connect(trader.sandbox.ws_url + path) as raw:
                await raw.send_json({"op": "auth", "args": args(sign_socket)})
                answer = json.loads(await raw.receive_str())
                assert reason in (answer.get("ret_msg") or answer.get("retMsg")).lower()
                assert not answer.get("success", answer.get("retCode") == 0)
                async with asyncio.timeout(5):
                    await raw.receive()
                assert raw.closed


async def test_before_signing_in_nothing_is_told_nor_done(play: Any) -> None:
    async with play() as trader:
        async with trader.session.ws_connect(
            trader.sandbox.ws_url + "/v5/private?max_active_time=10m"
        ) as raw:
            await raw.send_json({"op": "subscribe", "args": ["order"]})
            assert json.loads(await raw.receive_str())["ret_msg"] == "Request not authorized"
        async with trader.session.ws_connect(trader.sandbox.ws_url + "/v5/trade") as raw:
            await raw.send_json({"op": "order.create", "reqId": "1", "header": {}, "args": [{}]})
            assert json.loads(await raw.receive_str())["retCode"] == 10003


async def test_expires_may_be_a_text(play: Any, sign_socket: Any) -> None:
    async with play() as trader, trader.session.ws_connect(trader.sandbox.ws_url + "/v5/private") as raw:
        key, expires, signature = sign_socket()
        await raw.send_json({"op": "auth", "args": [key, str(expires), signature], "req_id": 5})
        answer = json.loads(await raw.receive_str())
        assert (answer["success"], answer["req_id"], answer["op"]) == (True, 5, "auth")
