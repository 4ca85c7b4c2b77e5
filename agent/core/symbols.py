"""Maps headlines to traded symbols and to assets, by the tickers of the source and by names in the text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Final

from agent.core.coin_names import MAJOR_COINS, OTHER_COINS
from agent.core.name_matcher import QUOTES, SAME_COIN, NameMatcher

if TYPE_CHECKING:
    from agent.core.settings import InstrumentConfig

_PAIR: Final = re.compile(rf"(?:10+)?([A-Z0-9]+?)(?:10{{3,}})?(?:[-_]?(?:{QUOTES})(?![A-Z]).*|[/:].*)?")
_CASHTAG: Final = re.compile(r"(?<![\w$])\$([A-Z][A-Z0-9]{1,9})(?![\w])")


def base_of(symbol: str) -> str:
    """Return a symbol's coin or share: BTC of `BTCUSDT` and `BTC/USDT:USDT`, PEPE of `1000PEPEUSDT`."""
    match = _PAIR.fullmatch(symbol.upper())
    base = match[1] if match else symbol.upper()
    return SAME_COIN.get(base, base)


def coin_names() -> tuple[str, ...]:
    """Return the names and tickers of the major coins; those with capitals match only as written."""
    return tuple(alias for aliases in MAJOR_COINS.values() for alias in aliases.split("|"))


class SymbolMapper:
    """Maps a headline to the traded `symbols` that it is about.

    A coin is found, as a whole word, by its names in the built-in table, by `$ticker`, by its symbol or
    another pair of it, and by the configured `aliases` of its instrument. Aliases follow the same rule of
    capitals as the table and take precedence over it. In scripts without spaces between words, such as
    Chinese, an alias matches anywhere. If a whole headline is in capitals, names that depend on capitals do
    not match.

    A headline that contains one of `macro_keywords` and no coin, traded or not, is about every symbol: "Fed
    cuts rates" is, "Polkadot cuts inflation" is not.
    """

    def __init__(
        self,
        symbols: Iterable[str],
        instruments: Mapping[str, InstrumentConfig],
        macro_keywords: Iterable[str],
    ) -> None:
        self.symbols: Final = tuple(dict.fromkeys(symbols))
        self._by_base: dict[str, tuple[str, ...]] = {}
        for symbol in self.symbols:
            base = base_of(symbol)
            self._by_base[base] = (*self._by_base.get(base, ()), symbol)
        self._order = {symbol: number for number, symbol in enumerate(self.symbols)}
        self._names = NameMatcher()
        for keyword in macro_keywords:
            self._names.add(keyword, self.symbols, macro=True)
        for symbol in self.symbols:
            self._names.add(_ticker(symbol), (symbol,))
        for base in MAJOR_COINS.keys() | self._by_base.keys():
            self._names.add_base(base, self._by_base.get(base, ()))
        # Without traded coins their names are ignored: "Bitcoin slips as Fed holds rates" is then news about
        # the Fed
        coins = MAJOR_COINS if self._by_base.keys() & MAJOR_COINS else {}
        for base in coins.keys() | self._by_base.keys():
            traded = self._by_base.get(base, ())
            self._names.add("$" + base.lower(), traded)
            for alias in coins.get(base, _ticker(base)).split("|"):
                self._names.add(alias, traded)
        configured: dict[str, tuple[str, ...]] = {}
        for symbol in self.symbols:
            for alias in instruments[symbol].aliases if symbol in instruments else ():
                configured[alias] = (*configured.get(alias, ()), symbol)
        for alias, named in configured.items():
            self._names.add(alias, named)

    def map(self, title: str, currencies: Iterable[str] = ()) -> tuple[str, ...]:
        """Return the headline's symbols in traded order; `currencies` are tickers that the source gives."""
        reading = self._names.read(title)
        if reading.macro and not reading.named:
            return self.symbols
        found = {symbol for mention in reading.mentions for symbol in mention.symbols}
        for ticker in currencies:
            found.update(self._by_base.get(self._base_of_ticker(ticker.upper()), ()))
        return tuple(sorted(found, key=self._order.__getitem__))

    def knows(self, ticker: str) -> bool:
        """Return whether a source's ticker is a coin of the table or is traded."""
        base = self._base_of_ticker(ticker.upper())
        return base in MAJOR_COINS or base in self._by_base

    def _base_of_ticker(self, ticker: str) -> str:
        """Return the coin of a ticker or pair: BTC of `XBT`, `BTCUSD` and `BTC_USDT`; PEPE of `1000PEPE`."""
        if ticker in self._by_base or ticker in MAJOR_COINS:
            return ticker
        base = base_of(ticker)
        return base if len(base) > 1 or not ticker.isalnum() else ticker  # WBTC is not a pair of W


class AssetFinder:
    """Finds the coins and shares that a headline names, traded or not, and where.

    It knows the names of `MAJOR_COINS` and `OTHER_COINS`, the traded `symbols`, and the configured aliases of
    their instruments; any other `$TICKER` is an asset, too.
    """

    def __init__(
        self, symbols: Iterable[str] = (), instruments: Mapping[str, InstrumentConfig] | None = None
    ) -> None:
        self._names = NameMatcher()
        coins = OTHER_COINS | MAJOR_COINS
        traded = {symbol: base_of(symbol) for symbol in symbols}
        for base in dict.fromkeys((*coins, *traded.values())):
            self._names.add_base(base, (base,))
            self._names.add("$" + base.lower(), (base,))
            for alias in coins.get(base, _ticker(base)).split("|"):
                self._names.add(alias, (base,))
        configured: dict[str, dict[str, None]] = {}
        for symbol, base in traded.items():
            self._names.add(_ticker(symbol), (base,))
            for alias in instruments[symbol].aliases if instruments and symbol in instruments else ():
                configured.setdefault(alias, {})[base] = None
        for alias, bases in configured.items():
            self._names.add(alias, tuple(bases))

    @cached_property
    def digest(self) -> str:
        """Hash of all names: two finders with the same digest find the same assets."""
        return self._names.digest

    def find(self, title: str) -> dict[str, tuple[tuple[int, int], ...]]:
        """Return for each asset the (start, end) of its names in `title`, in the order of first mention."""
        found: dict[str, list[tuple[int, int]]] = {}
        mentions = self._names.read(title).mentions
        places = [(mention.start, mention.end, asset) for mention in mentions for asset in mention.symbols]
        taken = {mention.start for mention in mentions}
        places += [
            (match.start(), match.end(), match[1])
            for match in _CASHTAG.finditer(title)
            if not taken & {match.start(), match.start(1)}
        ]
        for start, end, ticker in sorted(places):
            found.setdefault(ticker, []).append((start, end))
        return {ticker: tuple(spans) for ticker, spans in found.items()}


def _ticker(name: str) -> str:
    """Return a ticker that may occur in a headline; "" for one letter, which only `$T` marks as a ticker."""
    return name if len(name) > 1 else ""
