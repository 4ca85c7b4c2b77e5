"""Listed instruments: every symbol is a linear perpetual and a spot pair with the core's rules."""

from __future__ import annotations

from decimal import Decimal
from functools import cached_property
from math import floor, log10
from typing import Any, Final

from agent.config import AccountConfig, Config, InstrumentConfig, MarketConfig, PaperConfig
from agent.core.events import MINUTE_MS, Side
from agent.core.instruments import Instrument, instrument_for
from agent.sandbox.bybit_errors import error_by_category, parameter_error, unknown_symbol
from agent.sandbox.json_values import format_number
from agent.sandbox.replay_market import Quote, ReplayMarket
from agent.sandbox.sandbox_options import SandboxOptions

CATEGORIES: Final = ("linear", "spot")
SETTLE_COIN: Final = "USDT"
QUOTE_COINS: Final = ("USDT", "USDC", "USD", "EUR", "BTC")
PRICE_BAND: Final = Decimal("0.1")
"""A limit order may cross the last price by at most this fraction."""
BOOK_DEPTH: Final = 200
_DEFAULT_LEVERAGE: Final = Decimal(10)


class Instruments:
    """Trading rules by category, paper exchange configuration, and order books around the last price."""

    def __init__(self, options: SandboxOptions, market: ReplayMarket) -> None:
        self._market = market
        self.symbols = tuple(market.quotes)
        self.funding_interval = options.funding_interval
        paper = PaperConfig(
            latency=0,  # `order_latency` delays requests before they are accepted
            taker_fee=options.taker_fee,
            maker_fee=options.maker_fee,
            half_spread_bps=options.half_spread_bps,
            slippage="none",
            liquidity="infinite" if options.participation is None else "participation",
            max_participation=options.participation or 1.0,
            funding_rate=options.funding_rate,
        )
        finer = {symbol: _finer_config(quote) for symbol, quote in market.quotes.items()}
        self.configs = {
            category: Config(
                market=MarketConfig(symbols=self.symbols, category=category),
                account=AccountConfig(
                    initial_capital=options.balance, currency=SETTLE_COIN, leverage=_DEFAULT_LEVERAGE
                ),
                instruments={symbol: given for symbol, given in finer.items() if given},
                paper=paper,
            )
            for category in CATEGORIES
        }
        self.by_category = {
            category: {symbol: instrument_for(symbol, config) for symbol in self.symbols}
            for category, config in self.configs.items()
        }
        self._half_spread = Decimal(repr(paper.half_spread_bps)) / 10_000

    @cached_property
    def coins(self) -> tuple[str, ...]:
        """Every base coin and the settlement coin."""
        return tuple(dict.fromkeys((SETTLE_COIN, *(split_symbol(symbol)[0] for symbol in self.symbols))))

    def find(self, category: str, symbol: str) -> Instrument:
        """Return the rules of a symbol, or raise the error of the market endpoints."""
        if category not in self.by_category:
            raise parameter_error(f"params error: category {category} is not supported")
        try:
            return self.by_category[category][symbol]
        except KeyError:
            raise unknown_symbol(symbol) from None

    def find_for_order(self, category: str, symbol: str) -> Instrument:
        """Return the rules of a symbol, or raise the error of the order endpoints."""
        if category in self.by_category and symbol not in self.by_category[category]:
            raise error_by_category(
                category,
                linear=(10001, f"params error: symbol invalid {symbol}"),
                spot=(170121, "Invalid symbol."),
            )
        return self.find(category, symbol)

    def last_price(self, symbol: str) -> float:
        return self._market.quotes[symbol].last

    def best(self, instrument: Instrument, side: Side) -> Decimal:
        """Return a taker's price for this side: the last price and half the spread, rounded to the tick."""
        last = Decimal(repr(self.last_price(instrument.symbol)))
        return max(
            instrument.round_price(last * (1 + side.sign * self._half_spread), side), instrument.tick_size
        )

    def book(self, instrument: Instrument, depth: int) -> tuple[list[list[str]], list[list[str]]]:
        """Return bids and asks, best first, as strings of price and size.

        Sizes are synthetic, but deterministic for a given moment.
        """
        quote = self._market.quotes[instrument.symbol]
        typical = max(quote.series.bar(quote.index).volume / quote.series.steps, float(instrument.min_qty))
        sides = []
        for side in (Side.SELL, Side.BUY):
            best = self.best(instrument, side)
            levels = []
            for level in range(min(depth, BOOK_DEPTH)):
                price = best + side.sign * level * instrument.tick_size
                size = instrument.round_qty(
                    Decimal(repr(typical * (1 + (7 * level + quote.done + quote.index) % 11)))
                )
                if price > 0:
                    levels.append([format_number(price), format_number(max(size, instrument.qty_step))])
            sides.append(levels)
        return sides[0], sides[1]

    # -- the venue's description ----------------------------------------------------------------------------

    def describe(self, category: str, symbol: str) -> dict[str, Any]:
        """Return an item of instruments-info."""
        rules = self.by_category[category][symbol]
        base, quote = split_symbol(symbol)
        most = format_number(rules.round_qty(Decimal(100_000_000) / self.best(rules, Side.BUY)))
        prices = {"tickSize": format_number(rules.tick_size)}
        band = {
            "priceLimitRatioX": format_number(PRICE_BAND / 2),
            "priceLimitRatioY": format_number(PRICE_BAND),
        }
        common = {
            "symbol": symbol,
            "baseCoin": base,
            "quoteCoin": quote,
            "status": "Trading",
            "riskParameters": band,
            "symbolType": "",
        }
        if category == "spot":
            return common | {
                "innovation": "0",
                "marginTrading": "none",
                "stTag": "0",
                "lotSizeFilter": {
                    "basePrecision": format_number(rules.qty_step),
                    "quotePrecision": "0.0000001",
                    "minOrderQty": format_number(rules.min_qty),
                    "maxOrderQty": most,
                    "minOrderAmt": format_number(rules.min_notional),
                    "maxOrderAmt": "100000000",
                    "maxLimitOrderQty": most,
                    "maxMarketOrderQty": most,
                    "postOnlyMaxLimitOrderSize": most,
                },
                "priceFilter": prices,
            }
        return common | {
            "contractType": "LinearPerpetual",
            "launchTime": "1584230400000",
            "deliveryTime": "0",
            "deliveryFeeRate": "",
            "priceScale": str(max(0, -_exponent(rules.tick_size))),
            "leverageFilter": {
                "minLeverage": "1",
                "maxLeverage": format_number(rules.max_leverage),
                "leverageStep": "0.01",
            },
            "priceFilter": {"minPrice": format_number(rules.tick_size), "maxPrice": "1999999.80", **prices},
            "lotSizeFilter": {
                "maxOrderQty": most,
                "minOrderQty": format_number(rules.min_qty),
                "qtyStep": format_number(rules.qty_step),
                "postOnlyMaxOrderQty": most,
                "maxMktOrderQty": most,
                "minNotionalValue": format_number(rules.min_notional),
            },
            "unifiedMarginTrade": True,
            "fundingInterval": self.funding_interval // MINUTE_MS,
            "settleCoin": quote,
            "copyTrading": "none",
            "upperFundingRate": "0.00375",
            "lowerFundingRate": "-0.00375",
            "isPreListing": False,
            "preListingInfo": None,
            "displayName": "",
            "forbidUplWithdrawal": False,
        }


def split_symbol(symbol: str) -> tuple[str, str]:
    """Return base and quote coin: BTCUSDT -> BTC, USDT."""
    for coin in QUOTE_COINS:
        if symbol.endswith(coin) and len(symbol) > len(coin):
            return symbol.removesuffix(coin), coin
    return symbol, SETTLE_COIN


def _exponent(step: Decimal) -> int:
    return int(step.normalize().as_tuple().exponent)


def _finer_config(quote: Quote) -> InstrumentConfig | None:
    """Return tick and lot if the defaults are too coarse: five digits of price, lots of a few dollars."""
    magnitude = floor(log10(quote.last))
    if magnitude >= 2:
        return None
    step = Decimal(1).scaleb(min(magnitude - 1, 0)) if magnitude > 0 else Decimal(1)
    return InstrumentConfig(tick_size=Decimal(1).scaleb(magnitude - 4), qty_step=step, min_qty=step)
