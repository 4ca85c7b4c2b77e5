"""Fixtures: a sandbox with a generated market, and a client that signs its own requests."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp
import pytest
from yarl import URL

from agent.sandbox import Sandbox, SandboxOptions
from agent.system.clock import WallClock, iso

KEY, SECRET = "key", "secret"
MINUTE = 60_000
FILE_START = 1_735_689_600_000  # 2025-01-01


class SandboxClient:
    """Sends plain HTTP requests to a sandbox and opens WebSockets."""

    def __init__(self, sandbox: Sandbox, session: aiohttp.ClientSession) -> None:
        self.sandbox = sandbox
        self.session = session
        self.headers: dict[str, str] = {}  # of the last response

    async def get(self, path: str, *, signed: bool = True, **params: Any) -> dict[str, Any]:
        return await self.request("GET", path, urlencode(params), signed=signed)

    async def post(self, path: str, *, signed: bool = True, **body: Any) -> dict[str, Any]:
        return await self.request("POST", path, json.dumps(body), signed=signed)

    async def request(
        self, verb: str, path: str, payload: str, *, signed: bool = True, **header: str
    ) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"} | ((sign(payload) | header) if signed else {})
        url = URL(
            f"{self.sandbox.rest_url}{path}" + (f"?{payload}" if verb == "GET" and payload else ""),
            encoded=True,
        )
        async with self.session.request(
            verb, url, data=payload if verb == "POST" else None, headers=headers
        ) as response:
            self.headers = dict(response.headers)
            return {"status": response.status} | json.loads(await response.read())

    async def try_order(self, **fields: Any) -> dict[str, Any]:
        """Place an order and return the response. The default is Buy 0.01 BTCUSDT linear at market."""
        market = {
            "category": "linear",
            "symbol": "BTCUSDT",
            "side": "Buy",
            "orderType": "Market",
            "qty": "0.01",
        }
        return await self.post("/v5/order/create", **market | fields)

    async def place_order(self, **fields: Any) -> str:
        """Place an order that must be accepted and return its orderId."""
        response = await self.try_order(**fields)
        assert response["retCode"] == 0, response
        return str(response["result"]["orderId"])

    async def fetch_order(self, order_id: str, category: str = "linear") -> dict[str, Any]:
        response = await self.get("/v5/order/realtime", category=category, symbol="BTCUSDT", orderId=order_id)
        return dict(response["result"]["list"][0])

    async def wait_for_status(self, order_id: str, *states: str, category: str = "linear") -> dict[str, Any]:
        """Wait until the order has one of the statuses."""
        async with asyncio.timeout(15):
            while (order := await self.fetch_order(order_id, category))["orderStatus"] not in states:
                await asyncio.sleep(0.03)
        return order

    async def position(self) -> dict[str, Any]:
        return dict(
            (await self.get("/v5/position/list", category="linear", symbol="BTCUSDT"))["result"]["list"][0]
        )

    async def wallet(self) -> dict[str, Any]:
        return dict(
            (await self.get("/v5/account/wallet-balance", accountType="UNIFIED"))["result"]["list"][0]
        )

    async def coin(self, name: str = "USDT") -> dict[str, Any]:
        listed = (await self.get("/v5/account/wallet-balance", accountType="UNIFIED", coin=name))["result"][
            "list"
        ][0]
        return dict(listed["coin"][0])

    @asynccontextmanager
    async def socket(self, path: str = "/v5/public/linear", *topics: str) -> AsyncIterator[Socket]:
        async with self.session.ws_connect(self.sandbox.ws_url + path) as raw:
            socket = Socket(raw)
            if "public" not in path:
                await socket.send(op="auth", args=sign_auth())
                response = await socket.next()
                assert response.get("success", response.get("retCode") == 0), response
            if topics:
                await socket.send(op="subscribe", args=list(topics))
                assert (await socket.next())["success"]
            yield socket


class Socket:
    def __init__(self, raw: aiohttp.ClientWebSocketResponse) -> None:
        self.raw = raw

    async def send(self, **message: Any) -> None:
        await self.raw.send_json(message)

    async def text(self) -> str:
        async with asyncio.timeout(15):
            message = await self.raw.receive()
        return str(message.data) if message.type is aiohttp.WSMsgType.TEXT else ""

    async def next(self, accepts: Callable[[dict[str, Any]], bool] = lambda message: True) -> dict[str, Any]:
        """Return the next message for which `accepts` is true."""
        async with asyncio.timeout(15):
            while True:
                message: dict[str, Any] = json.loads(await self.raw.receive_str())
                if accepts(message):
                    return message

    async def item(
        self, topic: str, accepts: Callable[[dict[str, Any]], bool] = lambda item: True
    ) -> dict[str, Any]:
        """Return the next element of a topic's data for which `accepts` is true."""
        message = await self.next(
            lambda m: m.get("topic") == topic and any(accepts(item) for item in m["data"])
        )
        return next(dict(item) for item in message["data"] if accepts(item))


def sign(
    payload: str, *, key: str = KEY, secret: str = SECRET, at: int | None = None, window: str = "5000"
) -> dict[str, str]:
    """Return the headers of a signed request."""
    timestamp = str(WallClock().now() if at is None else at)
    signature = hmac.new(
        secret.encode(), f"{timestamp}{key}{window}{payload}".encode(), hashlib.sha256
    ).hexdigest()
    names = ("X-BAPI-API-KEY", "X-BAPI-TIMESTAMP", "X-BAPI-RECV-WINDOW", "X-BAPI-SIGN")
    return dict(zip(names, (key, timestamp, window, signature), strict=True))


def sign_auth(*, secret: str = SECRET, expires: int | None = None) -> list[Any]:
    """Return the arguments of a WebSocket's auth message."""
    until = WallClock().now() + 10_000 if expires is None else expires
    return [
        KEY,
        until,
        hmac.new(secret.encode(), f"GET/realtime{until}".encode(), hashlib.sha256).hexdigest(),
    ]


def write_bars(path: Path, closes: list[float], *, width: float = 5.0, volume: float = 12.0) -> Path:
    """Write one-minute bars that open at the previous close and extend `width` beyond open and close."""
    lines = ["open_time,open,high,low,close,volume"]
    for number, close in enumerate(closes):
        opened = closes[max(0, number - 1)]
        high, low = max(opened, close) + width, min(opened, close) - width
        lines.append(f"{iso(FILE_START + number * MINUTE)},{opened},{high},{low},{close},{volume}")
    path.write_text("\n".join(lines) + "\n")
    return path


Play = Callable[..., AbstractAsyncContextManager[SandboxClient]]


@pytest.fixture
def play(tmp_path: Path) -> Play:
    """Return `play(closes, **options)`, an async context manager that yields a client of a running sandbox.

    BTCUSDT takes the given closes; a minute of the market passes in a tenth of a second.
    """

    @asynccontextmanager
    async def run(closes: list[float] | None = None, **options: Any) -> AsyncIterator[SandboxClient]:
        files = (write_bars(tmp_path / "BTCUSDT-1m.csv", closes or [50_000.0] * 400),)
        given = {
            "klines": files,
            "api_key": KEY,
            "api_secret": SECRET,
            "speed": 600.0,
            "ip_limit": 100_000,
        } | options
        async with Sandbox(SandboxOptions(**given)) as sandbox, aiohttp.ClientSession() as session:
            yield SandboxClient(sandbox, session)

    return run


@pytest.fixture
def sign_request() -> Callable[..., dict[str, str]]:
    """Return `sign_request(payload, secret=…, at=…)`, which returns headers."""
    return sign


@pytest.fixture
def sign_socket() -> Callable[..., list[Any]]:
    """Return `sign_socket(secret=…, expires=…)`, which returns the arguments of an auth message."""
    return sign_auth


@pytest.fixture
def rising() -> list[float]:
    """Fifty bars at 50,000, then a rise of 100 per minute."""
    return [50_000.0] * 50 + [50_000.0 + 100 * number for number in range(350)]


@pytest.fixture
def falling() -> list[float]:
    """Fifty bars at 50,000, then a fall of 100 per minute."""
    return [50_000.0] * 50 + [50_000.0 - 100 * number for number in range(350)]
