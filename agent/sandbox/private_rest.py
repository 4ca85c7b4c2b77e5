"""The account over REST: orders, executions, positions, wallet. The trade WebSocket uses the same handlers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from agent.sandbox.decimals import text
from agent.sandbox.desk import Leg
from agent.sandbox.errors import Refusal, parameter
from agent.sandbox.listing import CATEGORIES, split
from agent.sandbox.orders import VenueOrder
from agent.sandbox.params import Params
from agent.sandbox.public_rest import paginate
from agent.sandbox.shapes_account import (
    closed_shape,
    execution_shape,
    order_shape,
    position_shape,
    wallet_shape,
)
from agent.sandbox.venue import Venue

Json = dict[str, Any]
Handler = Callable[[Venue, Params], Json]
_MOST_CLOSED: Final = 500
_MOST_BATCH: Final = {"linear": 20, "spot": 10}


class Endpoint(NamedTuple):
    """A private endpoint: its handler and how many requests a second it bears, for derivatives and for spot."""

    handler: Handler
    linear: int
    spot: int


# -- orders ----------------------------------------------------------------------------------------------------------


def _named(order: VenueOrder) -> Json:
    return {"orderId": order.id, "orderLinkId": order.link}


def _create(venue: Venue, params: Params) -> Json:
    return _named(venue.account.place(params))


def _amend(venue: Venue, params: Params) -> Json:
    return _named(venue.account.amend(params))


def _cancel(venue: Venue, params: Params) -> Json:
    order = venue.account.find_open(params, "cancel")
    venue.account.cancel(order)
    return _named(order)


def _cancel_all(venue: Venue, params: Params) -> Json:
    category = params.text("category", among=CATEGORIES)
    _need_scope(category, params)
    kind = params.text("orderFilter", "")
    chosen = [
        order
        for order in venue.account.open.values()
        if order.category == category
        and _in_scope(order.symbol, params)
        and kind in ("", "Order" if not order.conditional else "StopOrder")
    ]
    for order in chosen:
        venue.account.cancel(order)
    return {"list": [_named(order) for order in chosen], "success": "1"}


def _batch(handler: Handler) -> Handler:
    """Many at once: each is refused or accepted for itself, and what it came to stands in `retExtInfo`."""

    def run(venue: Venue, params: Params) -> Json:
        category = params.text("category", among=CATEGORIES)
        requests = params.raw.get("request")
        if (
            not isinstance(requests, list)
            or not requests
            or not all(isinstance(item, dict) for item in requests)
        ):
            raise parameter("params error: request must be a list of orders")
        if len(requests) > _MOST_BATCH[category]:
            raise parameter(f"params error: request holds more than {_MOST_BATCH[category]} orders")
        results, outcomes = [], []
        for raw in requests:
            named = {"orderId": "", "orderLinkId": str(raw.get("orderLinkId", ""))}
            outcome = {"code": 0, "msg": "OK"}
            try:
                named = handler(venue, Params(raw | {"category": category}))
            except Refusal as refusal:
                outcome = {"code": refusal.code, "msg": refusal.message}
            order = venue.account.orders.get(named["orderId"])
            created = str(order.created) if order else ""
            results.append(
                {"category": category, "symbol": str(raw.get("symbol", "")), **named, "createAt": created}
            )
            outcomes.append(outcome)
        return {"list": results, "_ext": {"list": outcomes}}

    return run


def _realtime(venue: Venue, params: Params) -> Json:
    category = params.text("category", among=CATEGORIES)
    named = params.text("orderId", "") or params.text("orderLinkId", "")
    if named:
        order = venue.account.find(params)
        orders = [order] if order is not None and order.category == category else []
    else:
        _need_scope(category, params)
        closed = params.integer("openOnly", 0) == 1
        pool = (
            [o for o in venue.account.orders.values() if not o.open][-_MOST_CLOSED:]
            if closed
            else venue.account.open.values()
        )
        orders = _filtered(pool, category, params)
    return _order_page(venue, category, orders, params)


def _history(venue: Venue, params: Params) -> Json:
    category = params.text("category", among=CATEGORIES)
    if params.text("orderId", "") or params.text("orderLinkId", ""):
        order = venue.account.find(params)
        orders = [order] if order is not None and order.category == category and not order.open else []
    else:
        status = params.text("orderStatus", "")
        orders = _filtered((o for o in venue.account.orders.values() if not o.open), category, params)
        orders = [
            order for order in orders if status in ("", order.status) and _in_time(order.created, params)
        ]
    return _order_page(venue, category, orders, params)


def _filtered(pool: Iterable[VenueOrder], category: str, params: Params) -> list[VenueOrder]:
    kind = params.text("orderFilter", "")
    return [
        order
        for order in pool
        if order.category == category
        and _in_scope(order.symbol, params)
        and (not kind or (kind == "Order") == (order.trigger is None))
    ]


def _lag(venue: Venue, path: str) -> int:
    """What is newer than this isn't listed yet, UTC ms: the venue's views follow what has happened."""
    lags = [fault.ms for fault in venue.faults.strike(f"rest/v5/{path}", "lag")]
    return venue.market.clock.now() - round(max(lags) * venue.options.speed) if lags else 1 << 62


def _order_page(venue: Venue, category: str, orders: list[VenueOrder], params: Params) -> Json:
    newest = _lag(venue, "order/list")
    orders = [order for order in orders if order.created <= newest]
    page, cursor = paginate(
        [order_shape(order, venue.account) for order in reversed(orders)], params, default=20, most=50
    )
    return {"category": category, "list": page, "nextPageCursor": cursor}


def _executions(venue: Venue, params: Params) -> Json:
    category = params.text("category", among=CATEGORIES)
    order = (
        venue.account.find(params) if params.text("orderId", "") or params.text("orderLinkId", "") else None
    )
    kind = params.text("execType", "")
    newest = _lag(venue, "execution/list")
    rows = [
        execution_shape(execution)
        for execution in reversed(venue.account.executions)
        if execution.category == category
        and execution.time <= newest
        and _in_scope(execution.symbol, params)
        and (order is None or execution.order is order)
        and kind in ("", execution.kind)
        and _in_time(execution.time, params)
    ]
    page, cursor = paginate(rows, params, default=50, most=100)
    return {"category": category, "list": page, "nextPageCursor": cursor}


# -- positions -------------------------------------------------------------------------------------------------------


def _legs(venue: Venue, symbol: str) -> tuple[Leg, ...]:
    """The rows of a symbol: one, or in hedge mode the long and the short one."""
    legs = venue.account.desks["linear"].legs[symbol]
    return legs[1:] if symbol in venue.account.hedged else legs[:1]


def _positions(venue: Venue, params: Params) -> Json:
    category = params.text("category", among=("linear", "inverse", "option"))
    symbol = params.text("symbol", "")
    legs: list[Leg] = []
    if category == "linear":
        _need_scope(category, params)
        if symbol:
            venue.listing.instrument("linear", symbol)
        chosen = [name for name in venue.listing.symbols if _in_scope(name, params)]
        legs = [leg for name in chosen for leg in _legs(venue, name) if symbol or leg.held.qty]
    page, cursor = paginate(
        [position_shape(leg, venue.account, stream=False) for leg in legs], params, default=20, most=200
    )
    return {"category": category, "list": page, "nextPageCursor": cursor}


def _set_leverage(venue: Venue, params: Params) -> Json:
    symbol = params.text("symbol")
    rules = venue.listing.instrument(params.text("category"), symbol)
    buy, sell = params.positive("buyLeverage"), params.positive("sellLeverage")
    if buy is None or buy != sell:
        raise parameter("buy leverage not equal sell leverage")
    if not 1 <= buy <= rules.max_leverage:
        raise Refusal(
            110013, f"cannot set leverage [{buy}] gt maxLeverage [{rules.max_leverage}] by risk limit"
        )
    desk = venue.account.desks["linear"]
    if all(desk.leverage(leg) == buy for leg in desk.legs[symbol]):
        raise Refusal(110043, "leverage not modified")
    desk.set_leverage(symbol, buy)
    return {}


def _switch_mode(venue: Venue, params: Params) -> Json:
    mode = params.text("mode", among=("0", "3"))
    symbol = params.text("symbol", "")
    if not symbol and not params.text("coin", ""):
        raise parameter("params error: symbol or coin is required")
    account = venue.account
    chosen = (
        {symbol}
        if symbol
        else {name for name in venue.listing.symbols if split(name)[1] == params.text("coin", "")}
    )
    changed = {name for name in chosen if (name in account.hedged) != (mode == "3")}
    for name in changed:
        venue.listing.instrument("linear", name)
        if any(leg.held.qty for leg in account.desks["linear"].legs[name]):
            raise Refusal(110024, "You have an existing position, so position mode cannot be switched")
        if any(order.category == "linear" and order.symbol == name for order in account.open.values()):
            raise Refusal(110028, "You have existing open orders, so position mode cannot be switched")
    if symbol and not changed:
        raise Refusal(110025, "Position mode is not modified")
    account.hedged ^= changed
    return {}


def _trading_stop(venue: Venue, params: Params) -> Json:
    symbol = params.text("symbol")
    venue.listing.instrument(params.text("category"), symbol)
    index = params.integer("positionIdx", 0, high=2)
    leg = venue.account.desks["linear"].legs[symbol][index]
    partial = params.text("tpslMode", "Full") == "Partial"
    prices = {"TakeProfit": params.decimal("takeProfit"), "StopLoss": params.decimal("stopLoss")}
    sizes = {"TakeProfit": params.positive("tpSize"), "StopLoss": params.positive("slSize")}
    trailing = params.decimal("trailingStop")
    if all(value is None for value in (*prices.values(), trailing)):
        raise parameter("params error: takeProfit, stopLoss or trailingStop is required")
    venue.account.triggers.set(leg, prices, trailing, sizes if partial else dict.fromkeys(sizes))
    return {}


def _closed_pnl(venue: Venue, params: Params) -> Json:
    category, symbol = params.text("category", among=CATEGORIES), params.text("symbol", "")
    closed = [
        c
        for c in reversed(venue.account.closed)
        if symbol in ("", c.order.symbol) and _in_time(c.time, params)
    ]
    page, cursor = paginate([closed_shape(item) for item in closed], params, default=50, most=100)
    return {"category": category, "list": page, "nextPageCursor": cursor}


# -- account ---------------------------------------------------------------------------------------------------------


def _wallet_balance(venue: Venue, params: Params) -> Json:
    if params.text("accountType") != "UNIFIED":
        raise parameter("accountType only support UNIFIED.")
    coins = tuple(coin for coin in params.text("coin", "").split(",") if coin)
    return {"list": [wallet_shape(venue.account, coins)]}


def _account_info(venue: Venue, params: Params) -> Json:  # noqa: ARG001
    return {
        "unifiedMarginStatus": 5,
        "marginMode": venue.account.margin_mode,
        "isMasterTrader": False,
        "spotHedgingStatus": "OFF",
        "dcpStatus": "OFF",
        "timeWindow": 0,
        "smpGroup": 0,
        "updatedTime": str(venue.now()),
    }


def _set_margin_mode(venue: Venue, params: Params) -> Json:
    venue.account.margin_mode = params.text(
        "setMarginMode", among=("REGULAR_MARGIN", "ISOLATED_MARGIN", "PORTFOLIO_MARGIN")
    )
    return {"reasons": []}


def _fee_rate(venue: Venue, params: Params) -> Json:
    category = params.text("category", "linear", among=CATEGORIES)
    symbol, base = params.text("symbol", ""), params.text("baseCoin", "")
    if symbol:
        venue.listing.instrument(category, symbol)
    rows = [
        {
            "symbol": name,
            "baseCoin": "",
            "takerFeeRate": text(rules.taker_fee),
            "makerFeeRate": text(rules.maker_fee),
        }
        for name, rules in venue.listing.instruments[category].items()
        if symbol in ("", name) and base in ("", split(name)[0])
    ]
    return {"category": category, "list": rows}


def _query_api(venue: Venue, params: Params) -> Json:  # noqa: ARG001
    granted = {
        "ContractTrade": ["Order", "Position"], "Spot": ["SpotTrade"], "Wallet": ["AccountTransfer"], "Options": [], "Derivatives": [],
        "CopyTrading": [], "BlockTrade": [], "Exchange": [], "NFT": [], "Affiliate": [], "Earn": [],
    }  # fmt: skip
    return {
        "id": "1",
        "note": "sandbox",
        "apiKey": venue.options.api_key,
        "readOnly": 0,
        "secret": "",
        "permissions": granted,
        "ips": ["*"],
        "type": 1,
        "deadlineDay": -2,
        "expiredAt": "",
        "createdAt": "2024-01-01T00:00:00Z",
        "unified": 0,
        "uta": 1,
        "userID": 1,
        "inviterID": 0,
        "vipLevel": "No VIP",
        "mktMakerLevel": "0",
        "affiliateID": 0,
        "rsaPublicKey": "",
        "isMaster": True,
        "parentUid": "0",
        "kycLevel": "LEVEL_DEFAULT",
        "kycRegion": "",
    }


def _coins(venue: Venue, params: Params) -> Json:
    wanted = params.text("coin", "")
    rows = [
        {
            "name": coin,
            "coin": coin,
            "remainAmount": "1000000",
            "chains": [
                {
                    "chainType": coin,
                    "confirmation": "1",
                    "withdrawFee": "0",
                    "depositMin": "0",
                    "withdrawMin": "0",
                    "chain": coin,
                    "chainDeposit": "0",
                    "chainWithdraw": "0",
                    "minAccuracy": "8",
                    "withdrawPercentageFee": "0",
                    "contractAddress": "",
                    "safeConfirmNumber": "1",
                }
            ],
        }
        for coin in venue.listing.coins
        if wanted in ("", coin)
    ]
    return {"rows": rows}


# -- what requests share ---------------------------------------------------------------------------------------------


def _need_scope(category: str, params: Params) -> None:
    if category == "linear" and not any(
        params.text(name, "") for name in ("symbol", "settleCoin", "baseCoin")
    ):
        raise parameter("Missing some parameters that must be filled in, symbol or settleCoin or baseCoin")


def _in_scope(symbol: str, params: Params) -> bool:
    base, quote = split(symbol)
    stated = (
        (params.text("symbol", ""), symbol),
        (params.text("baseCoin", ""), base),
        (params.text("settleCoin", ""), quote),
    )
    return all(wanted in ("", has) for wanted, has in stated)


def _in_time(moment: int, params: Params) -> bool:
    since, until = params.moment("startTime"), params.moment("endTime")
    return (since is None or moment >= since) and (until is None or moment <= until)


PRIVATE: Final[dict[tuple[str, str], Endpoint]] = {
    ("POST", "/v5/order/create"): Endpoint(_create, 10, 20),
    ("POST", "/v5/order/amend"): Endpoint(_amend, 10, 10),
    ("POST", "/v5/order/cancel"): Endpoint(_cancel, 10, 20),
    ("POST", "/v5/order/cancel-all"): Endpoint(_cancel_all, 10, 20),
    ("POST", "/v5/order/create-batch"): Endpoint(_batch(_create), 10, 20),
    ("POST", "/v5/order/amend-batch"): Endpoint(_batch(_amend), 10, 20),
    ("POST", "/v5/order/cancel-batch"): Endpoint(_batch(_cancel), 10, 20),
    ("GET", "/v5/order/realtime"): Endpoint(_realtime, 50, 50),
    ("GET", "/v5/order/history"): Endpoint(_history, 50, 50),
    ("GET", "/v5/execution/list"): Endpoint(_executions, 50, 50),
    ("GET", "/v5/position/list"): Endpoint(_positions, 50, 50),
    ("POST", "/v5/position/set-leverage"): Endpoint(_set_leverage, 10, 10),
    ("POST", "/v5/position/switch-mode"): Endpoint(_switch_mode, 10, 10),
    ("POST", "/v5/position/trading-stop"): Endpoint(_trading_stop, 10, 10),
    ("GET", "/v5/position/closed-pnl"): Endpoint(_closed_pnl, 50, 50),
    ("GET", "/v5/account/wallet-balance"): Endpoint(_wallet_balance, 50, 50),
    ("GET", "/v5/account/info"): Endpoint(_account_info, 50, 50),
    ("POST", "/v5/account/set-margin-mode"): Endpoint(_set_margin_mode, 10, 10),
    ("GET", "/v5/account/fee-rate"): Endpoint(_fee_rate, 5, 5),
    ("GET", "/v5/user/query-api"): Endpoint(_query_api, 10, 10),
    ("GET", "/v5/asset/coin/query-info"): Endpoint(_coins, 5, 5),
}
"""Verb and path -> the signed endpoints."""


def allowed(endpoint: Endpoint, path: str, params: Params) -> tuple[str, int]:
    """Under which name requests are counted, and how many of them a second."""
    spot = params.raw.get("category") == "spot"
    return (f"{path} spot", endpoint.spot) if spot else (path, endpoint.linear)


def weight(path: str, params: Params) -> int:
    """How many requests one counts for: a batch, for each of its orders."""
    requests = params.raw.get("request")
    return max(1, len(requests)) if path.endswith("-batch") and isinstance(requests, list) else 1
