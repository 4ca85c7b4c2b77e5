"""Orders through the signed REST endpoints: what is refused, how the others live and end."""

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
async def test_orders_that_are_refused(play: Any, fields: dict[str, Any], code: int) -> None:
    async with play() as trader:
        answer = await trader.order(**fields)
        assert (answer["status"], answer["retCode"], answer["result"]) == (200, code, {})
        assert answer["retMsg"]
        assert (await trader.wallet())["totalEquity"] == "10000"


async def test_a_market_order_fills_in_two_parts_after_its_acknowledgement(play: Any) -> None:
    async with (
        play() as trader,
        trader.socket("/v5/private", "order", "execution", "position", "wallet") as socket,
    ):
        order_id = await trader.placed()
        states = [(await socket.item("order"))["orderStatus"] for _ in range(3)]
        assert states == ["New", "PartiallyFilled", "Filled"]
        order = await trader.look(order_id)
        fills = (await trader.get("/v5/execution/list", category="linear", orderId=order_id))["result"][
            "list"
        ]
        assert [fill["execQty"] for fill in fills] == ["0.005", "0.005"]
        assert [fill["leavesQty"] for fill in fills] == ["0", "0.005"]  # newest first
        assert len({fill["execId"] for fill in fills}) == 2
        assert (order["cumExecQty"], order["leavesQty"]) == ("0.01", "0")
        assert (
            float(order["avgPrice"]) == float(fills[0]["execPrice"]) == pytest.approx(50_002.5, abs=5.1)
        )  # half the spread up
        assert float(order["price"]) > 52_000  # the cap, not the fill
        position = await trader.position()
        assert (position["side"], position["size"], position["avgPrice"]) == (
            "Buy",
            "0.01",
            order["avgPrice"],
        )


async def test_a_limit_rests_is_amended_and_is_filled_as_maker_when_the_price_comes(
    play: Any, rising: list[float]
) -> None:
    async with play(rising, history_bars=45) as trader:
        order_id = await trader.placed(side="Sell", orderType="Limit", price="54000", orderLinkId="mine")
        assert (await trader.look(order_id))["orderStatus"] == "New"
        amended = await trader.post(
            "/v5/order/amend",
            category="linear",
            symbol="BTCUSDT",
            orderLinkId="mine",
            price="51000",
            qty="0.02",
        )
        assert amended["result"]["orderId"] == order_id
        order = await trader.until(order_id, "Filled")
        fill = (await trader.get("/v5/execution/list", category="linear", orderId=order_id))["result"][
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
        ({"orderId": "nobody"}, 110001),
        ({"orderLinkId": "mine", "price": "49000"}, 10001),  # unchanged
        ({"orderLinkId": "mine", "price": "49000.01"}, 10001),
        ({"orderLinkId": "mine", "qty": "0.0001"}, 10001),
        ({"orderLinkId": "mine", "qty": "90"}, 110007),
        ({"orderLinkId": "mine", "symbol": "NOPE"}, 10001),
        ({}, 10001),
    ],
)
async def test_amendments_that_are_refused_change_nothing(
    play: Any, changes: dict[str, str], code: int
) -> None:
    async with play() as trader:
        order_id = await trader.placed(**LIMIT, orderLinkId="mine")
        before = await trader.look(order_id)
        answer = await trader.post(
            "/v5/order/amend", **({"category": "linear", "symbol": "BTCUSDT"} | changes)
        )
        assert answer["retCode"] == code
        after = await trader.look(order_id)
        assert (after["price"], after["qty"], after["orderStatus"]) == (before["price"], before["qty"], "New")


@pytest.mark.parametrize(
    ("category", "code", "status"), [("linear", 110001, "Cancelled"), ("spot", 170213, "Cancelled")]
)
async def test_an_order_is_cancelled_once(play: Any, category: str, code: int, status: str) -> None:
    async with play() as trader:
        order_id = await trader.placed(category=category, **LIMIT)
        named = {"category": category, "symbol": "BTCUSDT", "orderId": order_id}
        assert (await trader.post("/v5/order/cancel", **named))["result"]["orderId"] == order_id
        order = await trader.look(order_id, category)
        assert (order["orderStatus"], order["cancelType"], order["rejectReason"]) == (
            status,
            "CancelByUser",
            "EC_PerCancelRequest",
        )
        assert (await trader.post("/v5/order/cancel", **named))["retCode"] == code


@pytest.mark.parametrize(("category", "code"), [("linear", 110072), ("spot", 170141)])
async def test_a_client_order_id_is_good_for_one_order(play: Any, category: str, code: int) -> None:
    async with play() as trader:
        first = await trader.placed(category=category, **LIMIT, orderLinkId="once")
        assert (await trader.order(category=category, **LIMIT, orderLinkId="once"))["retCode"] == code
        found = await trader.get(
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
    async with play() as trader, trader.socket("/v5/private", "order") as socket:
        order_id = await trader.placed(**fields)
        assert (await socket.item("order"))["orderStatus"] == "New"  # accepted first, whatever comes
        order = await trader.until(order_id, status)
        assert order["rejectReason"] == reason


async def test_a_thin_market_leaves_a_market_order_cancelled_with_its_fills(play: Any) -> None:
    async with play(participation=0.001) as trader:
        order = await trader.until(await trader.placed(qty="0.5"), "Cancelled")
        assert order["rejectReason"] in ("EC_CancelForNoFullFill", "EC_NoImmediateQtyToFill")
        assert Decimal(order["cumExecQty"]) <= Decimal("0.012")  # a thousandth of the bar's volume
        assert (await trader.position())["size"] == order["cumExecQty"]


async def test_a_reduction_is_cut_to_the_position_and_refused_without_one(play: Any) -> None:
    async with play() as trader:
        await trader.until(await trader.placed(qty="0.03"), "Filled")
        closing = await trader.until(await trader.placed(side="Sell", qty="5", reduceOnly=True), "Filled")
        assert (closing["qty"], (await trader.position())["size"]) == ("0.03", "0")
        assert (await trader.order(side="Sell", reduceOnly=True))["retCode"] == 110017
        closed = (await trader.get("/v5/position/closed-pnl", category="linear"))["result"]["list"]
        wallet = await trader.wallet()
        assert float(wallet["totalWalletBalance"]) == pytest.approx(
            10_000 + sum(float(row["closedPnl"]) for row in closed), abs=1e-6
        )


async def test_cancel_all_takes_a_symbol_or_a_settle_coin_and_lists_what_it_took(play: Any) -> None:
    async with play() as trader:
        ids = {await trader.placed(**LIMIT) for _ in range(3)}
        assert (await trader.post("/v5/order/cancel-all", category="linear"))["retCode"] == 10001
        answer = await trader.post("/v5/order/cancel-all", category="linear", settleCoin="USDT")
        assert {item["orderId"] for item in answer["result"]["list"]} == ids
        assert (await trader.get("/v5/order/realtime", category="linear", symbol="BTCUSDT"))["result"][
            "list"
        ] == []
        history = await trader.get("/v5/order/history", category="linear", orderStatus="Cancelled")
        assert {order["orderId"] for order in history["result"]["list"]} == ids


async def test_a_batch_is_refused_order_by_order(play: Any) -> None:
    async with play() as trader:
        good = {"symbol": "BTCUSDT", "side": "Buy", "orderType": "Limit", "qty": "0.01", "price": "49000"}
        answer = await trader.post(
            "/v5/order/create-batch", category="linear", request=[good, good | {"qty": "0.0001"}, good]
        )
        assert [item["code"] for item in answer["retExtInfo"]["list"]] == [0, 10001, 0]
        assert [bool(item["orderId"]) for item in answer["result"]["list"]] == [True, False, True]


async def test_a_batch_has_a_largest_size(play: Any) -> None:
    async with play() as trader:
        order = {"symbol": "BTCUSDT", "side": "Buy", "orderType": "Limit", "qty": "0.001", "price": "49000"}
        too_many = await trader.post("/v5/order/create-batch", category="spot", request=[order] * 11)
        assert too_many["retCode"] == 10001
        twenty = await trader.post("/v5/order/create-batch", category="linear", request=[order] * 20)
        assert [item["code"] for item in twenty["retExtInfo"]["list"]] == [0] * 20


async def test_history_pages_through_all_orders_newest_first(play: Any) -> None:
    async with play() as trader:
        ids = [await trader.placed(**LIMIT) for _ in range(5)]
        seen, cursor = [], ""
        while True:
            page = await trader.get(
                "/v5/order/realtime", category="linear", symbol="BTCUSDT", limit=2, cursor=cursor
            )
            seen += [order["orderId"] for order in page["result"]["list"]]
            if not (cursor := page["result"]["nextPageCursor"]):
                break
        assert seen == ids[::-1]


# -- triggers --------------------------------------------------------------------------------------------------------


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
async def test_a_conditional_order_waits_for_its_trigger(
    play: Any, rising: list[float], fields: dict[str, Any], end: str
) -> None:
    category = str(fields.get("category", "linear"))
    async with play(rising, history_bars=45) as trader, trader.socket("/v5/private", "order") as socket:
        order_id = await trader.placed(**fields)
        first = await socket.item("order")
        assert (first["orderStatus"], first["triggerPrice"], first["triggerDirection"]) == (
            "Untriggered",
            "51000",
            1,
        )
        assert (await socket.item("order"))["orderStatus"] == "Triggered"
        order = await trader.until(order_id, end, category=category)
        if end == "Filled":
            assert float(order["avgPrice"]) >= 51_000


async def test_a_conditional_order_is_deactivated_by_cancelling_it(play: Any) -> None:
    async with play() as trader:
        order_id = await trader.placed(triggerPrice="51000", triggerDirection=1)
        waiting = await trader.get(
            "/v5/order/realtime", category="linear", symbol="BTCUSDT", orderFilter="StopOrder"
        )
        assert [order["orderId"] for order in waiting["result"]["list"]] == [order_id]
        await trader.post(
            "/v5/order/amend", category="linear", symbol="BTCUSDT", orderId=order_id, triggerPrice="52000"
        )
        assert (await trader.look(order_id))["triggerPrice"] == "52000"
        await trader.post("/v5/order/cancel", category="linear", symbol="BTCUSDT", orderId=order_id)
        assert (await trader.look(order_id))["orderStatus"] == "Deactivated"


@pytest.mark.parametrize(
    ("direction", "kind", "profitable"), [("rising", "TakeProfit", True), ("falling", "StopLoss", False)]
)
async def test_a_protected_entry_is_closed_by_one_of_its_two_orders(
    play: Any, request: pytest.FixtureRequest, direction: str, kind: str, profitable: bool
) -> None:
    async with play(request.getfixturevalue(direction), history_bars=40) as trader:
        await trader.until(await trader.placed(takeProfit="51000", stopLoss="49000"), "Filled")
        position = await trader.position()
        assert (position["takeProfit"], position["stopLoss"]) == ("51000", "49000")
        listed = (await trader.get("/v5/order/realtime", category="linear", symbol="BTCUSDT"))["result"][
            "list"
        ]
        protection = {order["stopOrderType"]: order["orderId"] for order in listed}
        assert set(protection) == {"TakeProfit", "StopLoss"}
        await trader.until(protection.pop(kind), "Filled")
        assert (await trader.look(next(iter(protection.values()))))["orderStatus"] == "Deactivated"
        position = await trader.position()
        assert (position["size"], position["takeProfit"], position["stopLoss"]) == ("0", "0", "0")
        closed = (await trader.get("/v5/position/closed-pnl", category="linear"))["result"]["list"][0]
        assert (float(closed["closedPnl"]) > 0) is profitable


async def test_trading_stop_sets_moves_and_takes_back(play: Any) -> None:
    async with play() as trader:
        where = {"category": "linear", "symbol": "BTCUSDT", "positionIdx": 0}
        # no position
        assert (await trader.post("/v5/position/trading-stop", **where, stopLoss="49000"))["retCode"] == 10001
        await trader.until(await trader.placed(), "Filled")
        for price in ("49000", "49500", "0"):
            assert (await trader.post("/v5/position/trading-stop", **where, stopLoss=price))["retCode"] == 0
            assert (await trader.position())["stopLoss"] == price
        assert (await trader.post("/v5/position/trading-stop", **where, stopLoss="60000"))["retCode"] == 10001
        assert (await trader.get("/v5/order/realtime", category="linear", symbol="BTCUSDT"))["result"][
            "list"
        ] == []


async def test_a_trailing_stop_follows_and_closes(play: Any) -> None:
    up_and_down = (
        [50_000.0] * 50 + [50_000.0 + 100 * n for n in range(30)] + [53_000.0 - 100 * n for n in range(200)]
    )
    async with play(up_and_down, history_bars=40) as trader, trader.socket("/v5/private", "order") as socket:
        await trader.until(await trader.placed(), "Filled")
        stop = await trader.post(
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
        assert (await trader.position())["size"] == "0"


# -- positions and modes ---------------------------------------------------------------------------------------------


async def test_leverage_is_set_once_and_sizes_the_margin(play: Any) -> None:
    async with play() as trader:
        where = {"category": "linear", "symbol": "BTCUSDT"}
        for leverage, code in (("10", 110043), ("4", 0), ("4", 110043), ("101", 110013), ("0.5", 110013)):
            answer = await trader.post(
                "/v5/position/set-leverage", **where, buyLeverage=leverage, sellLeverage=leverage
            )
            assert answer["retCode"] == code
        uneven = await trader.post("/v5/position/set-leverage", **where, buyLeverage="2", sellLeverage="3")
        assert uneven["retCode"] == 10001
        assert (await trader.order(qty="0.9"))["retCode"] == 110007
        await trader.until(await trader.placed(qty="0.4"), "Filled")
        position, coin = await trader.position(), await trader.coin()
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
async def test_position_modes_are_switched(
    play: Any, requests: list[dict[str, Any]], codes: list[int]
) -> None:
    async with play() as trader:
        answers = [
            await trader.post("/v5/position/switch-mode", category="linear", **request)
            for request in requests
        ]
        assert [answer["retCode"] for answer in answers] == codes


async def test_in_hedge_mode_long_and_short_live_side_by_side(play: Any) -> None:
    async with play() as trader:
        await trader.post("/v5/position/switch-mode", category="linear", symbol="BTCUSDT", mode=3)
        assert (await trader.order())["retCode"] == 10001  # needs an index now
        await trader.until(await trader.placed(positionIdx=1, qty="0.02"), "Filled")
        await trader.until(await trader.placed(positionIdx=2, side="Sell", qty="0.03"), "Filled")
        rows = (await trader.get("/v5/position/list", category="linear", symbol="BTCUSDT"))["result"]["list"]
        assert [(row["positionIdx"], row["side"], row["size"]) for row in rows] == [
            (1, "Buy", "0.02"),
            (2, "Sell", "0.03"),
        ]
        blocked = await trader.post("/v5/position/switch-mode", category="linear", symbol="BTCUSDT", mode=0)
        assert blocked["retCode"] == 110024
        # closes the long, opens nothing
        await trader.until(await trader.placed(positionIdx=1, side="Sell", qty="1"), "Filled")
        rows = (await trader.get("/v5/position/list", category="linear", settleCoin="USDT"))["result"]["list"]
        assert [(row["positionIdx"], row["size"]) for row in rows] == [(2, "0.03")]


async def test_a_position_beyond_its_margin_is_liquidated(play: Any, falling: list[float]) -> None:
    async with play(falling, history_bars=40) as trader, trader.socket("/v5/private", "execution") as socket:
        where = {"category": "linear", "symbol": "BTCUSDT"}
        await trader.post("/v5/position/set-leverage", **where, buyLeverage="50", sellLeverage="50")
        await trader.until(await trader.placed(qty="6"), "Filled")
        stated = float((await trader.position())["liqPrice"])
        bust = await socket.item("execution", lambda execution: execution["execType"] == "BustTrade")
        assert float(bust["execPrice"]) == pytest.approx(stated, rel=0.005)
        assert (await trader.position())["size"] == "0"
        assert 0 <= Decimal((await trader.wallet())["totalEquity"]) < 3_000


async def test_funding_is_paid_at_the_stamp_by_what_is_held(play: Any) -> None:
    hours = [50_000.0] * 700
    async with (
        play(hours, speed=6_000.0, history_bars=10, loop=True) as trader,
        trader.socket("/v5/private", "execution") as socket,
    ):
        await trader.until(await trader.placed(qty="0.1"), "Filled")
        paid = await socket.item("execution", lambda execution: execution["execType"] == "Funding")
        assert int(paid["execTime"]) % (8 * 3_600_000) == 0
        assert float(paid["execFee"]) == pytest.approx(0.1 * float(paid["markPrice"]) * 0.0001)


# -- the trade socket and the private one ----------------------------------------------------------------------------


async def test_orders_by_message_and_by_rest_are_the_same_orders(play: Any) -> None:
    async with play() as trader, trader.socket("/v5/trade") as socket:
        header = {"X-BAPI-TIMESTAMP": trader.sandbox.clock.now(), "X-BAPI-RECV-WINDOW": "5000"}
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
        assert (await trader.look(order_id))["orderStatus"] == "New"
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


async def test_private_topics_come_whole_or_by_category(play: Any) -> None:
    async with play() as trader, trader.socket("/v5/private", "order.spot", "execution.fast") as socket:
        await trader.placed()
        assert set(await socket.item("execution.fast")) >= {
            "execId",
            "execPrice",
            "execQty",
            "orderId",
            "isMaker",
        }
        await trader.placed(category="spot", qty="500")
        order = await socket.item("order.spot")
        assert order["category"] == "spot"
        assert "tpslMode" not in order  # how clients tell it from a contract's
        await socket.send(op="ping", req_id="p")
        assert (await socket.next(lambda m: m.get("op") == "pong"))["req_id"] == "p"


async def test_spot_pays_the_buyers_fee_in_the_coin_bought(play: Any) -> None:
    async with play() as trader:
        order = await trader.until(
            await trader.placed(category="spot", qty="1000"), "Filled", category="spot"
        )
        coin = await trader.coin("BTC")
        assert order["qty"] == "1000"  # by value
        assert Decimal(coin["walletBalance"]) == Decimal(order["cumExecQty"]) * Decimal("0.999")
        fills = (await trader.get("/v5/execution/list", category="spot"))["result"]["list"]
        assert {fill["feeCurrency"] for fill in fills} == {"BTC"}
        assert Decimal((await trader.coin())["walletBalance"]) == 10_000 - Decimal(order["cumExecValue"])
        all_of_it = await trader.order(category="spot", side="Sell", qty=order["cumExecQty"])
        assert all_of_it["retCode"] == 170131  # the fee is missing
        rest = str(Decimal(coin["walletBalance"]).quantize(Decimal("0.000001"), rounding="ROUND_DOWN"))
        sold = await trader.until(
            await trader.placed(category="spot", side="Sell", qty=rest), "Filled", category="spot"
        )
        assert sold["feeCurrency"] == "USDT"


async def test_a_resting_spot_buy_locks_its_money(play: Any) -> None:
    async with play() as trader:
        order_id = await trader.placed(category="spot", orderType="Limit", price="49000", qty="0.1")
        coin = await trader.coin()
        assert (coin["locked"], coin["walletBalance"]) == ("4900", "10000")
        assert (await trader.order(category="spot", orderType="Limit", price="49000", qty="0.11"))[
            "retCode"
        ] == 170131
        await trader.post("/v5/order/cancel", category="spot", symbol="BTCUSDT", orderId=order_id)
        assert (await trader.coin())["locked"] == "0"
