"""A loopback server for the part of Bybit v5 that fetching klines needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import sin
from typing import Any

from aiohttp import web

MINUTE = 60_000
CODES = {"1": MINUTE, "5": 5 * MINUTE, "W": 7 * 1440 * MINUTE}


@dataclass
class Market:
    """The bars of `symbol`, listed at `listed`, seen at `now` (UTC ms); a price depends on its time alone."""

    symbol: str
    listed: int
    now: int
    missing: frozenset[int] = frozenset()
    impossible: frozenset[int] = frozenset()
    # HTTP statuses of the next responses; 200 is an error in the envelope
    failures: list[int] = field(default_factory=list)
    asked: list[dict[str, str]] = field(default_factory=list)
    base_url: str = ""

    def row(self, start: int) -> list[str]:
        """Return a bar in Bybit's format: all fields are texts."""
        price = round(40_000 + 100 * sin(start / 3.6e6), 1)
        high = price - 5 if start in self.impossible else price + 2
        return [str(start), str(price), str(high), str(price - 2), str(price + 1), "3.5", str(3.5 * price)]

    async def time(self, _: web.Request) -> web.Response:
        """GET /v5/market/time"""
        return self.answer({"timeSecond": str(self.now // 1000), "timeNano": str(self.now * 10**6)})

    async def instruments(self, request: web.Request) -> web.Response:
        """GET /v5/market/instruments-info"""
        self.asked.append(dict(request.query))
        item = {
            "symbol": self.symbol,
            "contractType": "LinearPerpetual",
            "status": "Trading",
            "baseCoin": "BTC",
            "quoteCoin": "USDT",
            "settleCoin": "USDT",
            "launchTime": str(self.listed),
            "deliveryTime": "0",
            "priceScale": "2",
            "leverageFilter": {"minLeverage": "1", "maxLeverage": "100", "leverageStep": "0.01"},
            "priceFilter": {"minPrice": "0.1", "maxPrice": "199999.8", "tickSize": "0.1"},
            "lotSizeFilter": {"minOrderQty": "0.001", "maxOrderQty": "1190", "qtyStep": "0.001"},
        }
        trading = request.query.get("status") in (None, "Trading")
        return self.answer({"category": "linear", "list": [item] if trading else [], "nextPageCursor": ""})

    async def kline(self, request: web.Request) -> web.Response:
        """GET /v5/market/kline: newest first, from start to end inclusive, including the open candle.

        Without a start, return the latest candles.
        """
        query = request.query
        self.asked.append(dict(query))
        if self.failures:
            status = self.failures.pop(0)
            return (
                web.Response(status=status, text="busy")
                if status != 200
                else self.answer({}, 10016, "Server error")
            )
        if query["symbol"] != self.symbol:
            return self.answer({}, 10001, "Not supported symbols")
        interval = CODES[query["interval"]]
        latest = self.now - (int(query["limit"]) - 1) * interval
        first = max(
            int(query.get("start", latest // interval * interval)), self.listed // interval * interval
        )
        end = min(int(query.get("end", self.now)), self.now)
        offset = 4 * 1440 * MINUTE if query["interval"] == "W" else 0
        starts = range(-(-(first - offset) // interval) * interval + offset, end + 1, interval)[
            : int(query["limit"])
        ]
        rows = [self.row(start) for start in starts if start not in self.missing]
        return self.answer({"symbol": self.symbol, "category": query["category"], "list": rows[::-1]})

    def answer(self, result: Any, code: int = 0, message: str = "OK") -> web.Response:
        """Return a response with Bybit's envelope."""
        return web.json_response(
            {"retCode": code, "retMsg": message, "result": result, "retExtInfo": {}, "time": self.now}
        )

    def app(self) -> web.Application:
        """Return the server application."""
        app = web.Application()
        app.router.add_get("/v5/market/time", self.time)
        app.router.add_get("/v5/market/instruments-info", self.instruments)
        app.router.add_get("/v5/market/kline", self.kline)
        return app
