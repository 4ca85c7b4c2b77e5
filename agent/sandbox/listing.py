"""What the sandbox lists: every symbol as a linear perpetual and as a spot pair, under the core's own trading rules."""

from __future__ import annotations

from decimal import Decimal
from functools import cached_property
from math import floor, log10
from typing import Any, Final

from agent.config import AccountConfig, Config, InstrumentConfig, MarketConfig, PaperConfig
from agent.core.events import MINUTE_MS, Side
from agent.core.instruments import Instrument, instrument_for
from agent.sandbox.decimals import text
from agent.sandbox.errors import by_category, parameter, unknown_symbol
from agent.sandbox.market import Market, Quote
from agent.sandbox.options import SandboxOptions

CATEGORIES: Final = ("linear", "spot")
SETTLE_COIN: Final = "USDT"
QUOTE_COINS: Final = ("USDT", "USDC", "USD", "EUR", "BTC")
FUNDING_INTERVAL_MS: Final = 480 * MINUTE_MS
PRICE_BAND: Final = Decimal("0.1")
"""A limit may cross the last price by this fraction at most."""
BOOK_DEPTH: Final = 200
_DEFAULT_LEVERAGE: Final = Decimal(10)


class Listing:
    """Instruments by category, the configuration of the paper exchange, and order books around the last price."""

    def __init__(self, options: SandboxOptions, market: Market) -> None:
        self._market = market
        self.symbols = tuple(market.quotes)
        paper = PaperConfig(
            latency=0,
            slippage="none",
            liquidity="infinite" if options.participation is None else "participation",
            max_participation=options.participation or 1.0,
            funding_rate=options.funding_rate,
        )
        rough = {symbol: _coarse(quote) for symbol, quote in market.quotes.items()}
        self.configs = {
            category: Config(
                market=MarketConfig(symbols=self.symbols, category=category),
                account=AccountConfig(
                    initial_capital=options.balance, currency=SETTLE_COIN, leverage=_DEFAULT_LEVERAGE
                ),
                instruments={symbol: given for symbol, given in rough.items() if given},
                paper=paper,
            )
            for category in CATEGORIES
        }
        self.instruments = {
            category: {symbol: instrument_for(symbol, config) for symbol in self.symbols}
            for category, config in self.configs.items()
        }
        self._half_spread = Decimal(repr(paper.half_spread_bps)) / 10_000

    @cached_property
    def coins(self) -> tuple[str, ...]:
        """Every coin that is traded or settled in."""
        return tuple(dict.fromkeys((SETTLE_COIN, *(split(symbol)[0] for symbol in self.symbols))))

    def instrument(self, category: str, symbol: str) -> Instrument:
        """The rules of a symbol, or the venue's refusal."""
        if category not in self.instruments:
            raise parameter(f"params error: category {category} is not supported")
        try:
            return self.instruments[category][symbol]
        except KeyError:
            raise unknown_symbol(symbol) from None

    def tradable(self, category: str, symbol: str) -> Instrument:
        """As `instrument`, in the words of the order endpoints."""
        if category in self.instruments and symbol not in self.instruments[category]:
            raise by_category(
                category,
                linear=(10001, f"params error: symbol invalid {symbol}"),
                spot=(170121, "Invalid symbol."),
            )
        return self.instrument(category, symbol)

    def last(self, symbol: str) -> float:
        """The last price."""
        return self._market.quotes[symbol].last

    def best(self, instrument: Instrument, side: Side) -> Decimal:
        """What a taker of this side pays or gets: the last price and half the spread, on the tick."""
        last = Decimal(repr(self.last(instrument.symbol)))
        return max(
            instrument.round_price(last * (1 + side.sign * self._half_spread), side), instrument.tick_size
        )

    def book(self, instrument: Instrument, depth: int) -> tuple[list[list[str]], list[list[str]]]:
        """Bids and asks, best first, as texts of price and size. Sizes are made up, but the same for the same moment."""
        quote = self._market.quotes[instrument.symbol]
        typical = max(quote.tape.bar(quote.index).volume / quote.tape.steps, float(instrument.min_qty))
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
                    levels.append([text(price), text(max(size, instrument.qty_step))])
            sides.append(levels)
        return sides[0], sides[1]

    # -- as the venue describes them ---------------------------------------------------------------------------------

    def describe(self, category: str, symbol: str) -> dict[str, Any]:
        """An item of instruments-info."""
        rules = self.instruments[category][symbol]
        base, quote = split(symbol)
        most = text(rules.round_qty(Decimal(100_000_000) / self.best(rules, Side.BUY)))
        prices = {"tickSize": text(rules.tick_size)}
        band = {"priceLimitRatioX": text(PRICE_BAND / 2), "priceLimitRatioY": text(PRICE_BAND)}
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
                    "basePrecision": text(rules.qty_step),
                    "quotePrecision": "0.0000001",
                    "minOrderQty": text(rules.min_qty),
                    "maxOrderQty": most,
                    "minOrderAmt": text(rules.min_notional),
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
                "maxLeverage": text(rules.max_leverage),
                "leverageStep": "0.01",
            },
            "priceFilter": {"minPrice": text(rules.tick_size), "maxPrice": "1999999.80", **prices},
            "lotSizeFilter": {
                "maxOrderQty": most,
                "minOrderQty": text(rules.min_qty),
                "qtyStep": text(rules.qty_step),
                "postOnlyMaxOrderQty": most,
                "maxMktOrderQty": most,
                "minNotionalValue": text(rules.min_notional),
            },
            "unifiedMarginTrade": True,
            "fundingInterval": FUNDING_INTERVAL_MS // MINUTE_MS,
            "settleCoin": quote,
            "copyTrading": "none",
            "upperFundingRate": "0.00375",
            "lowerFundingRate": "-0.00375",
            "isPreListing": False,
            "preListingInfo": None,
            "displayName": "",
            "forbidUplWithdrawal": False,
        }


def split(symbol: str) -> tuple[str, str]:
    """Base and quote coin: BTCUSDT -> BTC, USDT."""
    for coin in QUOTE_COINS:
        if symbol.endswith(coin) and len(symbol) > len(coin):
            return symbol.removesuffix(coin), coin
    return symbol, SETTLE_COIN


def _exponent(step: Decimal) -> int:
    return int(step.normalize().as_tuple().exponent)


def _coarse(quote: Quote) -> InstrumentConfig | None:
    """Tick and lot for a price that the defaults are too coarse for: five digits of price, lots worth a few dollars."""
    magnitude = floor(log10(quote.last))
    if magnitude >= 2:
        return None
    step = Decimal(1).scaleb(min(magnitude - 1, 0)) if magnitude > 0 else Decimal(1)
    return InstrumentConfig(tick_size=Decimal(1).scaleb(magnitude - 4), qty_step=step, min_qty=step)
