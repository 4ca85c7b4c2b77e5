"""Which traded symbols a headline is about: by the source's own tickers, and by the names and tickers in its text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Final, NamedTuple

from agent.config import InstrumentConfig

_COINS: Final[dict[str, str]] = {
    "BTC": "btc|xbt|bitcoin|bitcoins|₿",
    "ETH": "eth|ether|ethereum",
    "XRP": "xrp|ripple",
    "SOL": "SOL|solana",
    "BNB": "bnb|binance coin|binancecoin",
    "DOGE": "doge|dogecoin",
    "ADA": "ADA|cardano",
    "TRX": "trx|tron",
    "TON": "TON|toncoin|the open network",
    "AVAX": "avax|Avalanche",
    "SHIB": "shib|shiba inu",
    "DOT": "DOT|polkadot",
    "LINK": "LINK|chainlink",
    "BCH": "bch|bitcoin cash",
    "LTC": "ltc|litecoin",
    "POL": "POL|matic|Polygon",
    "NEAR": "NEAR|near protocol",
    "UNI": "UNI|uniswap",
    "APT": "APT|aptos",
    "SUI": "sui",
    "ICP": "ICP|internet computer",
    "ETC": "ETC|ethereum classic",
    "XLM": "xlm|stellar lumens",
    "XMR": "xmr|monero",
    "HBAR": "hbar|hedera",
    "ATOM": "ATOM|Cosmos",
    "FIL": "FIL|filecoin",
    "ARB": "ARB|arbitrum",
    "OP": "OP",
    "INJ": "INJ|injective",
    "AAVE": "aave",
    "MKR": "mkr|makerdao",
    "LDO": "ldo|lido",
    "ALGO": "ALGO|algorand",
    "VET": "VET|vechain",
    "XTZ": "xtz|tezos",
    "EOS": "EOS",
    "PEPE": "pepe",
    "BONK": "bonk",
    "FLOKI": "floki",
    "WIF": "WIF|dogwifhat",
    "KAS": "KAS|kaspa",
    "TIA": "TIA|celestia",
    "SEI": "SEI",
    "TAO": "TAO|bittensor",
    "WLD": "wld|worldcoin",
    "ONDO": "ondo",
    "ENA": "ENA|ethena",
    "JUP": "JUP",
    "HYPE": "HYPE|hyperliquid",
    "RUNE": "RUNE|thorchain",
    "STX": "stx",
    "SAND": "SAND",
    "MANA": "MANA|decentraland",
    "AXS": "axs|axie infinity",
    "GALA": "GALA",
    "ONE": "ONE",
    "GAS": "GAS",
    "ZEC": "zec|zcash",
    "BSV": "bsv|bitcoin sv",
}
"""Aliases of the major coins. One in lower case is found in any case; one with capitals only as it is written: otherwise it is
an everyday word (link, near, one, avalanche), or too short to be sure of."""

_NOT_COINS: Final = ("ripple effect", "ripple effects", "crypto.com", "bitcoin.com")
_SAME_COIN: Final = {"XBT": "BTC", "MATIC": "POL"}
_PAIR: Final = re.compile(r"(?:10+)?([A-Z0-9]+?)(?:[-_]?(?:USDT|USDC|FDUSD|USD|EUR|BTC|PERP)(?![A-Z]).*|[/:].*)?")


class _Meaning(NamedTuple):
    symbols: tuple[str, ...]
    as_written: str  # the only spelling that counts; "" where case says nothing
    macro: bool


def base_of(symbol: str) -> str:
    """The coin or share behind a traded symbol: `BTCUSDT`, `BTC/USDT:USDT` -> BTC, `1000PEPEUSDT` -> PEPE, `SPY` -> SPY."""
    match = _PAIR.fullmatch(symbol.upper())
    base = match[1] if match else symbol.upper()
    return _SAME_COIN.get(base, base)


def coin_names() -> tuple[str, ...]:
    """Names and tickers of the major coins; one with capitals means a coin only as it is written."""
    return tuple(alias for aliases in _COINS.values() for alias in aliases.split("|"))


class SymbolMapper:
    """From a headline to the traded `symbols` that it is about.

    A coin is found as a whole word by the names of the built-in table, by `$ticker`, by the symbol itself, and by the `aliases`
    of its instrument in the configuration, which follow the table's rule of capitals and go before it. Where a whole headline
    is in capitals, capitals say nothing. A headline that has one of `macro_keywords` and names no coin, traded or not, is
    about every symbol: "Fed cuts rates" moves all, "Polkadot cuts inflation" does not.
    """

    def __init__(
        self, symbols: Iterable[str], instruments: Mapping[str, InstrumentConfig], macro_keywords: Iterable[str]
    ) -> None:
        self.symbols: Final = tuple(dict.fromkeys(symbols))
        self._by_base: dict[str, tuple[str, ...]] = {}
        for symbol in self.symbols:
            base = base_of(symbol)
            self._by_base[base] = (*self._by_base.get(base, ()), symbol)
        self._order = {symbol: number for number, symbol in enumerate(self.symbols)}
        self._meanings: dict[str, _Meaning] = {}
        for keyword in macro_keywords:
            self._learn(keyword, self.symbols, macro=True)
        for symbol in self.symbols:
            self._learn(_ticker(symbol), (symbol,))
        # Who trades no coin has no use for their names: to him "Bitcoin slips as Fed holds rates" is news of the Fed
        coins = _COINS if self._by_base.keys() & _COINS else {}
        for base in coins.keys() | self._by_base.keys():
            traded = self._by_base.get(base, ())
            self._learn("$" + base.lower(), traded)
            for alias in coins.get(base, _ticker(base)).split("|"):
                self._learn(alias, traded)
        configured: dict[str, tuple[str, ...]] = {}
        for symbol in self.symbols:
            for alias in instruments[symbol].aliases if symbol in instruments else ():
                configured[alias] = (*configured.get(alias, ()), symbol)
        for alias, named in configured.items():
            self._learn(alias, named)
        self._find = _pattern((*self._meanings, *_NOT_COINS)).finditer

    def map(self, title: str, currencies: Iterable[str] = ()) -> tuple[str, ...]:
        """The symbols in traded order, () where the headline is about none; `currencies` are tickers that the source names."""
        # The one letter whose lower case is two characters; without it, positions in both texts are the same
        lowered = title.replace("İ", "I").lower()
        found: set[str] = set()
        named = macro = False
        for match in self._find(lowered):
            meaning = self._meanings.get(match.group())
            if meaning is None:
                continue
            symbols, as_written, is_macro = meaning
            if as_written and (title[match.start() : match.end()] != as_written or title.isupper()):
                continue
            if is_macro:
                macro = True
            else:
                named = True
                found.update(symbols)
        if macro and not named:
            return self.symbols
        for ticker in currencies:
            ticker = ticker.upper()
            found.update(self._by_base.get(_SAME_COIN.get(ticker, ticker), ()))
        return tuple(sorted(found, key=self._order.__getitem__))

    def _learn(self, alias: str, symbols: tuple[str, ...], *, macro: bool = False) -> None:
        key = alias.strip().lower()
        if key:
            self._meanings[key] = _Meaning(symbols, "" if alias == key else alias.strip(), macro)


def _ticker(name: str) -> str:
    """As a headline may print it: a single letter is a word of its own ("AT&T", "Plan B"), and only `$T` is a ticker."""
    return name if len(name) > 1 else ""


def _pattern(aliases: Iterable[str]) -> re.Pattern[str]:
    """Any alias as a whole word, longest first, grouped by first character so that most words are passed by at once."""
    ordered = sorted(set(aliases), key=lambda alias: (alias[0], -len(alias), alias))
    groups = (
        re.escape(first) + "(?:" + "|".join(_whole(alias) for alias in group) + ")"
        for first, group in groupby(ordered, key=lambda alias: alias[0])
    )
    return re.compile(r"(?<!\w)(?:" + "|".join(groups) + ")")


def _whole(alias: str) -> str:
    """The rest of an alias after its first character; a sign such as ₿ may stand right before a number."""
    return re.escape(alias[1:]) + (r"(?!\w)" if alias[-1].isalnum() else "")
