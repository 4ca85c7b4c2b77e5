"""Market data over REST: /v5/market/…"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np

from agent.sandbox.decimals import text
from agent.sandbox.errors import parameter, unknown_symbol
from agent.sandbox.intervals import INTERVALS, bar_starts
from agent.sandbox.listing import FUNDING_INTERVAL_MS
from agent.sandbox.params import Params
from agent.sandbox.shapes_market import book_data, kline_row, risk_limit, ticker_row, trade_row
from agent.sandbox.venue import Venue

Json = dict[str, Any]
_CATEGORIES: Final = ("linear", "spot", "inverse", "option")


def _time(venue: Venue, params: Params) -> Json:  # noqa: ARG001
    now = venue.now()
    return {"timeSecond": str(now // 1000), "timeNano": str(now * 1_000_000)}


def _kline(venue: Venue, params: Params, columns: int = 7) -> Json:
    category = params.text("category", "linear", among=_CATEGORIES)
    symbol = params.text("symbol")
    interval = params.text("interval", among=INTERVALS)
    venue.listing.instrument(category, symbol)
    quote = venue.market.quotes[symbol]
    since, until = params.moment("start"), params.moment("end")
    if since is not None and since > int(bar_starts(interval, np.array([since]))[0]):
        since += 1  # the bar that holds `start` began before it
    rows = quote.tape.candles(
        interval,
        quote.index,
        quote.done,
        since=since,
        until=until,
        limit=params.integer("limit", 200, low=1, high=1000),
    )
    return {"symbol": symbol, "category": category, "list": [kline_row(bar)[:columns] for bar in rows]}


def _price_kline(venue: Venue, params: Params) -> Json:
    """Mark and index follow the last price."""
    return _kline(venue, params, columns=5)


def _premium_kline(venue: Venue, params: Params) -> Json:
    """There is no premium where mark and index follow the last price."""
    answer = _kline(venue, params, columns=5)
    return answer | {"list": [[row[0], "0", "0", "0", "0"] for row in answer["list"]]}


def _instruments(venue: Venue, params: Params) -> Json:
    category = params.text("category", among=_CATEGORIES)
    listed = list(venue.listing.instruments.get(category, {}))
    symbol, base = params.text("symbol", ""), params.text("baseCoin", "")
    if params.text("status", "Trading") != "Trading":
        listed = []
    if symbol and symbol not in listed and category in venue.listing.instruments:
        raise unknown_symbol(symbol)
    items = [venue.listing.describe(category, name) for name in listed if symbol in ("", name)]
    items = [item for item in items if base in ("", item["baseCoin"])]
    if category == "spot":
        return {"category": category, "list": items}
    page, cursor = paginate(items, params, default=500, most=1000)
    return {"category": category, "list": page, "nextPageCursor": cursor}


def _tickers(venue: Venue, params: Params) -> Json:
    category = params.text("category", among=_CATEGORIES)
    listed = venue.listing.instruments.get(category, {})
    symbol = params.text("symbol", "")
    if symbol:
        venue.listing.instrument(category, symbol)
    rate = venue.options.funding_rate
    rows = [
        ticker_row(venue.listing, venue.market, category, name, rate)
        for name in listed
        if symbol in ("", name)
    ]
    return {"category": category, "list": rows}


def _orderbook(venue: Venue, params: Params) -> Json:
    category, symbol = params.text("category", among=_CATEGORIES), params.text("symbol")
    depth = params.integer("limit", 1 if category == "spot" else 25, low=1, high=1000)
    venue.listing.instrument(category, symbol)
    trades = venue.market.quotes[symbol].trades
    number = trades[0].number if trades else 1
    return book_data(venue.listing, category, symbol, depth, number) | {"ts": venue.now(), "cts": venue.now()}


def _recent_trades(venue: Venue, params: Params) -> Json:
    category, symbol = params.text("category", among=_CATEGORIES), params.text("symbol")
    venue.listing.instrument(category, symbol)
    limit = params.integer(
        "limit", 60 if category == "spot" else 500, low=1, high=60 if category == "spot" else 1000
    )
    trades = [trade for trade in venue.market.quotes[symbol].trades if trade.size]
    return {"category": category, "list": [trade_row(trade) for trade in trades[:limit]]}


def _funding_history(venue: Venue, params: Params) -> Json:
    category, symbol = params.text("category", among=_CATEGORIES), params.text("symbol")
    venue.listing.instrument("linear" if category == "linear" else "none", symbol)
    since, until = params.moment("startTime"), params.moment("endTime")
    if since is not None and until is None:
        raise parameter("params error: startTime needs endTime")
    tape = venue.market.quotes[symbol].tape
    first = max(since or 0, int(tape.start[0]))
    stamp = min(until or venue.market.time, venue.market.time) // FUNDING_INTERVAL_MS * FUNDING_INTERVAL_MS
    stamps = range(stamp, first - 1, -FUNDING_INTERVAL_MS)[: params.integer("limit", 200, low=1, high=200)]
    rate = text(venue.options.funding_rate)
    rows = [{"symbol": symbol, "fundingRate": rate, "fundingRateTimestamp": str(moment)} for moment in stamps]
    return {"category": category, "list": rows}


def _risk_limit(venue: Venue, params: Params) -> Json:
    category, symbol = params.text("category", among=_CATEGORIES), params.text("symbol", "")
    listed = [name for name in venue.listing.instruments.get(category, {}) if symbol in ("", name)]
    if symbol and not listed:
        raise unknown_symbol(symbol)
    rows = (
        [risk_limit(venue.listing, name, number) for number, name in enumerate(listed, 1)]
        if category == "linear"
        else []
    )
    return {"category": category, "list": rows, "nextPageCursor": ""}


def paginate(items: list[Json], params: Params, *, default: int, most: int) -> tuple[list[Json], str]:
    """A page of `items` and the cursor of the next, which is empty at the end. Cursors are offsets."""
    limit = params.integer("limit", default, low=1, high=most)
    offset = params.integer("cursor", 0)
    following = offset + limit
    return items[offset:following], str(following) if following < len(items) else ""


PUBLIC: Final[dict[str, Callable[[Venue, Params], Json]]] = {
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
"""Path -> handler of the public GET endpoints."""
