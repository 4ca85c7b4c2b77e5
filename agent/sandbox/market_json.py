"""JSON of market data, for REST and the public WebSocket.

Numbers are strings; times are strings or integers as at the venue.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from agent.core.events import HOUR_MS
from agent.sandbox.json_values import format_number, format_rounded
from agent.sandbox.listed_instruments import Instruments
from agent.sandbox.replay_market import PublicTrade, ReplayMarket
from agent.sandbox.replay_series import Candle

Json = dict[str, Any]


def kline_row(bar: Candle) -> list[str]:
    """Return a row of market/kline."""
    return [
        str(bar.start),
        *(format_number(value) for value in bar[2:6]),
        format_rounded(bar.volume),
        format_rounded(bar.turnover),
    ]


def kline_push(bar: Candle, interval: str, *, confirm: bool, time: int) -> Json:
    """Return an element of a kline message's data."""
    return {
        "start": bar.start,
        "end": bar.end - 1,
        "interval": interval,
        "open": format_number(bar.open),
        "close": format_number(bar.close),
        "high": format_number(bar.high),
        "low": format_number(bar.low),
        "volume": format_rounded(bar.volume),
        "turnover": format_rounded(bar.turnover),
        "confirm": confirm,
        "timestamp": time,
    }


def trade_push(trade: PublicTrade, category: str) -> Json:
    """Return an element of a publicTrade message's data."""
    push = {
        "T": trade.time,
        "s": trade.symbol,
        "S": trade.side,
        "v": format_rounded(trade.size),
        "p": format_number(trade.price),
        "L": "PlusTick" if trade.uptick else "MinusTick",
        "i": trade_id(trade),
        "BT": False,
        "RPI": False,
        "seq": trade.number,
    }
    if category == "spot":
        del push["L"]
    return push


def trade_row(trade: PublicTrade) -> Json:
    """Return an item of market/recent-trade."""
    return {
        "execId": trade_id(trade),
        "symbol": trade.symbol,
        "price": format_number(trade.price),
        "size": format_rounded(trade.size),
        "side": trade.side,
        "time": str(trade.time),
        "isBlockTrade": False,
        "isRPITrade": False,
        "seq": str(trade.number),
    }


def trade_id(trade: PublicTrade) -> str:
    """Return a unique trade id in the venue's format."""
    return f"{trade.time:020d}{trade.number:012d}"


def book_data(instruments: Instruments, category: str, symbol: str, depth: int, number: int) -> Json:
    """Return symbol, bids, asks, update number and sequence number, as in REST and WebSocket order books."""
    bids, asks = instruments.book(instruments.find(category, symbol), depth)
    return {"s": symbol, "b": bids, "a": asks, "u": number, "seq": number}


def ticker(
    instruments: Instruments,
    market: ReplayMarket,
    category: str,
    symbol: str,
    funding_rate: Decimal,
    *,
    spot_stream: bool = False,
) -> Json:
    """Return a ticker. The ticker of the spot stream has the index price in USD instead of bid and ask."""
    quote = market.quotes[symbol]
    rules = instruments.find(category, symbol)
    day = quote.day()
    last = format_number(quote.last)
    row = {
        "symbol": symbol,
        "lastPrice": last,
        "highPrice24h": format_number(day.high),
        "lowPrice24h": format_number(day.low),
        "prevPrice24h": format_number(day.open),
        "volume24h": format_rounded(day.volume),
        "turnover24h": format_rounded(day.turnover),
        "price24hPcnt": format_number(round(quote.last / day.open - 1, 6)),
        "usdIndexPrice": last,
    }
    if spot_stream:
        return row
    bids, asks = instruments.book(rules, 1)
    best = {"bid1Price": bids[0][0], "bid1Size": bids[0][1], "ask1Price": asks[0][0], "ask1Size": asks[0][1]}
    if category == "spot":
        return row | best
    del row["usdIndexPrice"]
    interest = day.volume / 2
    return (
        row
        | best
        | {
            "tickDirection": "PlusTick" if quote.trades and quote.trades[0].uptick else "MinusTick",
            "prevPrice1h": format_number(quote.hour().open),
            "markPrice": last,
            "indexPrice": last,
            "openInterest": format_rounded(interest),
            "openInterestValue": format_rounded(interest * quote.last),
            "nextFundingTime": str(market.next_funding(instruments.funding_interval)),
            "fundingRate": format_number(funding_rate),
            "fundingIntervalHour": str(instruments.funding_interval // HOUR_MS),
            "fundingCap": "0.00375",
        }
    )


def ticker_row(
    instruments: Instruments, market: ReplayMarket, category: str, symbol: str, funding_rate: Decimal
) -> Json:
    """Return an item of market/tickers."""
    row = ticker(instruments, market, category, symbol, funding_rate)
    if category == "spot":
        return row
    delivery = {
        "predictedDeliveryPrice": "",
        "basisRate": "",
        "deliveryFeeRate": "",
        "deliveryTime": "0",
        "basis": "",
        "basisRateYear": "",
    }
    return row | delivery | {"preOpenPrice": "", "preQty": "", "curPreListingPhase": ""}


def risk_limit(instruments: Instruments, symbol: str, number: int) -> Json:
    """Return the only tier of a symbol, an item of market/risk-limit."""
    rules = instruments.find("linear", symbol)
    return {
        "id": number,
        "symbol": symbol,
        "riskLimitValue": "100000000",
        "maintenanceMargin": format_number(rules.maintenance_margin),
        "initialMargin": format_number(1 / rules.max_leverage),
        "isLowestRisk": 1,
        "maxLeverage": format_number(rules.max_leverage),
        "mmDeduction": "",
    }
