"""Market data over REST and WebSocket."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import aiohttp
import pytest

CLOSES = [50_000.0 + 7 * (number % 13) for number in range(300)]
FILE_START = 1_735_689_600_000


async def test_history_is_the_shifted_file_with_the_running_candle_first(play: Any) -> None:
    async with play(CLOSES, history_bars=100, speed=1.0) as client:
        asked_at = client.sandbox.clock.now()
        response = await client.get(
            "/v5/market/kline", signed=False, category="linear", symbol="BTCUSDT", interval="1", limit=50
        )
        rows = response["result"]["list"]
        shift = client.sandbox.market.shift
        closed = [row for row in rows if int(row[0]) < client.sandbox.clock.now() // 60_000 * 60_000]
        assert 48 <= len(closed) <= 50
        for row in closed:
            number = (int(row[0]) - shift - FILE_START) // 60_000
            assert float(row[4]) == CLOSES[number]
        starts = [int(row[0]) for row in rows]
        assert starts == sorted(starts, reverse=True)
        assert asked_at - 60_000 < starts[0] <= client.sandbox.clock.now()  # the running candle
        assert response["retCode"] == 0


@pytest.mark.parametrize(
    ("path", "params", "code"),
    [
        ("kline", {"category": "linear", "symbol": "BTCUSDT", "interval": "1"}, 0),
        ("kline", {"symbol": "BTCUSDT", "interval": "D"}, 0),  # linear is the default
        ("kline", {"category": "linear", "symbol": "BTCUSDT", "interval": "7"}, 10001),
        ("kline", {"category": "linear", "symbol": "NOPE", "interval": "1"}, 10001),
        ("kline", {"category": "linear", "interval": "1"}, 10001),
        ("kline", {"category": "linear", "symbol": "BTCUSDT", "interval": "1", "limit": "many"}, 10001),
        ("mark-price-kline", {"category": "linear", "symbol": "BTCUSDT", "interval": "5"}, 0),
        ("index-price-kline", {"category": "linear", "symbol": "BTCUSDT", "interval": "5"}, 0),
        ("premium-index-price-kline", {"category": "linear", "symbol": "BTCUSDT", "interval": "5"}, 0),
        ("tickers", {"category": "spot"}, 0),
        ("tickers", {"category": "linear", "symbol": "BTCUSDT"}, 0),
        ("tickers", {"category": "nonsense"}, 10001),
        ("orderbook", {"category": "linear", "symbol": "BTCUSDT"}, 0),
        ("recent-trade", {"category": "spot", "symbol": "BTCUSDT"}, 0),
        ("risk-limit", {"category": "linear"}, 0),
        ("funding/history", {"category": "linear", "symbol": "BTCUSDT"}, 0),
        ("funding/history", {"category": "linear", "symbol": "BTCUSDT", "startTime": "1"}, 10001),
        ("funding/history", {"category": "linear", "symbol": "BTCUSDT", "startTime": "1", "endTime": "2"}, 0),
        ("time", {}, 0),
    ],
)
async def test_market_requests(play: Any, path: str, params: dict[str, str], code: int) -> None:
    async with play() as client:
        response = await client.get(f"/v5/market/{path}", signed=False, **params)
        assert (response["status"], response["retCode"]) == (200, code)
        assert set(response) == {"status", "retCode", "retMsg", "result", "retExtInfo", "time"}


async def test_mark_klines_have_five_columns_and_books_the_requested_depth(play: Any) -> None:
    async with play() as client:
        spread = {"category": "linear", "symbol": "BTCUSDT"}
        mark = await client.get("/v5/market/mark-price-kline", signed=False, **spread, interval="1")
        assert {len(row) for row in mark["result"]["list"]} == {5}
        book = (await client.get("/v5/market/orderbook", signed=False, **spread, limit=40))["result"]
        bids, asks = ([float(price) for price, _ in book[side]] for side in "ba")
        assert len(bids) == len(asks) == 40
        assert bids == sorted(bids, reverse=True)
        assert asks == sorted(asks)
        assert bids[0] < asks[0]


async def test_instruments_are_paged_and_unsupported_categories_are_empty(play: Any, tmp_path: Any) -> None:
    async with play() as one:
        file = one.sandbox.options.klines[0]
    async with play(klines=(f"BTCUSDT={file}", f"ETHUSDT={file}", f"SOLUSDT={file}")) as client:
        seen, cursor = [], ""
        while True:
            page = (
                await client.get(
                    "/v5/market/instruments-info", signed=False, category="linear", limit=2, cursor=cursor
                )
            )["result"]
            seen += [item["symbol"] for item in page["list"]]
            cursor = page["nextPageCursor"]
            if not cursor:
                break
        assert seen == ["BTCUSDT", "ETHUSDT", "SOLUSDT"]
        for params in (
            {"category": "option"},
            {"category": "inverse"},
            {"category": "linear", "status": "PreLaunch"},
        ):
            assert (await client.get("/v5/market/instruments-info", signed=False, **params))["result"][
                "list"
            ] == []
        assert (
            "nextPageCursor"
            not in (await client.get("/v5/market/instruments-info", signed=False, category="spot"))["result"]
        )


async def test_unknown_paths_and_wrong_methods(play: Any) -> None:
    async with play() as client:
        assert (await client.get("/v5/no/such", signed=False))["status"] == 404
        assert (await client.post("/v5/market/time", signed=False))["status"] == 400


# -- WebSocket ---------------------------------------------------------------------------------------------


async def test_every_bar_is_confirmed_once_with_the_values_of_the_file(play: Any) -> None:
    async with (
        play(CLOSES, history_bars=200, speed=2_400.0) as client,
        client.socket("/v5/public/linear", "kline.1.BTCUSDT") as socket,
    ):
        confirmed: list[dict[str, Any]] = []
        while len(confirmed) < 40:
            confirmed.append(await socket.item("kline.1.BTCUSDT", lambda item: item["confirm"]))
        starts = [item["start"] for item in confirmed]
        assert starts == list(range(starts[0], starts[0] + 40 * 60_000, 60_000))
        sequence_numbers = [(start - client.sandbox.market.shift - FILE_START) // 60_000 for start in starts]
        assert [float(item["close"]) for item in confirmed] == [CLOSES[number] for number in sequence_numbers]
        assert all(
            item["end"] == item["start"] + 59_999 and float(item["volume"]) == 12.0 for item in confirmed
        )


async def test_longer_candle_is_confirmed_with_its_last_minute(play: Any) -> None:
    async with play(CLOSES) as client, client.socket("/v5/public/spot", "kline.5.BTCUSDT") as socket:
        candle = await socket.item("kline.5.BTCUSDT", lambda item: item["confirm"])
        assert candle["start"] % 300_000 == 0
        following = await socket.item("kline.5.BTCUSDT", lambda item: item["confirm"])
        assert following["start"] == candle["start"] + 300_000
        assert float(following["volume"]) == 60.0


async def test_trades_tickers_and_books_follow_the_price(play: Any) -> None:
    topics = ("publicTrade.BTCUSDT", "tickers.BTCUSDT", "orderbook.1.BTCUSDT")
    async with play(CLOSES) as client, client.socket("/v5/public/linear", *topics) as socket:
        snapshot = await socket.next(lambda m: m.get("topic") == "tickers.BTCUSDT")
        assert snapshot["type"] == "snapshot"
        state = snapshot["data"]
        for _ in range(12):
            trade = await socket.item("publicTrade.BTCUSDT")
            delta = await socket.next(lambda m: m.get("topic") == "tickers.BTCUSDT")
            assert delta["type"] == "delta"
            assert len(delta["data"]) < len(state)
            state |= delta["data"]
            assert float(state["lastPrice"]) == float(trade["p"])
            book = (await socket.next(lambda m: m.get("topic") == "orderbook.1.BTCUSDT"))["data"]
            assert (book["b"][0][0], book["a"][0][0]) == (state["bid1Price"], state["ask1Price"])
            assert float(book["b"][0][0]) < float(trade["p"]) < float(book["a"][0][0])


@pytest.mark.parametrize(
    ("path", "message", "expected"),
    [
        (
            "linear",
            {"op": "ping", "req_id": "7"},
            {"success": True, "ret_msg": "pong", "op": "ping", "req_id": "7"},
        ),
        ("linear", {"op": "ping"}, {"success": True, "ret_msg": "pong", "op": "ping", "req_id": ""}),
        ("spot", {"op": "ping"}, {"success": True, "ret_msg": "pong", "op": "ping"}),
        (
            "linear",
            {"op": "subscribe", "req_id": 3, "args": ["tickers.BTCUSDT"]},
            {"success": True, "ret_msg": "", "req_id": 3},
        ),
        ("spot", {"op": "subscribe", "args": ["tickers.BTCUSDT"]}, {"success": True, "ret_msg": "subscribe"}),
        (
            "linear",
            {"op": "unsubscribe", "args": ["tickers.BTCUSDT"]},
            {"success": True, "op": "unsubscribe"},
        ),
        (
            "linear",
            {"op": "subscribe", "args": ["x.NOPE"]},
            {"success": False, "ret_msg": "error:handler not found,topic:x.NOPE"},
        ),
        ("linear", {"op": "subscribe", "args": ["kline.7.BTCUSDT"]}, {"success": False}),
        ("linear", {"op": "subscribe", "args": []}, {"success": False}),
        ("inverse", {"op": "subscribe", "args": ["tickers.BTCUSDT"]}, {"success": False}),
        (
            "spot",
            {"op": "subscribe", "args": ["tickers.BTCUSDT"] * 11},
            {"success": False, "ret_msg": "args size >10"},
        ),
        ("linear", {"op": "dance"}, {"success": False, "ret_msg": "error:invalid op"}),
    ],
)
async def test_responses_on_the_public_socket(
    play: Any, path: str, message: dict[str, Any], expected: dict[str, Any]
) -> None:
    async with play() as client, client.socket(f"/v5/public/{path}") as socket:
        await socket.send(**message)
        response = await socket.next(lambda m: "topic" not in m)
        assert expected.items() <= response.items()
        assert response["conn_id"]


async def test_connection_survives_invalid_messages_rejections_and_pings(play: Any) -> None:
    async with play() as client, client.socket("/v5/public/linear") as socket:
        await socket.raw.send_str("not json")
        assert not (await socket.next())["success"]
        await socket.send(op="subscribe", args=["tickers.NOPE"])
        assert not (await socket.next())["success"]
        await socket.raw.ping(b"are you there")
        await socket.send(op="subscribe", args=["publicTrade.BTCUSDT"])
        assert (await socket.next(lambda m: "topic" not in m))["success"]
        await socket.send(op="subscribe", args=["publicTrade.BTCUSDT"])
        again = await socket.next(lambda m: "topic" not in m)
        assert again["ret_msg"] == "error:already subscribed,topic:publicTrade.BTCUSDT"
        assert await socket.item("publicTrade.BTCUSDT")


async def test_no_messages_after_unsubscribing(play: Any) -> None:
    async with (
        play() as client,
        client.socket("/v5/public/linear", "publicTrade.BTCUSDT", "tickers.BTCUSDT") as socket,
    ):
        await socket.item("publicTrade.BTCUSDT")
        await socket.send(op="unsubscribe", args=["publicTrade.BTCUSDT"])
        await socket.next(lambda m: m.get("op") == "unsubscribe")
        topics = {(await socket.next())["topic"] for _ in range(8)}
        assert topics == {"tickers.BTCUSDT"}


async def test_market_stops_or_loops_at_the_end_of_the_file(play: Any) -> None:
    async with play(CLOSES[:6], history_bars=2, speed=6_000.0) as client:
        await client.sandbox.ended()
        state = await (await client.session.get(f"{client.sandbox.rest_url}/_sandbox/state")).json()
        assert state["ended"]
        assert state["symbols"]["BTCUSDT"]["last"] == CLOSES[5]
    async with (
        play(CLOSES[:6], history_bars=2, speed=6_000.0, loop=True) as client,
        client.socket("/v5/public/linear", "kline.1.BTCUSDT") as socket,
    ):
        starts = [
            (await socket.item("kline.1.BTCUSDT", lambda item: item["confirm"]))["start"] for _ in range(9)
        ]
        assert [b - a for a, b in pairwise(starts)] == [60_000] * 8


async def test_ticker_is_the_same_json_for_a_plain_http_client(play: Any) -> None:
    async with play() as client, aiohttp.ClientSession() as session:
        async with session.get(
            f"{client.sandbox.rest_url}/v5/market/tickers?category=linear&symbol=BTCUSDT"
        ) as response:
            assert response.content_type == "application/json"
            item = json.loads(await response.text())["result"]["list"][0]
        assert all(isinstance(value, str) for value in item.values())
