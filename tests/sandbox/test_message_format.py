"""The sandbox's JSON has the same keys and types as examples from the real venue."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

# Keys of examples that depend on the product or existed only temporarily.
OPTIONAL_KEYS: dict[str, set[str]] = {
    "market_instrument_2.json": {"symbolId"},
    "market_orderbook.json": set(),
}


@pytest.fixture(scope="module")
def messages(shared_data: Path) -> Path:
    return shared_data / "bybit" / "messages"


def format_differences(ours: Any, theirs: Any, where: str, optional: set[str]) -> list[str]:
    """List the keys of `theirs` that `ours` lacks or has with another type."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        missing = [f"{where}.{key} is missing" for key in theirs if key not in ours and key not in optional]
        shared = [key for key in theirs if key in ours and not key.startswith("cumFeeDetail")]
        return missing + [
            problem
            for key in shared
            for problem in format_differences(ours[key], theirs[key], f"{where}.{key}", optional)
        ]
    if isinstance(theirs, list) and isinstance(ours, list):
        return format_differences(ours[0], theirs[0], f"{where}[]", optional) if ours and theirs else []
    if type(ours) is not type(theirs) and "extraFees" not in where:
        return [f"{where} is {type(ours).__name__}, not {type(theirs).__name__}"]
    return []


async def rest(client: Any, path: str, **params: str) -> dict[str, Any]:
    response = await client.get(path, **params)
    del response["status"]
    return dict(response)


@pytest.mark.parametrize(
    ("example", "path", "params"),
    [
        (
            "market_kline.json",
            "/v5/market/kline",
            {"category": "linear", "symbol": "BTCUSDT", "interval": "60"},
        ),
        ("market_orderbook.json", "/v5/market/orderbook", {"category": "spot", "symbol": "BTCUSDT"}),
        ("market_recent-trade.json", "/v5/market/recent-trade", {"category": "spot", "symbol": "BTCUSDT"}),
        ("market_instrument_2.json", "/v5/market/instruments-info", {"category": "spot"}),
        ("account_wallet-balance.json", "/v5/account/wallet-balance", {"accountType": "UNIFIED"}),
        (
            "order_open-order.json",
            "/v5/order/realtime",
            {"category": "linear", "symbol": "BTCUSDT", "openOnly": "1"},
        ),
        ("order_execution.json", "/v5/execution/list", {"category": "linear"}),
        ("position_position.json", "/v5/position/list", {"category": "linear", "symbol": "BTCUSDT"}),
    ],
)
async def test_rest_responses_match_the_documentation(
    play: Any, messages: Path, example: str, path: str, params: dict[str, str]
) -> None:
    theirs = json.loads((messages / "doc_examples" / example).read_text())
    async with play() as client, client.socket("/v5/public/linear", "publicTrade.BTCUSDT") as socket:
        await client.wait_for_status(await client.place_order(), "Filled")
        await socket.item("publicTrade.BTCUSDT")
        ours = await rest(client, path, **params)
        assert ours["result"]["list"] if "list" in ours["result"] else ours["result"]
        assert format_differences(ours, theirs, "", OPTIONAL_KEYS.get(example, set())) == []


@pytest.mark.parametrize("topic", ["order", "execution", "position", "wallet"])
async def test_private_pushes_match_the_documentation(play: Any, messages: Path, topic: str) -> None:
    theirs = json.loads((messages / "doc_examples" / f"websocket_private_{topic}_1.json").read_text())
    async with play() as client, client.socket("/v5/private", topic) as socket:
        await client.place_order(takeProfit="55000")
        ours = await socket.next(lambda message: message.get("topic") == topic)
        assert format_differences(ours, theirs, "", set()) == []


@pytest.mark.parametrize(
    "example", ["ws_kline_1_linear.json", "ws_orderbook_1_linear.json", "ws_publictrade_linear.json"]
)
async def test_public_pushes_have_the_captured_keys(play: Any, messages: Path, example: str) -> None:
    theirs = json.loads((messages / "live_capture" / example).read_text())
    async with play() as client, client.socket("/v5/public/linear", theirs["topic"]) as socket:
        ours = await socket.next(lambda message: message.get("topic") == theirs["topic"])
        assert (
            format_differences(ours, theirs, "", set()) == format_differences(theirs, ours, "", set()) == []
        )


async def test_spot_ticker_matches_the_documentation(play: Any, messages: Path) -> None:
    theirs = json.loads((messages / "doc_examples" / "websocket_public_ticker_2.json").read_text())
    async with play() as client, client.socket("/v5/public/spot", "tickers.BTCUSDT") as socket:
        ours = await socket.next(lambda message: message.get("topic") == "tickers.BTCUSDT")
        assert (
            format_differences(ours, theirs, "", set()) == format_differences(theirs, ours, "", set()) == []
        )


async def test_batch_response_on_the_trade_socket_matches_the_documentation(
    play: Any, messages: Path
) -> None:
    folder = messages / "doc_examples"
    request = json.loads((folder / "websocket_trade_guideline_4.json").read_text())
    theirs = json.loads((folder / "websocket_trade_guideline_5.json").read_text())
    async with play() as client, client.socket("/v5/trade") as socket:
        request["header"]["X-BAPI-TIMESTAMP"] = str(client.sandbox.clock.now())
        for order in request["args"][0]["request"]:
            order |= {"symbol": "BTCUSDT", "qty": "0.01", "price": "49000", "side": "Buy"}
        await socket.send(**request)
        assert format_differences(await socket.next(), theirs, "", set()) == []
