"""ccxt and ccxt.pro trade on the sandbox as on Bybit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import ccxt.async_support as ccxt
import ccxt.pro as ccxt_pro
import pytest

LINEAR, SPOT = "BTC/USDT:USDT", "BTC/USDT"
Connect = Callable[..., AbstractAsyncContextManager[Any]]


def point_at(exchange: Any, rest: str, sockets: str) -> Any:
    """Point all URLs of a client at the sandbox."""
    for name in ("spot", "futures", "v2", "public", "private"):
        exchange.urls["api"][name] = rest

    def redirect(tree: dict[str, Any]) -> None:
        for key, value in tree.items():
            if isinstance(value, dict):
                redirect(value)
            elif "/v5/" in value:
                tree[key] = sockets + "/v5/" + value.split("/v5/")[1]

    redirect(exchange.urls["api"].get("ws", {}))
    return exchange


@pytest.fixture
def connect(play: Any) -> Connect:
    """Return `connect(module, **options)`, an async context manager that yields (exchange, client)."""

    @asynccontextmanager
    async def run(
        module: Any = ccxt, secret: str = "secret", closes: Any = None, **options: Any
    ) -> AsyncIterator[tuple[Any, Any]]:
        async with play(closes, **options) as client:
            exchange = module.bybit({"apiKey": "key", "secret": secret, "enableRateLimit": False})
            point_at(exchange, client.sandbox.rest_url, client.sandbox.ws_url)
            try:
                yield exchange, client
            finally:
                await exchange.close()

    return run


async def wait_for_status(exchange: Any, order_id: str, symbol: str, status: str) -> dict[str, Any]:
    """Wait until ccxt reports an order with this status."""
    async with asyncio.timeout(15):
        while (order := await exchange.fetch_order(order_id, symbol, {"acknowledged": True}))[
            "status"
        ] != status:
            pass
    return dict(order)


async def test_market_data(connect: Connect) -> None:
    async with connect() as (exchange, client):
        markets = await exchange.load_markets()
        assert set(markets) == {LINEAR, SPOT}
        assert markets[LINEAR]["precision"] == {"amount": 0.001, "price": 0.1}
        assert (
            abs(await exchange.fetch_time() - client.sandbox.clock.now()) < 600 * 2_000
        )  # two seconds of wall time
        since = client.sandbox.clock.now() - 150 * 60_000
        candles = await exchange.fetch_ohlcv(LINEAR, "1m", since=since, limit=60)
        assert len(candles) == 60
        assert candles[0][0] == -(-since // 60_000) * 60_000  # forward from the bar after `since`
        ticker = await exchange.fetch_ticker(LINEAR)
        assert ticker["bid"] < ticker["last"] < ticker["ask"]
        assert (await exchange.fetch_order_book(SPOT))["bids"]
        assert await exchange.fetch_trades(LINEAR) is not None
        assert (await exchange.fetch_funding_rate(LINEAR))["fundingRate"] == 0.0001
        assert (await exchange.fetch_leverage_tiers([LINEAR]))[LINEAR][0]["maxLeverage"] == 100
        assert (await exchange.fetch_trading_fees())[LINEAR]["taker"] == 0.00055


async def test_order_round_trip_on_derivatives(connect: Connect) -> None:
    async with connect() as (exchange, _):
        await exchange.set_leverage(5, LINEAR)
        bought = await exchange.create_order(LINEAR, "market", "buy", 0.02)
        assert bought["status"] is None  # an acknowledgement does not include the fill
        order = await wait_for_status(exchange, bought["id"], LINEAR, "closed")
        assert (order["filled"], order["fee"]["currency"]) == (0.02, "USDT")
        assert [trade["amount"] for trade in await exchange.fetch_my_trades(LINEAR)] == [0.01, 0.01]
        position = await exchange.fetch_position(LINEAR)
        assert (position["side"], position["contracts"], position["leverage"]) == ("long", 0.02, 5)

        resting = await exchange.create_order(LINEAR, "limit", "buy", 0.01, 49_000, {"clientOrderId": "mine"})
        await exchange.edit_order(resting["id"], LINEAR, "limit", "buy", 0.03, 48_000)
        [seen] = await exchange.fetch_open_orders(LINEAR)
        assert (seen["clientOrderId"], seen["price"], seen["amount"]) == ("mine", 48_000, 0.03)
        await exchange.cancel_order(resting["id"], LINEAR)
        assert [o["id"] for o in await exchange.fetch_canceled_orders(LINEAR)] == [resting["id"]]

        stop = await exchange.create_order(
            LINEAR, "market", "sell", 0.02, None, {"stopLossPrice": 49_000, "reduceOnly": True}
        )
        waiting = await exchange.fetch_open_orders(LINEAR, params={"orderFilter": "StopOrder"})
        assert [o["id"] for o in waiting] == [stop["id"]]
        await exchange.cancel_all_orders(LINEAR)

        crossing = await exchange.create_order(LINEAR, "limit", "buy", 0.01, 51_000, {"postOnly": True})
        assert (await wait_for_status(exchange, crossing["id"], LINEAR, "canceled"))["filled"] == 0
        closing = await exchange.create_order(LINEAR, "market", "sell", 1, None, {"reduceOnly": True})
        assert (await wait_for_status(exchange, closing["id"], LINEAR, "closed"))["filled"] == 0.02
        assert await exchange.fetch_positions([LINEAR]) == [] or (await exchange.fetch_position(LINEAR))[
            "contracts"
        ] in (0, None)


async def test_order_round_trip_on_spot(connect: Connect) -> None:
    async with connect() as (exchange, _):
        by_value = await exchange.create_market_buy_order_with_cost(SPOT, 1_000)
        order = await wait_for_status(exchange, by_value["id"], SPOT, "closed")
        assert order["cost"] == pytest.approx(1_000, rel=1e-3)
        assert order["fee"]["currency"] == "BTC"
        balance = await exchange.fetch_balance()
        assert balance["BTC"]["total"] == pytest.approx(order["filled"] * 0.999)
        assert balance["USDT"]["total"] == pytest.approx(10_000 - order["cost"])
        selling = await exchange.create_order(SPOT, "limit", "sell", 0.01, 54_000)
        assert (await exchange.fetch_balance())["BTC"]["used"] == 0.01
        await exchange.cancel_order(selling["id"], SPOT)
        sold = await exchange.create_order(SPOT, "market", "sell", 0.01)
        assert (await wait_for_status(exchange, sold["id"], SPOT, "closed"))["fee"]["currency"] == "USDT"


@pytest.mark.parametrize(
    ("request_of", "error"),
    [
        (lambda e: e.create_order(LINEAR, "market", "buy", 100), ccxt.InsufficientFunds),
        (lambda e: e.create_order(SPOT, "market", "sell", 1), ccxt.InsufficientFunds),
        (
            lambda e: e.create_order(LINEAR, "market", "sell", 0.01, None, {"reduceOnly": True}),
            ccxt.InvalidOrder,
        ),
        (lambda e: e.create_order(LINEAR, "limit", "buy", 0.001, 1_000), ccxt.InvalidOrder),
        (lambda e: e.cancel_order("unknown", LINEAR), ccxt.OrderNotFound),
        (lambda e: e.cancel_order("1", SPOT), ccxt.OrderNotFound),
        (lambda e: e.set_leverage(10, LINEAR), ccxt.BadRequest),
        (lambda e: e.set_position_mode(False, LINEAR), ccxt.NoChange),
        (
            lambda e: e.public_get_v5_market_kline({"category": "linear", "symbol": "NOPE", "interval": "1"}),
            ccxt.BadSymbol,
        ),
    ],
)
async def test_rejections_map_to_ccxt_errors(
    connect: Connect, request_of: Any, error: type[Exception]
) -> None:
    async with connect() as (exchange, _):
        await exchange.load_markets()
        with pytest.raises(error):
            await request_of(exchange)


@pytest.mark.parametrize(("secret", "error"), [("wrong", ccxt.AuthenticationError), ("secret", None)])
async def test_credentials(connect: Connect, secret: str, error: type[Exception] | None) -> None:
    async with connect(secret=secret) as (exchange, _):
        if error is None:
            assert (await exchange.fetch_balance())["USDT"]["total"] == 10_000
        else:
            with pytest.raises(error):
                await exchange.fetch_balance()


async def test_market_streams(connect: Connect) -> None:
    async with connect(ccxt_pro) as (exchange, _):
        await exchange.load_markets()
        async with asyncio.timeout(20):
            for symbol in (LINEAR, SPOT):
                assert await exchange.watch_ohlcv(symbol, "1m")
                assert (await exchange.watch_ticker(symbol))["last"] > 0
                assert (await exchange.watch_order_book(symbol))["bids"]
                assert await exchange.watch_trades(symbol)


async def test_account_streams_and_orders_over_websocket(connect: Connect) -> None:
    async with connect(ccxt_pro) as (exchange, client):
        await exchange.load_markets()
        watching = {
            "order": exchange.watch_orders(),
            "execution": exchange.watch_my_trades(),
            "wallet": exchange.watch_balance(),
        }
        tasks = {topic: asyncio.ensure_future(each) for topic, each in watching.items()}
        async with asyncio.timeout(20):
            while not any(set(watching) <= channel.topics for channel in client.sandbox.channels):
                await asyncio.sleep(0.01)
            created = await exchange.create_order_ws(LINEAR, "limit", "buy", 0.01, 49_000)
            assert (await tasks["order"])[-1]["id"] == created["id"]
            await exchange.edit_order_ws(created["id"], LINEAR, "limit", "buy", 0.01, 48_000)
            await exchange.cancel_order_ws(created["id"], LINEAR)
            with pytest.raises(ccxt.OrderNotFound):
                await exchange.cancel_order_ws(created["id"], LINEAR)
            market = await exchange.create_order_ws(LINEAR, "market", "buy", 0.01)
            assert (await tasks["execution"])[-1]["order"] == market["id"]
            assert "USDT" in await tasks["wallet"]
