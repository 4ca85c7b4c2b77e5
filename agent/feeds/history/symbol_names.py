"""The symbol of a history file, from the names that exports give it.

`BTCUSDT-1m.parquet`, `Binance_BTCUSDT_1h.csv` (CryptoDataDownload), `BINANCE_BTCUSDT, 60.csv` (TradingView), `BTC_USDT-5m.csv`
(freqtrade) are all of BTCUSDT; so are `BTC/USDT:USDT` (ccxt) and `BINANCE:BTCUSDT` in a column.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

_EXCHANGES: Final = frozenset((
    "binance", "binanceus", "bybit", "coinbase", "coinbasepro", "kraken", "okx", "okex", "bitfinex", "bitstamp", "bitget", "bitmex",
    "bithumb", "upbit", "kucoin", "gate", "gateio", "huobi", "htx", "mexc", "gemini", "poloniex", "bittrex", "deribit", "phemex",
    "cryptocom", "crypto", "nasdaq", "nyse", "amex", "arca", "lse", "xetr", "oanda", "forexcom", "fxcm", "fx", "idc", "index", "tvc",
    "cme", "cboe", "tradingview", "ohlc", "ohlcv", "klines", "kline", "candles", "funding", "rates", "spot", "linear", "futures", "um",
))  # fmt: skip
"""Words in front of a symbol: exchanges as exports write them, and kinds of data."""

_NO_SYMBOLS: Final = frozenset((
    "data", "export", "download", "file", "output", "input", "prices", "price", "history", "historical", "bars", "bar", "chart", "test",
    "sample", "dataset", "df", "table", "untitled",
))  # fmt: skip
_QUOTES: Final = frozenset(("USDT", "USDC", "USD", "FDUSD", "BUSD", "EUR", "BTC", "ETH", "PERP"))
_INTERVAL: Final = re.compile(r"\d+(?:s|m|min|h|d|w|mo)?", re.IGNORECASE)


def symbol_of(path: Path) -> str:
    """The symbol that a file's name states, "" if it states none: `BTCUSDT` of `btcusdt-1m.parquet`."""
    stem = re.sub(r"\.(csv|parquet|pq|jsonl|ndjson)(\.gz)?$", "", path.name.lower())
    words = [word for word in re.split(r"[-_,\s.]+", stem) if word]
    while len(words) > 1 and words[0] in _EXCHANGES:
        words.pop(0)
    if not words or words[0] in _NO_SYMBOLS or (words[0] in _EXCHANGES and len(words) == 1):
        return ""
    base = words[0].upper()
    if len(words) > 1 and words[1].upper() in _QUOTES and not _INTERVAL.fullmatch(base):
        return base + words[1].upper()
    return base


def normalise(text: str) -> str:
    """A symbol as venues write it, from how ccxt, TradingView and others do: `BTC/USDT:USDT`, `BINANCE:BTCUSDT.P`, `BTC-USDT`."""
    symbol = text.strip().upper()
    prefix, colon, rest = symbol.partition(":")
    if colon and "/" not in prefix:  # of an exchange; after a pair a colon names the coin that it settles in
        symbol = rest
    symbol = symbol.partition(":")[0].removesuffix(".P")
    base, _, quote = symbol.replace("/", "-").replace("_", "-").partition("-")
    return base + quote if quote in _QUOTES else symbol
