"""Authentication and rate limits."""

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
        (2_000, "5000", 10002),  # ahead of the venue's clock, which no window allows
        (2_000, "60000", 10002),
    ],
)
async def test_timestamp_must_be_within_the_window(
    play: Any, sign_request: Sign, offset: int, window: str, code: int
) -> None:
    async with play(speed=1.0) as client:
        headers = sign_request(QUERY, at=client.sandbox.clock.now() + offset, window=window)
        response = await client.request("GET", BALANCE, QUERY, **headers)
        assert response["retCode"] == code
        if code:
            assert "req_timestamp[" in response["retMsg"]


async def test_accelerated_market_accepts_machine_time_and_market_time(play: Any, sign_request: Sign) -> None:
    async with play(speed=6_000.0) as client:
        while client.sandbox.clock.now() < int(sign_request(QUERY)["X-BAPI-TIMESTAMP"]) + 60_000:
            await asyncio.sleep(0)
        assert (await client.get(BALANCE, accountType="UNIFIED"))["retCode"] == 0
        assert (
            await client.request("GET", BALANCE, QUERY, **sign_request(QUERY, at=client.sandbox.clock.now()))
        )["retCode"] == 0


@pytest.mark.parametrize(
    ("changes", "code", "status"),
    [({"secret": "other"}, 10004, 200), ({"key": "other"}, 10003, 200), ({"at": "yesterday"}, 10001, 200)],
)
async def test_wrong_credentials_are_rejected(
    play: Any, sign_request: Sign, changes: dict[str, Any], code: int, status: int
) -> None:
    async with play() as client:
        response = await client.request("GET", BALANCE, QUERY, **sign_request(QUERY, **changes))
        assert (response["retCode"], response["status"]) == (code, status)


@pytest.mark.parametrize("missing", ["X-BAPI-API-KEY", "X-BAPI-TIMESTAMP", "X-BAPI-SIGN"])
async def test_missing_header_is_http_401(play: Any, missing: str) -> None:
    async with play() as client:
        response = await client.request("GET", BALANCE, QUERY, **{missing: ""})
        assert (response["status"], response["retCode"]) == (401, 10003)
        assert missing in response["retMsg"]


@pytest.mark.parametrize(
    "body",
    [
        (
            '{"category":"linear","symbol":"BTCUSDT","side":"Buy","orderType":"Limit",'
            '"qty":"0.01","price":"49000"}'
        ),
        (
            ' { "price" : "49000", "qty":"0.01",\n'
            '"orderType":"Limit", "side":"Buy", "symbol":"BTCUSDT", "category":"linear" } '
        ),
        (
            '{"category":"linear","symbol":"BTCUSDT","side":"Buy","orderType":"Limit",'
            '"qty":0.01,"price":49000.0}'
        ),
    ],
)
async def test_signature_covers_the_bytes_sent(play: Any, sign_request: Sign, body: str) -> None:
    async with play() as client:
        assert (await client.request("POST", "/v5/order/create", body))["retCode"] == 0
        respaced = await client.request(
            "POST", "/v5/order/create", body, **sign_request(json.dumps(json.loads(body), indent=1))
        )
        assert respaced["retCode"] == 10004


async def test_query_is_signed_as_sent_escaped_or_not(play: Any) -> None:
    async with play() as client:
        for query in ("accountType=UNIFIED&coin=BTC%2CUSDT", "coin=BTC,USDT&accountType=UNIFIED"):
            response = await client.request("GET", BALANCE, query)
            assert [coin["coin"] for coin in response["result"]["list"][0]["coin"]] == ["BTC", "USDT"]


async def test_body_must_be_a_json_object(play: Any) -> None:
    async with play() as client:
        for body in ("[]", "{", '"x"'):
            assert (await client.request("POST", "/v5/order/create", body))["retCode"] == 10001


async def test_rate_limit_of_a_key_is_enforced_and_reported_in_headers(play: Any) -> None:
    async with play() as client:
        codes = []
        for _ in range(12):
            codes.append((await client.get("/v5/user/query-api"))["retCode"])
            assert client.headers["X-Bapi-Limit"] == "10"
            left = int(client.headers["X-Bapi-Limit-Status"])
            if codes[-1]:
                break
        if codes[-1]:  # twelve requests within a second, unless the machine was too slow
            assert (codes[-1], left) == (10006, 0)
        else:
            pytest.skip("this machine can't send ten requests per second")
        assert int(client.headers["X-Bapi-Limit-Reset-Timestamp"]) > 0
        assert (await client.get("/v5/account/info"))["retCode"] == 0  # each endpoint has its own limit


async def test_ip_address_with_too_many_requests_is_banned(play: Any) -> None:
    async with play(ip_limit=20) as client:
        url = f"{client.sandbox.rest_url}/v5/market/time"
        statuses = []
        for _ in range(25):
            async with client.session.get(url) as response:
                statuses.append(response.status)
                text = await response.text()
        assert statuses == [200] * 20 + [403] * 5
        assert text == "access too frequent"


async def test_ip_address_with_too_many_connections_is_rejected(play: Any) -> None:
    async with play(socket_limit=3) as client:
        for _ in range(3):
            async with client.socket("/v5/public/linear", "tickers.BTCUSDT"):
                pass
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await client.session.ws_connect(client.sandbox.ws_url + "/v5/public/linear")
        assert caught.value.status == 403


async def test_get_with_a_body_is_rejected(play: Any, sign_request: Sign) -> None:
    async with play() as client:
        url = f"{client.sandbox.rest_url}{BALANCE}?{QUERY}"
        async with client.session.get(url, data="{}", headers=sign_request(QUERY)) as response:
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
async def test_socket_is_closed_after_failed_authentication(
    play: Any, sign_socket: Any, args: Any, reason: str
) -> None:
    async with play() as client:
        for path in ("/v5/private", "/v5/trade"):
            async with client.session.ws_connect(client.sandbox.ws_url + path) as raw:
                await raw.send_json({"op": "auth", "args": args(sign_socket)})
                response = json.loads(await raw.receive_str())
                assert reason in (response.get("ret_msg") or response.get("retMsg")).lower()
                assert not response.get("success", response.get("retCode") == 0)
                async with asyncio.timeout(5):
                    await raw.receive()
                assert raw.closed


async def test_unauthenticated_sockets_cannot_subscribe_or_trade(play: Any) -> None:
    async with play() as client:
        async with client.session.ws_connect(
            client.sandbox.ws_url + "/v5/private?max_active_time=10m"
        ) as raw:
            await raw.send_json({"op": "subscribe", "args": ["order"]})
            assert json.loads(await raw.receive_str())["ret_msg"] == "Request not authorized"
        async with client.session.ws_connect(client.sandbox.ws_url + "/v5/trade") as raw:
            await raw.send_json({"op": "order.create", "reqId": "1", "header": {}, "args": [{}]})
            assert json.loads(await raw.receive_str())["retCode"] == 10003


async def test_expires_may_be_a_string(play: Any, sign_socket: Any) -> None:
    async with play() as client, client.session.ws_connect(client.sandbox.ws_url + "/v5/private") as raw:
        key, expires, signature = sign_socket()
        await raw.send_json({"op": "auth", "args": [key, str(expires), signature], "req_id": 5})
        response = json.loads(await raw.receive_str())
        assert (response["success"], response["req_id"], response["op"]) == (True, 5, "auth")
