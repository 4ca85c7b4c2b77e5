"""Public JSON, as REST and the public WebSocket give it: all numbers are texts, times are not where the venue's aren't."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from agent.core.events import HOUR_MS
from agent.sandbox.decimals import rounded, text
from agent.sandbox.listing import FUNDING_INTERVAL_MS, Listing
from agent.sandbox.market import Market, Trade
from agent.sandbox.tape import Bar

Json = dict[str, Any]


def kline_row(bar: Bar) -> list[str]:
    """A row of market/kline."""
    return [str(bar.start), *(text(value) for value in bar[2:6]), rounded(bar.volume), rounded(bar.turnover)]


def kline_push(bar: Bar, interval: str, *, confirm: bool, time: int) -> Json:
    """An element of a kline message's data."""
    return {
        "start": bar.start,
        "end": bar.end - 1,
        "interval": interval,
        "open": text(bar.open),
        "close": text(bar.close),
        "high": text(bar.high),
        "low": text(bar.low),
        "volume": rounded(bar.volume),
        "turnover": rounded(bar.turnover),
        "confirm": confirm,
        "timestamp": time,
    }


def trade_push(trade: Trade, category: str) -> Json:
    """An element of a publicTrade message's data."""
    push = {
        "T": trade.time,
        "s": trade.symbol,
        "S": trade.side,
        "v": rounded(trade.size),
        "p": text(trade.price),
        "L": "PlusTick" if trade.uptick else "MinusTick",
        "i": trade_id(trade),
        "BT": False,
        "RPI": False,
        "seq": trade.number,
    }
    if category == "spot":
        del push["L"]
    return push


def trade_row(trade: Trade) -> Json:
    """An item of market/recent-trade."""
    return {
        "execId": trade_id(trade),
        "symbol": trade.symbol,
        "price": text(trade.price),
        "size": rounded(trade.size),
        "side": trade.side,
        "time": str(trade.time),
        "isBlockTrade": False,
        "isRPITrade": False,
        "seq": str(trade.number),
    }


def trade_id(trade: Trade) -> str:
    """Unique for a symbol's price, in the form of the venue's."""
    return f"{trade.time:020d}{trade.number:012d}"


def book_data(listing: Listing, category: str, symbol: str, depth: int, number: int) -> Json:
    """Symbol, bids, asks, update and sequence number, as both orderbook answers hold them."""
    bids, asks = listing.book(listing.instrument(category, symbol), depth)
    return {"s": symbol, "b": bids, "a": asks, "u": number, "seq": number}


def ticker(
    listing: Listing,
    market: Market,
    category: str,
    symbol: str,
    funding_rate: Decimal,
    *,
    spot_stream: bool = False,
) -> Json:
    """A ticker. The spot stream's has no bid and ask, but the index price in USD."""
    quote = market.quotes[symbol]
    rules = listing.instrument(category, symbol)
    day = quote.day()
    last = text(quote.last)
    shape = {
        "symbol": symbol,
        "lastPrice": last,
        "highPrice24h": text(day.high),
        "lowPrice24h": text(day.low),
        "prevPrice24h": text(day.open),
        "volume24h": rounded(day.volume),
        "turnover24h": rounded(day.turnover),
        "price24hPcnt": text(round(quote.last / day.open - 1, 6)),
        "usdIndexPrice": last,
    }
    if spot_stream:
        return shape
    bids, asks = listing.book(rules, 1)
    best = {"bid1Price": bids[0][0], "bid1Size": bids[0][1], "ask1Price": asks[0][0], "ask1Size": asks[0][1]}
    if category == "spot":
        return shape | best
    del shape["usdIndexPrice"]
    interest = day.volume / 2
    return (
        shape
        | best
        | {
            "tickDirection": "PlusTick" if quote.trades and quote.trades[0].uptick else "MinusTick",
            "prevPrice1h": text(quote.hour().open),
            "markPrice": last,
            "indexPrice": last,
            "openInterest": rounded(interest),
            "openInterestValue": rounded(interest * quote.last),
            "nextFundingTime": str(market.next_funding(FUNDING_INTERVAL_MS)),
            "fundingRate": text(funding_rate),
            "fundingIntervalHour": str(FUNDING_INTERVAL_MS // HOUR_MS),
            "fundingCap": "0.00375",
        }
    )


def ticker_row(listing: Listing, market: Market, category: str, symbol: str, funding_rate: Decimal) -> Json:
    """An item of market/tickers."""
    row = ticker(listing, market, category, symbol, funding_rate)
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


def risk_limit(listing: Listing, symbol: str, number: int) -> Json:
    """The one tier of a symbol, an item of market/risk-limit."""
    rules = listing.instrument("linear", symbol)
    return {
        "id": number,
        "symbol": symbol,
        "riskLimitValue": "100000000",
        "maintenanceMargin": text(rules.maintenance_margin),
        "initialMargin": text(1 / rules.max_leverage),
        "isLowestRisk": 1,
        "maxLeverage": text(rules.max_leverage),
        "mmDeduction": "",
    }
