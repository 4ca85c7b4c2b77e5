"""Orders through the signed endpoints: validation, matching, and final states."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

LIMIT = {"orderType": "Limit", "price": "49000"}
SPOT = {"category": "spot"}


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"symbol": "NOPE"}, 10001),
        ({"symbol": "NOPE", **SPOT}, 170121),
        ({"category": "inverse"}, 10001),
        ({"side": "Hold"}, 10001),
        ({"orderType": "Iceberg"}, 10001),
        ({"qty": ""}, 10001),
        ({"qty": "-1"}, 10001),
        ({"qty": "NaN"}, 10001),
        ({"qty": "0.0001"}, 10001),  # below the lot
        ({"qty": "0.0105"}, 10001),
        ({"qty": "5000"}, 10001),
        ({"qty": "100"}, 110007),
        ({"orderType": "Limit"}, 10001),  # no price
        ({"orderType": "Limit", "price": "49000.05"}, 10001),  # off the tick
        ({"orderType": "Limit", "price": "70000"}, 110003),
        ({"orderType": "Limit", "price": "30000", "side": "Sell"}, 110003),
        ({"orderType": "Limit", "price": "100", "qty": "0.001"}, 110094),
        ({"timeInForce": "SOON"}, 10001),
        ({"positionIdx": 1}, 10001),
        ({"reduceOnly": True, "side": "Sell"}, 110017),
        ({"orderLinkId": "x" * 37}, 10001),
        ({"orderLinkId": "no spaces"}, 10001),
        ({"triggerPrice": "51000"}, 10001),  # no direction
        ({"triggerPrice": "49000", "triggerDirection": 1}, 110092),
        ({"triggerPrice": "51000", "triggerDirection": 2}, 110093),
        ({"takeProfit": "40000"}, 10001),
        ({"stopLoss": "60000"}, 10001),
        ({**SPOT, "qty": "0.00000001", "marketUnit": "baseCoin"}, 170137),
        ({**SPOT, "qty": "4"}, 170140),  # four dollars
        ({**SPOT, "qty": "20000"}, 170131),
        ({**SPOT, "side": "Sell", "qty": "1"}, 170131),
        ({**SPOT, "orderType": "Limit", "price": "49000.001", "qty": "0.01"}, 170134),
        ({**SPOT, "orderType": "Limit", "price": "70000", "qty": "0.01"}, 170193),
        ({**SPOT, "orderType": "Limit", "price": "30000", "qty": "0.01", "side": "Sell"}, 170194),
    ],
)
async def test_invalid_orders_are_rejected(play: Any, fields: dict[str, Any], code: int) -> None:
    async with play() as client:
        response = await client.try_order(**fields)
        assert (response["status"], response["retCode"], response["result"]) == (200, code, {})
        assert response["retMsg"]
        assert (await client.wallet())["totalEquity"] == "10000"


async def test_market_order_fills_in_two_parts_after_its_acknowledgement(play: Any) -> None:
    async with (
        play() as client,
        client.socket("/v5/private", "order", "execution", "position", "wallet") as socket,
    ):
        order_id = await client.place_order()
        states = [(await socket.item("order"))["orderStatus"] for _ in range(3)]
        assert states == ["New", "PartiallyFilled", "Filled"]
        order = await client.fetch_order(order_id)
        fills = (await client.get("/v5/execution/list", category="linear", orderId=order_id))["result"][
            "list"
        ]
        assert [fill["execQty"] for fill in fills] == ["0.005", "0.005"]
        assert [fill["leavesQty"] for fill in fills] == ["0", "0.005"]  # newest first
        assert len({fill["execId"] for fill in fills}) == 2
        assert (order["cumExecQty"], order["leavesQty"]) == ("0.01", "0")
        assert (
            float(order["avgPrice"]) == float(fills[0]["execPrice"]) == pytest.approx(50_002.5, abs=5.1)
        )  # half the spread up
        assert float(order["price"]) > 52_000  # the limit price, not the fill price
        position = await client.position()
        assert (position["side"], position["size"], position["avgPrice"]) == (
            "Buy",
            "0.01",
            order["avgPrice"],
        )


async def test_limit_order_rests_is_amended_and_fills_as_maker(play: Any, rising: list[float]) -> None:
    async with play(rising, history_bars=45) as client:
        order_id = await client.place_order(side="Sell", orderType="Limit", price="54000", orderLinkId="mine")
        assert (await client.fetch_order(order_id))["orderStatus"] == "New"
        amended = await client.post(
            "/v5/order/amend",
            category="linear",
            symbol="BTCUSDT",
            orderLinkId="mine",
            price="51000",
            qty="0.02",
        )
        assert amended["result"]["orderId"] == order_id
        order = await client.wait_for_status(order_id, "Filled")
        fill = (await client.get("/v5/execution/list", category="linear", orderId=order_id))["result"][
            "list"
        ][0]
        assert (order["qty"], order["avgPrice"], fill["isMaker"], fill["feeRate"]) == (
            "0.02",
            "51000",
            True,
            "0.0002",
        )
        assert float(fill["execFee"]) == pytest.approx(0.01 * 51_000 * 0.0002)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"orderId": "unknown"}, 110001),
        ({"orderLinkId": "mine", "price": "49000"}, 10001),  # unchanged
        ({"orderLinkId": "mine", "price": "49000.01"}, 10001),
        ({"orderLinkId": "mine", "qty": "0.0001"}, 10001),
        ({"orderLinkId": "mine", "qty": "90"}, 110007),
        ({"orderLinkId": "mine", "symbol": "NOPE"}, 10001),
        ({}, 10001),
    ],
)
async def test_rejected_amendments_change_nothing(play: Any, changes: dict[str, str], code: int) -> None:
    async with play() as client:
        order_id = await client.place_order(**LIMIT, orderLinkId="mine")
        before = await client.fetch_order(order_id)
        response = await client.post(
            "/v5/order/amend", **({"category": "linear", "symbol": "BTCUSDT"} | changes)
        )
        assert response["retCode"] == code
        after = await client.fetch_order(order_id)
        assert (after["price"], after["qty"], after["orderStatus"]) == (before["price"], before["qty"], "New")


@pytest.mark.parametrize(
    ("category", "code", "status"), [("linear", 110001, "Cancelled"), ("spot", 170213, "Cancelled")]
)
async def test_second_cancel_of_an_order_is_rejected(
    play: Any, category: str, code: int, status: str
) -> None:
    async with play() as client:
        order_id = await client.place_order(category=category, **LIMIT)
        named = {"category": category, "symbol": "BTCUSDT", "orderId": order_id}
        assert (await client.post("/v5/order/cancel", **named))["result"]["orderId"] == order_id
        order = await client.fetch_order(order_id, category)
        assert (order["orderStatus"], order["cancelType"], order["rejectReason"]) == (
            status,
            "CancelByUser",
            "EC_PerCancelRequest",
        )
        assert (await client.post("/v5/order/cancel", **named))["retCode"] == code


@pytest.mark.parametrize(("category", "code"), [("linear", 110072), ("spot", 170141)])
async def test_client_order_id_cannot_be_reused(play: Any, category: str, code: int) -> None:
    async with play() as client:
        first = await client.place_order(category=category, **LIMIT, orderLinkId="once")
        assert (await client.try_order(category=category, **LIMIT, orderLinkId="once"))["retCode"] == code
        found = await client.get(
            "/v5/order/realtime", category=category, symbol="BTCUSDT", orderLinkId="once"
        )
        assert [order["orderId"] for order in found["result"]["list"]] == [first]


@pytest.mark.parametrize(
    ("fields", "status", "reason"),
    [
        (
            {"orderType": "Limit", "price": "51000", "timeInForce": "PostOnly"},
            "Cancelled",
            "EC_PostOnlyWillTakeLiquidity",
        ),
        ({"orderType": "Limit", "price": "49000", "timeInForce": "PostOnly"}, "New", "EC_NoError"),
        (
            {"orderType": "Limit", "price": "49000", "timeInForce": "IOC"},
            "Cancelled",
            "EC_NoImmediateQtyToFill",
        ),
        (
            {"orderType": "Limit", "price": "49000", "timeInForce": "FOK"},
            "Cancelled",
            "EC_NoImmediateQtyToFill",
        ),
        ({"orderType": "Limit", "price": "51000", "timeInForce": "FOK"}, "Filled", "EC_NoError"),
        ({"orderType": "Limit", "price": "51000"}, "Filled", "EC_NoError"),
    ],
)
async def test_time_in_force(play: Any, fields: dict[str, str], status: str, reason: str) -> None:
    async with play() as client, client.socket("/v5/private", "order") as socket:
        order_id = await client.place_order(**fields)
        assert (await socket.item("order"))["orderStatus"] == "New"  # accepted before it is matched
        order = await client.wait_for_status(order_id, status)
        assert order["rejectReason"] == reason


async def test_market_order_in_a_thin_market_is_cancelled_after_partial_fills(play: Any) -> None:
    async with play(participation=0.001) as client:
        order = await client.wait_for_status(await client.place_order(qty="0.5"), "Cancelled")
        assert order["rejectReason"] in ("EC_CancelForNoFullFill", "EC_NoImmediateQtyToFill")
        assert Decimal(order["cumExecQty"]) <= Decimal("0.012")  # a thousandth of the bar's volume
        assert (await client.position())["size"] == order["cumExecQty"]


async def test_reduce_only_order_is_capped_at_the_position_and_rejected_without_one(play: Any) -> None:
    async with play() as client:
        await client.wait_for_status(await client.place_order(qty="0.03"), "Filled")
        closing = await client.wait_for_status(
            await client.place_order(side="Sell", qty="5", reduceOnly=True), "Filled"
        )
        assert (closing["qty"], (await client.position())["size"]) == ("0.03", "0")
        assert (await client.try_order(side="Sell", reduceOnly=True))["retCode"] == 110017
        closed = (await client.get("/v5/position/closed-pnl", category="linear"))["result"]["list"]
        wallet = await client.wallet()
        assert float(wallet["totalWalletBalance"]) == pytest.approx(
            10_000 + sum(float(row["closedPnl"]) for row in closed), abs=1e-6
        )


async def test_cancel_all_by_symbol_or_settle_coin_lists_the_cancelled_orders(play: Any) -> None:
    async with play() as client:
        ids = {await client.place_order(**LIMIT) for _ in range(3)}
        assert (await client.post("/v5/order/cancel-all", category="linear"))["retCode"] == 10001
        response = await client.post("/v5/order/cancel-all", category="linear", settleCoin="USDT")
        assert {item["orderId"] for item in response["result"]["list"]} == ids
        assert (await client.get("/v5/order/realtime", category="linear", symbol="BTCUSDT"))["result"][
            "list"
        ] == []
        history = await client.get("/v5/order/history", category="linear", orderStatus="Cancelled")
        assert {order["orderId"] for order in history["result"]["list"]} == ids


async def test_batch_orders_are_rejected_individually(play: Any) -> None:
    async with play() as client:
        good = {"symbol": "BTCUSDT", "side": "Buy", "orderType": "Limit", "qty": "0.01", "price": "49000"}
        response = await client.post(
            "/v5/order/create-batch", category="linear", request=[good, good | {"qty": "0.0001"}, good]
        )
        assert [item["code"] for item in response["retExtInfo"]["list"]] == [0, 10001, 0]
        assert [bool(item["orderId"]) for item in response["result"]["list"]] == [True, False, True]


async def test_batch_size_is_limited(play: Any) -> None:
    async with play() as client:
        order = {"symbol": "BTCUSDT", "side": "Buy", "orderType": "Limit", "qty": "0.001", "price": "49000"}
        too_many = await client.post("/v5/order/create-batch", category="spot", request=[order] * 11)
        assert too_many["retCode"] == 10001
        twenty = await client.post("/v5/order/create-batch", category="linear", request=[order] * 20)
        assert [item["code"] for item in twenty["retExtInfo"]["list"]] == [0] * 20


async def test_order_history_is_paged_newest_first(play: Any) -> None:
    async with play() as client:
        ids = [await client.place_order(**LIMIT) for _ in range(5)]
        seen, cursor = [], ""
        while True:
            page = await client.get(
                "/v5/order/realtime", category="linear", symbol="BTCUSDT", limit=2, cursor=cursor
            )
            seen += [order["orderId"] for order in page["result"]["list"]]
            if not (cursor := page["result"]["nextPageCursor"]):
                break
        assert seen == ids[::-1]


# -- triggers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "end"),
    [
        ({"triggerPrice": "51000", "triggerDirection": 1}, "Filled"),
        ({"triggerPrice": "51000", "triggerDirection": 1, "orderType": "Limit", "price": "55000"}, "Filled"),
        ({"triggerPrice": "51000", "triggerDirection": 1, "orderType": "Limit", "price": "49000"}, "New"),
        (
            {"triggerPrice": "51000", "triggerDirection": 1, "side": "Sell", "reduceOnly": True},
            "Cancelled",
        ),  # nothing to reduce
        ({"category": "spot", "triggerPrice": "51000", "qty": "0.01", "marketUnit": "baseCoin"}, "Filled"),
    ],
)
async def test_conditional_order_waits_for_its_trigger(
    play: Any, rising: list[float], fields: dict[str, Any], end: str
) -> None:
    category = str(fields.get("category", "linear"))
    async with play(rising, history_bars=45) as client, client.socket("/v5/private", "order") as socket:
        order_id = await client.place_order(**fields)
        first = await socket.item("order")
        assert (first["orderStatus"], first["triggerPrice"], first["triggerDirection"]) == (
            "Untriggered",
            "51000",
            1,
        )
        assert (await socket.item("order"))["orderStatus"] == "Triggered"
        order = await client.wait_for_status(order_id, end, category=category)
        if end == "Filled":
            assert float(order["avgPrice"]) >= 51_000


async def test_cancelled_conditional_order_is_deactivated(play: Any) -> None:
    async with play() as client:
        order_id = await client.place_order(triggerPrice="51000", triggerDirection=1)
        waiting = await client.get(
            "/v5/order/realtime", category="linear", symbol="BTCUSDT", orderFilter="StopOrder"
        )
        assert [order["orderId"] for order in waiting["result"]["list"]] == [order_id]
        await client.post(
            "/v5/order/amend", category="linear", symbol="BTCUSDT", orderId=order_id, triggerPrice="52000"
        )
        assert (await client.fetch_order(order_id))["triggerPrice"] == "52000"
        await client.post("/v5/order/cancel", category="linear", symbol="BTCUSDT", orderId=order_id)
        assert (await client.fetch_order(order_id))["orderStatus"] == "Deactivated"


@pytest.mark.parametrize(
    ("direction", "kind", "profitable"), [("rising", "TakeProfit", True), ("falling", "StopLoss", False)]
)
async def test_protected_entry_is_closed_by_take_profit_or_stop_loss(
    play: Any, request: pytest.FixtureRequest, direction: str, kind: str, profitable: bool
) -> None:
    async with play(request.getfixturevalue(direction), history_bars=40) as client:
        await client.wait_for_status(await client.place_order(takeProfit="51000", stopLoss="49000"), "Filled")
        position = await client.position()
        assert (position["takeProfit"], position["stopLoss"]) == ("51000", "49000")
        listed = (await client.get("/v5/order/realtime", category="linear", symbol="BTCUSDT"))["result"][
            "list"
        ]
        protection = {order["stopOrderType"]: order["orderId"] for order in listed}
        assert set(protection) == {"TakeProfit", "StopLoss"}
        await client.wait_for_status(protection.pop(kind), "Filled")
        assert (await client.fetch_order(next(iter(protection.values()))))["orderStatus"] == "Deactivated"
        position = await client.position()
        assert (position["size"], position["takeProfit"], position["stopLoss"]) == ("0", "0", "0")
        closed = (await client.get("/v5/position/closed-pnl", category="linear"))["result"]["list"][0]
        assert (float(closed["closedPnl"]) > 0) is profitable


async def test_trading_stop_sets_moves_and_removes_protection(play: Any) -> None:
    async with play() as client:
        where = {"category": "linear", "symbol": "BTCUSDT", "positionIdx": 0}
        assert (await client.post("/v5/position/trading-stop", **where, stopLoss="49000"))[
            "retCode"
        ] == 10001  # no position
        await client.wait_for_status(await client.place_order(), "Filled")
        for price in ("49000", "49500", "0"):
            assert (await client.post("/v5/position/trading-stop", **where, stopLoss=price))["retCode"] == 0
            assert (await client.position())["stopLoss"] == price
        assert (await client.post("/v5/position/trading-stop", **where, stopLoss="60000"))["retCode"] == 10001
        assert (await client.get("/v5/order/realtime", category="linear", symbol="BTCUSDT"))["result"][
            "list"
        ] == []


@pytest.mark.slow
async def test_trailing_stop_follows_the_price_and_closes_the_position(play: Any) -> None:
    up_and_down = (
        [50_000.0] * 50 + [50_000.0 + 100 * n for n in range(30)] + [53_000.0 - 100 * n for n in range(200)]
    )
    async with play(up_and_down, history_bars=40) as client, client.socket("/v5/private", "order") as socket:
        await client.wait_for_status(await client.place_order(), "Filled")
        stop = await client.post(
            "/v5/position/trading-stop",
            category="linear",
            symbol="BTCUSDT",
            positionIdx=0,
            trailingStop="600",
        )
        assert stop["retCode"] == 0
        closing = await socket.item(
            "order",
            lambda order: order["stopOrderType"] == "TrailingStop" and order["orderStatus"] == "Filled",
        )
        assert 51_500 < float(closing["avgPrice"]) < 52_600
        assert (await client.position())["size"] == "0"


@pytest.mark.slow
async def test_a_trailing_stop_waits_for_its_active_price(play: Any) -> None:
    where = {"category": "linear", "symbol": "BTCUSDT", "positionIdx": 0}
    # falls by 2,000 first, which the trailing stop of 600 ignores; above 50,500 it follows, to 52,000
    path = [50_000.0] * 60 + [50_000.0 - 100 * n for n in range(20)]
    path += [48_000.0 + 100 * n for n in range(40)] + [52_000.0 - 100 * n for n in range(200)]
    async with play(path, history_bars=40) as client, client.socket("/v5/private", "order") as socket:
        await client.wait_for_status(await client.place_order(), "Filled")
        stop = "/v5/position/trading-stop"
        for wrong in (
            {"trailingStop": "600", "activePrice": "49000"},  # below the price
            {"trailingStop": "600.05"},  # off the tick
            {"trailingStop": "60000"},
        ):
            assert (await client.post(stop, **where, **wrong))["retCode"] == 10001
        assert (await client.post(stop, **where, trailingStop="600", activePrice="50500"))["retCode"] == 0
        assert (await client.post(stop, **where, trailingStop="600"))["retCode"] == 34040
        closing = await socket.item(
            "order",
            lambda order: order["stopOrderType"] == "TrailingStop" and order["orderStatus"] == "Filled",
        )
        assert 50_800 < float(closing["avgPrice"]) < 51_500


# -- positions and modes -----------------------------------------------------------------------------------


async def test_leverage_determines_the_margin(play: Any) -> None:
    async with play() as client:
        where = {"category": "linear", "symbol": "BTCUSDT"}
        for leverage, code in (("10", 110043), ("4", 0), ("4", 110043), ("101", 110013), ("0.5", 110013)):
            response = await client.post(
                "/v5/position/set-leverage", **where, buyLeverage=leverage, sellLeverage=leverage
            )
            assert response["retCode"] == code
        uneven = await client.post("/v5/position/set-leverage", **where, buyLeverage="2", sellLeverage="3")
        assert uneven["retCode"] == 10001
        assert (await client.try_order(qty="0.9"))["retCode"] == 110007
        await client.wait_for_status(await client.place_order(qty="0.4"), "Filled")
        position, coin = await client.position(), await client.coin()
        assert position["leverage"] == "4"
        assert float(position["positionIM"]) == pytest.approx(0.4 * float(position["markPrice"]) / 4)
        assert coin["totalPositionIM"] == position["positionIM"]


@pytest.mark.parametrize(
    ("requests", "codes"),
    [
        ([{"symbol": "BTCUSDT", "mode": 0}], [110025]),
        ([{"coin": "USDT", "mode": 0}], [0]),
        (
            [
                {"symbol": "BTCUSDT", "mode": 3},
                {"symbol": "BTCUSDT", "mode": 3},
                {"symbol": "BTCUSDT", "mode": 0},
            ],
            [0, 110025, 0],
        ),
        ([{"mode": 3}], [10001]),
        ([{"symbol": "BTCUSDT", "mode": 1}], [10001]),
    ],
)
async def test_switching_position_modes(play: Any, requests: list[dict[str, Any]], codes: list[int]) -> None:
    async with play() as client:
        responses = [
            await client.post("/v5/position/switch-mode", category="linear", **request)
            for request in requests
        ]
        assert [response["retCode"] for response in responses] == codes


async def test_hedge_mode_keeps_long_and_short_positions(play: Any) -> None:
    async with play() as client:
        await client.post("/v5/position/switch-mode", category="linear", symbol="BTCUSDT", mode=3)
        assert (await client.try_order())["retCode"] == 10001  # positionIdx is required in hedge mode
        await client.wait_for_status(await client.place_order(positionIdx=1, qty="0.02"), "Filled")
        await client.wait_for_status(
            await client.place_order(positionIdx=2, side="Sell", qty="0.03"), "Filled"
        )
        rows = (await client.get("/v5/position/list", category="linear", symbol="BTCUSDT"))["result"]["list"]
        assert [(row["positionIdx"], row["side"], row["size"]) for row in rows] == [
            (1, "Buy", "0.02"),
            (2, "Sell", "0.03"),
        ]
        blocked = await client.post("/v5/position/switch-mode", category="linear", symbol="BTCUSDT", mode=0)
        assert blocked["retCode"] == 110024
        await client.wait_for_status(
            await client.place_order(positionIdx=1, side="Sell", qty="1"), "Filled"
        )  # closes the long without opening a short
        rows = (await client.get("/v5/position/list", category="linear", settleCoin="USDT"))["result"]["list"]
        assert [(row["positionIdx"], row["size"]) for row in rows] == [(2, "0.03")]


async def test_position_beyond_its_margin_is_liquidated(play: Any, falling: list[float]) -> None:
    async with play(falling, history_bars=40) as client, client.socket("/v5/private", "execution") as socket:
        where = {"category": "linear", "symbol": "BTCUSDT"}
        await client.post("/v5/position/set-leverage", **where, buyLeverage="50", sellLeverage="50")
        await client.wait_for_status(await client.place_order(qty="6"), "Filled")
        stated = float((await client.position())["liqPrice"])
        bust = await socket.item("execution", lambda execution: execution["execType"] == "BustTrade")
        assert float(bust["execPrice"]) == pytest.approx(stated, rel=0.005)
        assert (await client.position())["size"] == "0"
        assert 0 <= Decimal((await client.wallet())["totalEquity"]) < 3_000


@pytest.mark.slow
async def test_funding_is_paid_on_open_positions(play: Any) -> None:
    hours = [50_000.0] * 700
    async with (
        play(hours, speed=6_000.0, history_bars=10, loop=True) as client,
        client.socket("/v5/private", "execution") as socket,
    ):
        await client.wait_for_status(await client.place_order(qty="0.1"), "Filled")
        paid = await socket.item("execution", lambda execution: execution["execType"] == "Funding")
        assert int(paid["execTime"]) % (8 * 3_600_000) == 0
        assert float(paid["execFee"]) == pytest.approx(0.1 * float(paid["markPrice"]) * 0.0001)


# -- trade and private WebSockets --------------------------------------------------------------------------


async def test_websocket_and_rest_see_the_same_orders(play: Any) -> None:
    async with play() as client, client.socket("/v5/trade") as socket:
        header = {"X-BAPI-TIMESTAMP": client.sandbox.clock.now(), "X-BAPI-RECV-WINDOW": "5000"}
        order = {
            "category": "linear",
            "symbol": "BTCUSDT",
            "side": "Buy",
            "orderType": "Limit",
            "qty": "0.01",
            "price": "49000",
        }
        await socket.send(reqId="1", header=header, op="order.create", args=[order])
        created = await socket.next()
        assert (created["reqId"], created["retCode"], created["op"]) == ("1", 0, "order.create")
        assert {
            "X-Bapi-Limit",
            "X-Bapi-Limit-Status",
            "X-Bapi-Limit-Reset-Timestamp",
            "Traceid",
            "Timenow",
        } <= set(created["header"])
        order_id = created["data"]["orderId"]
        assert (await client.fetch_order(order_id))["orderStatus"] == "New"
        named = {"category": "linear", "symbol": "BTCUSDT", "orderId": order_id}
        for request, op, args, code in (
            ("1", "order.cancel", named, 20006),
            ("2", "order.amend", named | {"price": "48000"}, 0),
            ("3", "order.cancel", named, 0),
            ("4", "order.cancel", named, 110001),
            ("5", "order.eat", named, 10404),
            ("6" * 37, "order.cancel", named, 20003),
        ):
            await socket.send(reqId=request, header=header, op=op, args=[args])
            assert (await socket.next())["retCode"] == code
        await socket.send(reqId="7", header={"X-BAPI-TIMESTAMP": 1}, op="order.create", args=[order])
        assert (await socket.next())["retCode"] == 10002
        await socket.send(op="ping")
        assert (await socket.next())["op"] == "pong"


async def test_private_topics_are_for_all_categories_or_one(play: Any) -> None:
    async with play() as client, client.socket("/v5/private", "order.spot", "execution.fast") as socket:
        await client.place_order()
        assert set(await socket.item("execution.fast")) >= {
            "execId",
            "execPrice",
            "execQty",
            "orderId",
            "isMaker",
        }
        await client.place_order(category="spot", qty="500")
        order = await socket.item("order.spot")
        assert order["category"] == "spot"
        assert "tpslMode" not in order  # clients recognise contracts by this key
        await socket.send(op="ping", req_id="p")
        assert (await socket.next(lambda m: m.get("op") == "pong"))["req_id"] == "p"


async def test_spot_buyer_pays_the_fee_in_the_coin_bought(play: Any) -> None:
    async with play() as client:
        order = await client.wait_for_status(
            await client.place_order(category="spot", qty="1000"), "Filled", category="spot"
        )
        coin = await client.coin("BTC")
        assert order["qty"] == "1000"  # order by value
        assert Decimal(coin["walletBalance"]) == Decimal(order["cumExecQty"]) * Decimal("0.999")
        fills = (await client.get("/v5/execution/list", category="spot"))["result"]["list"]
        assert {fill["feeCurrency"] for fill in fills} == {"BTC"}
        assert Decimal((await client.coin())["walletBalance"]) == 10_000 - Decimal(order["cumExecValue"])
        all_of_it = await client.try_order(category="spot", side="Sell", qty=order["cumExecQty"])
        assert all_of_it["retCode"] == 170131  # the fee has reduced the holding
        rest = str(Decimal(coin["walletBalance"]).quantize(Decimal("0.000001"), rounding="ROUND_DOWN"))
        sold = await client.wait_for_status(
            await client.place_order(category="spot", side="Sell", qty=rest), "Filled", category="spot"
        )
        assert sold["feeCurrency"] == "USDT"


async def test_resting_spot_buy_locks_its_cost(play: Any) -> None:
    async with play() as client:
        order_id = await client.place_order(category="spot", orderType="Limit", price="49000", qty="0.1")
        coin = await client.coin()
        assert (coin["locked"], coin["walletBalance"]) == ("4900", "10000")
        assert (await client.try_order(category="spot", orderType="Limit", price="49000", qty="0.11"))[
            "retCode"
        ] == 170131
        await client.post("/v5/order/cancel", category="spot", symbol="BTCUSDT", orderId=order_id)
        assert (await client.coin())["locked"] == "0"
