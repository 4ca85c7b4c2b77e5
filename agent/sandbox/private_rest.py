"""Private REST endpoints: orders, executions, positions, wallet. The trade WebSocket uses them too."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from agent.sandbox.account_json import closed_json, execution_json, order_json, position_json, wallet_json
from agent.sandbox.bybit_errors import BybitError, parameter_error
from agent.sandbox.category_book import Leg
from agent.sandbox.json_values import Params, format_number
from agent.sandbox.listed_instruments import CATEGORIES, split_symbol
from agent.sandbox.public_rest import paginate
from agent.sandbox.sandbox_order import SandboxOrder
from agent.sandbox.sandbox_venue import SandboxVenue

Json = dict[str, Any]
Handler = Callable[[SandboxVenue, Params], Json]
ORDERS: Final = "/v5/order/"
"""Beginning of the paths of orders; a POST to them takes `order_latency`."""

_MAX_CLOSED: Final = 500
_MAX_BATCH: Final = {"linear": 20, "spot": 10}


class PrivateEndpoint(NamedTuple):
    """A private endpoint: handler, and rate limits in requests per second for derivatives and spot."""

    handler: Handler
    linear: int
    spot: int


# -- orders ------------------------------------------------------------------------------------------------


def _order_ids(order: SandboxOrder) -> Json:
    return {"orderId": order.id, "orderLinkId": order.link}


def _create(venue: SandboxVenue, params: Params) -> Json:
    return _order_ids(venue.account.place_order(params))


def _amend(venue: SandboxVenue, params: Params) -> Json:
    return _order_ids(venue.account.amend(params))


def _cancel(venue: SandboxVenue, params: Params) -> Json:
    order = venue.account.find_open(params, "cancel")
    venue.account.cancel(order)
    return _order_ids(order)


def _cancel_all(venue: SandboxVenue, params: Params) -> Json:
    category = params.text("category", among=CATEGORIES)
    _require_scope(category, params)
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
    return {"list": [_order_ids(order) for order in chosen], "success": "1"}


def _batch(handler: Handler) -> Handler:
    """Wrap a handler for batches: orders succeed or fail one by one, with results in `retExtInfo`."""

    def run(venue: SandboxVenue, params: Params) -> Json:
        category = params.text("category", among=CATEGORIES)
        requests = params.raw.get("request")
        if (
            not isinstance(requests, list)
            or not requests
            or not all(isinstance(item, dict) for item in requests)
        ):
            raise parameter_error("params error: request must be a list of orders")
        if len(requests) > _MAX_BATCH[category]:
            raise parameter_error(f"params error: request holds more than {_MAX_BATCH[category]} orders")
        results, outcomes = [], []
        for raw in requests:
            ids = {"orderId": "", "orderLinkId": str(raw.get("orderLinkId", ""))}
            outcome = {"code": 0, "msg": "OK"}
            try:
                ids = handler(venue, Params(raw | {"category": category}))
            except BybitError as error:
                outcome = {"code": error.code, "msg": error.message}
            order = venue.account.orders.get(ids["orderId"])
            created = str(order.created) if order else ""
            results.append(
                {"category": category, "symbol": str(raw.get("symbol", "")), **ids, "createAt": created}
            )
            outcomes.append(outcome)
        return {"list": results, "_ext": {"list": outcomes}}

    return run


def _realtime(venue: SandboxVenue, params: Params) -> Json:
    category = params.text("category", among=CATEGORIES)
    ids = params.text("orderId", "") or params.text("orderLinkId", "")
    if ids:
        order = venue.account.find(params)
        orders = [order] if order is not None and order.category == category else []
    else:
        _require_scope(category, params)
        closed = params.integer("openOnly", 0) == 1
        pool = (
            [o for o in venue.account.orders.values() if not o.open][-_MAX_CLOSED:]
            if closed
            else venue.account.open.values()
        )
        orders = _filtered(pool, category, params)
    return _order_page(venue, category, orders, params)


def _history(venue: SandboxVenue, params: Params) -> Json:
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


def _filtered(pool: Iterable[SandboxOrder], category: str, params: Params) -> list[SandboxOrder]:
    kind = params.text("orderFilter", "")
    return [
        order
        for order in pool
        if order.category == category
        and _in_scope(order.symbol, params)
        and (not kind or (kind == "Order") == (order.trigger is None))
    ]


def _lag(venue: SandboxVenue, path: str) -> int:
    """Return the time (UTC ms) up to which lists are complete, as lag faults set it."""
    lags = [fault.ms for fault in venue.faults.draw(f"rest/v5/{path}", "lag")]
    return venue.market.clock.now() - round(max(lags) * venue.options.speed) if lags else 1 << 62


def _order_page(venue: SandboxVenue, category: str, orders: list[SandboxOrder], params: Params) -> Json:
    newest = _lag(venue, "order/list")
    orders = [order for order in orders if order.created <= newest]
    page, cursor = paginate(
        [order_json(order, venue.account) for order in reversed(orders)], params, default=20, maximum=50
    )
    return {"category": category, "list": page, "nextPageCursor": cursor}


def _executions(venue: SandboxVenue, params: Params) -> Json:
    category = params.text("category", among=CATEGORIES)
    order = (
        venue.account.find(params) if params.text("orderId", "") or params.text("orderLinkId", "") else None
    )
    kind = params.text("execType", "")
    newest = _lag(venue, "execution/list")
    rows = [
        execution_json(execution)
        for execution in reversed(venue.account.executions)
        if execution.category == category
        and execution.time <= newest
        and _in_scope(execution.symbol, params)
        and (order is None or execution.order is order)
        and kind in ("", execution.kind)
        and _in_time(execution.time, params)
    ]
    page, cursor = paginate(rows, params, default=50, maximum=100)
    return {"category": category, "list": page, "nextPageCursor": cursor}


# -- positions ---------------------------------------------------------------------------------------------


def _legs(venue: SandboxVenue, symbol: str) -> tuple[Leg, ...]:
    """Return the positions of a symbol: one, or in hedge mode the long and the short one."""
    legs = venue.account.books["linear"].legs[symbol]
    return legs[1:] if symbol in venue.account.hedged else legs[:1]


def _positions(venue: SandboxVenue, params: Params) -> Json:
    category = params.text("category", among=("linear", "inverse", "option"))
    symbol = params.text("symbol", "")
    legs: list[Leg] = []
    if category == "linear":
        _require_scope(category, params)
        if symbol:
            venue.instruments.find("linear", symbol)
        chosen = [name for name in venue.instruments.symbols if _in_scope(name, params)]
        legs = [leg for name in chosen for leg in _legs(venue, name) if symbol or leg.held.qty]
    page, cursor = paginate(
        [position_json(leg, venue.account, stream=False) for leg in legs], params, default=20, maximum=200
    )
    return {"category": category, "list": page, "nextPageCursor": cursor}


def _set_leverage(venue: SandboxVenue, params: Params) -> Json:
    symbol = params.text("symbol")
    rules = venue.instruments.find(params.text("category"), symbol)
    buy, sell = params.positive("buyLeverage"), params.positive("sellLeverage")
    if buy is None or buy != sell:
        raise parameter_error("buy leverage not equal sell leverage")
    if not 1 <= buy <= rules.max_leverage:
        raise BybitError(
            110013, f"cannot set leverage [{buy}] gt maxLeverage [{rules.max_leverage}] by risk limit"
        )
    book = venue.account.books["linear"]
    if all(book.leverage(leg) == buy for leg in book.legs[symbol]):
        raise BybitError(110043, "leverage not modified")
    book.set_leverage(symbol, buy)
    return {}


def _switch_mode(venue: SandboxVenue, params: Params) -> Json:
    mode = params.text("mode", among=("0", "3"))
    symbol = params.text("symbol", "")
    if not symbol and not params.text("coin", ""):
        raise parameter_error("params error: symbol or coin is required")
    account = venue.account
    chosen = (
        {symbol}
        if symbol
        else {name for name in venue.instruments.symbols if split_symbol(name)[1] == params.text("coin", "")}
    )
    changed = {name for name in chosen if (name in account.hedged) != (mode == "3")}
    for name in changed:
        venue.instruments.find("linear", name)
        if any(leg.held.qty for leg in account.books["linear"].legs[name]):
            raise BybitError(110024, "You have an existing position, so position mode cannot be switched")
        if any(order.category == "linear" and order.symbol == name for order in account.open.values()):
            raise BybitError(110028, "You have existing open orders, so position mode cannot be switched")
    if symbol and not changed:
        raise BybitError(110025, "Position mode is not modified")
    account.hedged ^= changed
    return {}


def _trading_stop(venue: SandboxVenue, params: Params) -> Json:
    symbol = params.text("symbol")
    venue.instruments.find(params.text("category"), symbol)
    index = params.integer("positionIdx", 0, high=2)
    leg = venue.account.books["linear"].legs[symbol][index]
    partial = params.text("tpslMode", "Full") == "Partial"
    prices = {"TakeProfit": params.decimal("takeProfit"), "StopLoss": params.decimal("stopLoss")}
    sizes = {"TakeProfit": params.positive("tpSize"), "StopLoss": params.positive("slSize")}
    trailing, active = params.decimal("trailingStop"), params.positive("activePrice")
    if all(value is None for value in (*prices.values(), trailing)):
        raise parameter_error("params error: takeProfit, stopLoss or trailingStop is required")
    quantities = sizes if partial else dict.fromkeys(sizes)
    venue.account.triggers.set_trading_stop(leg, prices, trailing, quantities, active)
    return {}


def _closed_pnl(venue: SandboxVenue, params: Params) -> Json:
    category, symbol = params.text("category", among=CATEGORIES), params.text("symbol", "")
    closed = [
        c
        for c in reversed(venue.account.closed)
        if symbol in ("", c.order.symbol) and _in_time(c.time, params)
    ]
    page, cursor = paginate([closed_json(item) for item in closed], params, default=50, maximum=100)
    return {"category": category, "list": page, "nextPageCursor": cursor}


# -- account -----------------------------------------------------------------------------------------------


def _wallet_balance(venue: SandboxVenue, params: Params) -> Json:
    if params.text("accountType") != "UNIFIED":
        raise parameter_error("accountType only support UNIFIED.")
    coins = tuple(coin for coin in params.text("coin", "").split(",") if coin)
    return {"list": [wallet_json(venue.account, coins)]}


def _account_info(venue: SandboxVenue, params: Params) -> Json:  # noqa: ARG001
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


def _set_margin_mode(venue: SandboxVenue, params: Params) -> Json:
    venue.account.margin_mode = params.text(
        "setMarginMode", among=("REGULAR_MARGIN", "ISOLATED_MARGIN", "PORTFOLIO_MARGIN")
    )
    return {"reasons": []}


def _fee_rate(venue: SandboxVenue, params: Params) -> Json:
    category = params.text("category", "linear", among=CATEGORIES)
    symbol, base = params.text("symbol", ""), params.text("baseCoin", "")
    if symbol:
        venue.instruments.find(category, symbol)
    rows = [
        {
            "symbol": name,
            "baseCoin": "",
            "takerFeeRate": format_number(rules.taker_fee),
            "makerFeeRate": format_number(rules.maker_fee),
        }
        for name, rules in venue.instruments.by_category[category].items()
        if symbol in ("", name) and base in ("", split_symbol(name)[0])
    ]
    return {"category": category, "list": rows}


def _query_api(venue: SandboxVenue, params: Params) -> Json:  # noqa: ARG001
    unused = ("Options", "Derivatives", "CopyTrading", "BlockTrade", "Exchange", "NFT", "Affiliate", "Earn")
    granted = {"ContractTrade": ["Order", "Position"], "Spot": ["SpotTrade"], "Wallet": ["AccountTransfer"]}
    return {
        "id": "1",
        "note": "sandbox",
        "apiKey": venue.options.api_key,
        "readOnly": 0,
        "secret": "",
        "permissions": granted | {name: [] for name in unused},
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


def _coins(venue: SandboxVenue, params: Params) -> Json:
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
        for coin in venue.instruments.coins
        if wanted in ("", coin)
    ]
    return {"rows": rows}


# -- shared helpers ----------------------------------------------------------------------------------------


def _require_scope(category: str, params: Params) -> None:
    if category == "linear" and not any(
        params.text(name, "") for name in ("symbol", "settleCoin", "baseCoin")
    ):
        raise parameter_error(
            "Missing some parameters that must be filled in, symbol or settleCoin or baseCoin"
        )


def _in_scope(symbol: str, params: Params) -> bool:
    base, quote = split_symbol(symbol)
    filters = (
        (params.text("symbol", ""), symbol),
        (params.text("baseCoin", ""), base),
        (params.text("settleCoin", ""), quote),
    )
    return all(wanted in ("", has) for wanted, has in filters)


def _in_time(moment: int, params: Params) -> bool:
    since, until = params.timestamp("startTime"), params.timestamp("endTime")
    return (since is None or moment >= since) and (until is None or moment <= until)


PRIVATE: Final[dict[tuple[str, str], PrivateEndpoint]] = {
    ("POST", "/v5/order/create"): PrivateEndpoint(_create, 10, 20),
    ("POST", "/v5/order/amend"): PrivateEndpoint(_amend, 10, 10),
    ("POST", "/v5/order/cancel"): PrivateEndpoint(_cancel, 10, 20),
    ("POST", "/v5/order/cancel-all"): PrivateEndpoint(_cancel_all, 10, 20),
    ("POST", "/v5/order/create-batch"): PrivateEndpoint(_batch(_create), 10, 20),
    ("POST", "/v5/order/amend-batch"): PrivateEndpoint(_batch(_amend), 10, 20),
    ("POST", "/v5/order/cancel-batch"): PrivateEndpoint(_batch(_cancel), 10, 20),
    ("GET", "/v5/order/realtime"): PrivateEndpoint(_realtime, 50, 50),
    ("GET", "/v5/order/history"): PrivateEndpoint(_history, 50, 50),
    ("GET", "/v5/execution/list"): PrivateEndpoint(_executions, 50, 50),
    ("GET", "/v5/position/list"): PrivateEndpoint(_positions, 50, 50),
    ("POST", "/v5/position/set-leverage"): PrivateEndpoint(_set_leverage, 10, 10),
    ("POST", "/v5/position/switch-mode"): PrivateEndpoint(_switch_mode, 10, 10),
    ("POST", "/v5/position/trading-stop"): PrivateEndpoint(_trading_stop, 10, 10),
    ("GET", "/v5/position/closed-pnl"): PrivateEndpoint(_closed_pnl, 50, 50),
    ("GET", "/v5/account/wallet-balance"): PrivateEndpoint(_wallet_balance, 50, 50),
    ("GET", "/v5/account/info"): PrivateEndpoint(_account_info, 50, 50),
    ("POST", "/v5/account/set-margin-mode"): PrivateEndpoint(_set_margin_mode, 10, 10),
    ("GET", "/v5/account/fee-rate"): PrivateEndpoint(_fee_rate, 5, 5),
    ("GET", "/v5/user/query-api"): PrivateEndpoint(_query_api, 10, 10),
    ("GET", "/v5/asset/coin/query-info"): PrivateEndpoint(_coins, 5, 5),
}
"""(method, path) -> signed endpoint."""


def allowed(endpoint: PrivateEndpoint, path: str, params: Params) -> tuple[str, int]:
    """Return the name under which requests are counted and their limit per second."""
    spot = params.raw.get("category") == "spot"
    return (f"{path} spot", endpoint.spot) if spot else (path, endpoint.linear)


def weight(path: str, params: Params) -> int:
    """Return how many requests this one counts as: for a batch, the number of its orders."""
    requests = params.raw.get("request")
    return max(1, len(requests)) if path.endswith("-batch") and isinstance(requests, list) else 1
