"""Public REST endpoints: market data under /v5/market/…"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from agent.sandbox.bybit_errors import parameter_error, unknown_symbol
from agent.sandbox.json_values import Params, format_number
from agent.sandbox.market_json import book_data, kline_row, risk_limit, ticker_row, trade_row
from agent.sandbox.replay_series import INTERVALS, bar_starts
from agent.sandbox.sandbox_venue import SandboxVenue

Json = dict[str, Any]
_CATEGORIES: Final = ("linear", "spot", "inverse", "option")


def _time(venue: SandboxVenue, params: Params) -> Json:  # noqa: ARG001
    now = venue.now()
    return {"timeSecond": str(now // 1000), "timeNano": str(now * 1_000_000)}


def _kline(venue: SandboxVenue, params: Params, columns: int = 7) -> Json:
    category = params.text("category", "linear", among=_CATEGORIES)
    symbol = params.text("symbol")
    interval = params.text("interval", among=INTERVALS)
    venue.instruments.find(category, symbol)
    quote = venue.market.quotes[symbol]
    since, until = params.timestamp("start"), params.timestamp("end")
    if since is not None and since > int(bar_starts(interval, np.array([since]))[0]):
        since += 1  # exclude the bar that contains `start`, since it began earlier
    rows = quote.series.candles(
        interval,
        quote.index,
        quote.done,
        since=since,
        until=until,
        limit=params.integer("limit", 200, low=1, high=1000),
    )
    return {"symbol": symbol, "category": category, "list": [kline_row(bar)[:columns] for bar in rows]}


def _price_kline(venue: SandboxVenue, params: Params) -> Json:
    """Return mark or index klines, which equal the klines of the last price."""
    return _kline(venue, params, columns=5)


def _premium_kline(venue: SandboxVenue, params: Params) -> Json:
    """Return zero premiums, since mark and index prices follow the last price."""
    response = _kline(venue, params, columns=5)
    return response | {"list": [[row[0], "0", "0", "0", "0"] for row in response["list"]]}


def _instruments(venue: SandboxVenue, params: Params) -> Json:
    category = params.text("category", among=_CATEGORIES)
    listed = list(venue.instruments.by_category.get(category, {}))
    symbol, base = params.text("symbol", ""), params.text("baseCoin", "")
    if params.text("status", "Trading") != "Trading":
        listed = []
    if symbol and symbol not in listed and category in venue.instruments.by_category:
        raise unknown_symbol(symbol)
    items = [venue.instruments.describe(category, name) for name in listed if symbol in ("", name)]
    items = [item for item in items if base in ("", item["baseCoin"])]
    if category == "spot":
        return {"category": category, "list": items}
    page, cursor = paginate(items, params, default=500, maximum=1000)
    return {"category": category, "list": page, "nextPageCursor": cursor}


def _tickers(venue: SandboxVenue, params: Params) -> Json:
    category = params.text("category", among=_CATEGORIES)
    listed = venue.instruments.by_category.get(category, {})
    symbol = params.text("symbol", "")
    if symbol:
        venue.instruments.find(category, symbol)
    rate = venue.options.funding_rate
    rows = [
        ticker_row(venue.instruments, venue.market, category, name, rate)
        for name in listed
        if symbol in ("", name)
    ]
    return {"category": category, "list": rows}


def _orderbook(venue: SandboxVenue, params: Params) -> Json:
    category, symbol = params.text("category", among=_CATEGORIES), params.text("symbol")
    depth = params.integer("limit", 1 if category == "spot" else 25, low=1, high=1000)
    venue.instruments.find(category, symbol)
    trades = venue.market.quotes[symbol].trades
    number = trades[0].number if trades else 1
    return book_data(venue.instruments, category, symbol, depth, number) | {
        "ts": venue.now(),
        "cts": venue.now(),
    }


def _recent_trades(venue: SandboxVenue, params: Params) -> Json:
    category, symbol = params.text("category", among=_CATEGORIES), params.text("symbol")
    venue.instruments.find(category, symbol)
    limit = params.integer(
        "limit", 60 if category == "spot" else 500, low=1, high=60 if category == "spot" else 1000
    )
    trades = [trade for trade in venue.market.quotes[symbol].trades if trade.size]
    return {"category": category, "list": [trade_row(trade) for trade in trades[:limit]]}


def _funding_history(venue: SandboxVenue, params: Params) -> Json:
    category, symbol = params.text("category", among=_CATEGORIES), params.text("symbol")
    venue.instruments.find("linear" if category == "linear" else "none", symbol)
    since, until = params.timestamp("startTime"), params.timestamp("endTime")
    if since is not None and until is None:
        raise parameter_error("params error: startTime needs endTime")
    series = venue.market.quotes[symbol].series
    first = max(since or 0, int(series.start[0]))
    interval = venue.options.funding_interval
    stamp = min(until or venue.market.time, venue.market.time) // interval * interval
    stamps = range(stamp, first - 1, -interval)[: params.integer("limit", 200, low=1, high=200)]
    rate = format_number(venue.options.funding_rate)
    rows = [{"symbol": symbol, "fundingRate": rate, "fundingRateTimestamp": str(moment)} for moment in stamps]
    return {"category": category, "list": rows}


def _risk_limit(venue: SandboxVenue, params: Params) -> Json:
    category, symbol = params.text("category", among=_CATEGORIES), params.text("symbol", "")
    listed = [name for name in venue.instruments.by_category.get(category, {}) if symbol in ("", name)]
    if symbol and not listed:
        raise unknown_symbol(symbol)
    rows = (
        [risk_limit(venue.instruments, name, number) for number, name in enumerate(listed, 1)]
        if category == "linear"
        else []
    )
    return {"category": category, "list": rows, "nextPageCursor": ""}


def paginate(items: list[Json], params: Params, *, default: int, maximum: int) -> tuple[list[Json], str]:
    """Return a page of `items` and the cursor of the next page, empty at the end. Cursors are offsets."""
    limit = params.integer("limit", default, low=1, high=maximum)
    offset = params.integer("cursor", 0)
    following = offset + limit
    return items[offset:following], str(following) if following < len(items) else ""


PUBLIC: Final[dict[str, Callable[[SandboxVenue, Params], Json]]] = {
    "/v5/market/time": _time,
    "/v5/market/kline": _kline,
    "/v5/market/mark-price-kline": _price_kline,
    "/v5/market/index-price-kline": _price_kline,
    "/v5/market/premium-index-price-kline": _premium_kline,
    "/v5/market/instruments-info": _instruments,
    "/v5/market/tickers": _tickers,
    "/v5/market/orderbook": _orderbook,
    "/v5/market/recent-trade": _recent_trades,
    "/v5/market/funding/history": _funding_history,
    "/v5/market/risk-limit": _risk_limit,
}
"""Path -> handler of the public GET endpoint."""
