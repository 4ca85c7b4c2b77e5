"""pybit, Bybit's own client, trades on the sandbox as on Bybit."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pybit = pytest.importorskip("pybit.unified_trading", reason="pybit is not installed")
LINEAR = {"category": "linear", "symbol": "BTCUSDT"}


def http(url: str, secret: str = "secret") -> Any:
    session = pybit.HTTP(api_key="key", api_secret=secret)
    session.endpoint = url
    return session


@pytest.fixture
def sockets(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Return `sockets(url, kind, **keys)`, which opens a WebSocket client of pybit; all are closed at the
    end.
    """
    opened: list[Any] = []

    def open_socket(url: str, kind: str, **keys: Any) -> Any:
        monkeypatch.setattr(pybit, "PUBLIC_WSS", f"{url}/v5/public/linear")
        monkeypatch.setattr(pybit, "PRIVATE_WSS", f"{url}/v5/private")
        monkeypatch.setattr("pybit._websocket_trading.TRADE_WSS", f"{url}/v5/trade")
        if kind == "trade":
            opened.append(pybit.WebSocketTrading(testnet=False, restart_on_error=False, **keys))
        else:
            opened.append(pybit.WebSocket(testnet=False, channel_type=kind, restart_on_error=False, **keys))
        return opened[-1]

    yield open_socket
    for socket in opened:
        socket.exit()


KEYS = {"api_key": "key", "api_secret": "secret", "private_auth_expire": 5}


async def test_market_data_and_account(play: Any) -> None:
    async with play() as client:

        def fetch(session: Any) -> None:
            assert session.get_server_time()["retCode"] == 0
            assert len(session.get_kline(**LINEAR, interval="1", limit=7)["result"]["list"]) == 7
            assert session.get_instruments_info(category="linear")["result"]["list"][0]["symbol"] == "BTCUSDT"
            assert session.get_orderbook(**LINEAR)["result"]["s"] == "BTCUSDT"
            assert (
                session.get_wallet_balance(accountType="UNIFIED")["result"]["list"][0]["totalEquity"]
                == "10000"
            )
            assert session.get_fee_rates(category="spot")["result"]["list"][0]["takerFeeRate"] == "0.001"
            assert session.get_api_key_information()["result"]["uta"] == 1
            assert session.get_coin_info()["result"]["rows"]
            assert session.get_account_info()["result"]["marginMode"] == "REGULAR_MARGIN"
            assert session.get_risk_limit(category="linear")["result"]["list"]

        await asyncio.to_thread(fetch, http(client.sandbox.rest_url))


async def test_order_round_trip(play: Any) -> None:
    async with play() as client:

        def trade(session: Any) -> None:
            resting = session.place_order(
                **LINEAR, side="Buy", orderType="Limit", qty="0.01", price="49000", orderLinkId="mine"
            )
            session.amend_order(**LINEAR, orderLinkId="mine", qty="0.02")
            [order] = session.get_open_orders(**LINEAR)["result"]["list"]
            assert (order["orderId"], order["qty"]) == (resting["result"]["orderId"], "0.02")
            session.cancel_order(**LINEAR, orderLinkId="mine")
            session.set_leverage(**LINEAR, buyLeverage="3", sellLeverage="3")
            batch = session.place_batch_order(
                category="linear",
                request=[
                    {
                        "symbol": "BTCUSDT",
                        "side": "Buy",
                        "orderType": "Limit",
                        "qty": "0.01",
                        "price": "48000",
                    }
                ],
            )
            assert batch["retExtInfo"]["list"] == [{"code": 0, "msg": "OK"}]
            session.cancel_all_orders(**LINEAR)
            session.place_order(**LINEAR, side="Buy", orderType="Market", qty="0.01")
            while session.get_positions(**LINEAR)["result"]["list"][0]["size"] != "0.01":
                pass
            session.set_trading_stop(**LINEAR, stopLoss="49000", positionIdx=0)
            assert session.get_positions(**LINEAR)["result"]["list"][0]["stopLoss"] == "49000"
            assert len(session.get_executions(category="linear")["result"]["list"]) == 2

        async with asyncio.timeout(20):
            await asyncio.to_thread(trade, http(client.sandbox.rest_url))


@pytest.mark.parametrize(
    ("request_of", "secret", "code"),
    [
        (lambda s: s.get_kline(category="linear", symbol="NOPE", interval="1"), "secret", 10001),
        (lambda s: s.cancel_order(**LINEAR, orderId="unknown"), "secret", 110001),
        (lambda s: s.place_order(**LINEAR, side="Buy", orderType="Market", qty="100"), "secret", 110007),
        (lambda s: s.get_wallet_balance(accountType="UNIFIED"), "wrong", 10004),
    ],
)
async def test_rejections(play: Any, request_of: Any, secret: str, code: int) -> None:
    from pybit.exceptions import InvalidRequestError

    async with play() as client:
        with pytest.raises(InvalidRequestError) as caught:
            await asyncio.to_thread(request_of, http(client.sandbox.rest_url, secret))
        assert caught.value.status_code == code


async def test_public_streams(play: Any, sockets: Callable[..., Any]) -> None:
    async with play() as client:
        received: queue.Queue[str] = queue.Queue()

        def listen() -> set[str]:
            socket = sockets(client.sandbox.ws_url, "linear")
            for subscribe in (socket.trade_stream, socket.ticker_stream):
                subscribe(symbol="BTCUSDT", callback=lambda message: received.put(message["topic"]))
            socket.kline_stream(
                interval=1, symbol="BTCUSDT", callback=lambda message: received.put(message["topic"])
            )
            socket.orderbook_stream(
                depth=1, symbol="BTCUSDT", callback=lambda message: received.put(message["topic"])
            )
            topics: set[str] = set()
            while len(topics) < 4:
                topics.add(received.get(timeout=15))
            socket.exit()
            return topics

        expected = {f"{kind}.BTCUSDT" for kind in ("publicTrade", "tickers", "kline.1", "orderbook.1")}
        assert await asyncio.to_thread(listen) == expected


async def test_private_streams_and_orders_over_websocket(play: Any, sockets: Callable[..., Any]) -> None:
    async with play() as client:
        received: queue.Queue[tuple[str, Any]] = queue.Queue()

        def trade() -> None:
            private = sockets(client.sandbox.ws_url, "private", **KEYS)
            for name in ("order", "execution", "position", "wallet"):
                getattr(private, f"{name}_stream")(
                    callback=lambda message: received.put((message["topic"], message["data"][0]))
                )
            by_message = sockets(client.sandbox.ws_url, "trade", **KEYS)
            acknowledgements: queue.Queue[Any] = queue.Queue()
            by_message.place_order(acknowledgements.put, **LINEAR, side="Buy", orderType="Market", qty="0.01")
            placed = acknowledgements.get(timeout=15)
            assert placed["retCode"] == 0
            seen: dict[str, Any] = {}
            while seen.get("order", {}).get("orderStatus") != "Filled" or len(seen) < 4:
                topic, data = received.get(timeout=15)
                seen[topic] = data
            assert seen["order"]["orderId"] == placed["data"]["orderId"]
            private.exit()
            by_message.exit()

        await asyncio.to_thread(trade)
