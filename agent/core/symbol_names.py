"""Recognises symbols in the names of exported history files, and in their columns.

`BTCUSDT-1m.parquet`, `Binance_BTCUSDT_1h.csv` (CryptoDataDownload), `BINANCE_BTCUSDT, 60.csv` (TradingView),
`BTC_USDT-5m.csv` (freqtrade) and `BTC-USDT-SWAP.csv` (OKX) all contain BTCUSDT; in a column, so do
`BTC/USDT:USDT` (ccxt) and `BINANCE:BTCUSDT`. A dated contract keeps its delivery date, because it is not the
perpetual.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_EXCHANGES: Final = _words(
    "binance binanceus bybit coinbase coinbasepro kraken okx okex bitfinex bitstamp bitget bitmex bithumb "
    "upbit kucoin gate gateio huobi htx mexc gemini poloniex bittrex deribit phemex cryptocom crypto nasdaq "
    "nyse amex arca bats lse xetr oanda forexcom fxcm fx idc index tvc cme cboe tradingview ohlc ohlcv "
    "klines kline candles funding rates spot linear futures um"
)
"""Words that may precede a symbol: exchanges and kinds of data."""

SYMBOL_COLUMNS: Final = (
    "symbol",
    "pair",
    "ticker",
    "instrument",
    "inst_id",
    "instrument_name",
    "contract",
    "product_id",
)
"""Names of the symbol column in exports."""

_NO_SYMBOLS: Final = _words(
    "data export download file output input prices price history historical bars bar chart test sample "
    "dataset df table untitled"
)
CASH: Final = _words(
    "USD USDT USDC FDUSD BUSD TUSD USDE USDS PYUSD DAI EUR EURC GBP JPY AUD CAD CHF NZD TRY BRL KRW INR IDR "
    "MXN ZAR PLN UAH SEK NOK SGD HKD CNH"
)
"""Currencies and stablecoins in which other assets are quoted."""

_QUOTES: Final = CASH | {"BTC", "ETH", "BNB", "PERP"}
_PERPETUAL: Final = frozenset(("SWAP", "PERP", "PERPETUAL"))
_SPAN: Final = re.compile(
    r"\d{1,4}(?:s|sec|m|min|mins|minutes?|h|hours?|d|days?|w|weeks?|mo|months?)|"
    r"(?:minute|hour|dai|week|month|year)ly|intraday|eod|(?:19|20)\d{2}(?:[01]\d(?:[0-3]\d)?)?"
)
"""Other words that may precede a symbol: an interval, a year, a month (202401) or a day."""

_YEAR: Final = re.compile(r"(?:19|20)\d{2}")
_TRADINGVIEW: Final = re.compile(
    r"(?:(?:cme|cbot|comex|nymex)_mini|[a-z0-9]+)_(.+), ?(?:\d{1,4}[a-z]?|[a-z])(?:[ _(].*)?"
)
_DELIVERY: Final = re.compile(
    r"\d{2}[01]\d[0-3]\d|\d{1,2}(?:JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC)\d{2}"
)
"""Delivery date of a contract: 240628 or 28JUN24."""

_CLASS: Final = re.compile(r"(?![DWMHS]\b)[A-Z]")
"""Share class after a dash (BRK-B): one letter, unless it stands for an interval."""

_EXCHANGE_OF_SHARE: Final = re.compile(r"(?!P\b|US\b)[A-Z]{1,2}")
"""Share class or exchange after a dot (BRK.B, 7203.T, SAP.DE). `.P` marks a perpetual, `.US` is dropped."""


def symbol_of(path: Path) -> str:
    """Return the symbol in a file's name, "" if it has none: `btcusdt-1m.parquet` -> `BTCUSDT`."""
    stem = re.sub(r"\.(csv|parquet|pq|jsonl|ndjson)(\.gz)?$", "", path.name.lower())
    # Bybit names its files BTCUSDT2024-01-01
    stem = re.sub(r"(?<=[a-z])(?=20\d\d-\d\d(?!\d))", "-", stem)
    shape = _TRADINGVIEW.fullmatch(stem)
    if shape and shape[1].upper() not in _QUOTES:  # otherwise it is a pair: BTC_USDT, 60
        return normalise(shape[1])
    words = [word for word in re.split(r"([-_,\s.]+)", stem) if word]
    words = words[1:] if words and re.fullmatch(r"[-_,\s.]+", words[0]) else words
    words, separators = words[::2], [*words[1::2], ""]
    after_year = False
    while words:
        is_day = after_year and re.fullmatch(r"\d{1,2}", words[0])
        if not (words[0] in _EXCHANGES or _SPAN.fullmatch(words[0]) or is_day):
            break
        numbered = len(words) > 1 and separators[0] == "." and words[0].isdigit()
        if numbered and _EXCHANGE_OF_SHARE.fullmatch(words[1].upper()):
            break  # an exchange that numbers its shares: 1925.T
        after_year = after_year or _YEAR.fullmatch(words[0]) is not None
        words, separators = words[1:], separators[1:]
    if not words or words[0] in _NO_SYMBOLS:
        return ""
    parts = [word.upper() for word in words]
    base, following = parts[0], parts[1] if len(parts) > 1 else ""
    if separators[0] == "-" and _CLASS.fullmatch(following):
        return f"{base}-{following}"
    if separators[0] == "." and _EXCHANGE_OF_SHARE.fullmatch(following):
        return f"{base}.{following}"
    # SPY-240628 is a share's file of that day, BTCUSDT-240628 a contract
    dated = _DELIVERY.fullmatch(following) and (_ends_with_cash(base) or not following.isdigit())
    if following in _QUOTES or following in _PERPETUAL or dated:
        taken = 3 if following in _QUOTES and len(parts) > 2 and _is_contract(parts[2]) else 2
        return normalise("-".join(parts[:taken]))
    return base


def normalise(text: str) -> str:
    """Convert a symbol of ccxt, TradingView and others to the venue's form.

    `BTC/USDT:USDT`, `BINANCE:BTCUSDT.P` and `BTC-USDT-SWAP` become `BTCUSDT`. A dated contract keeps its
    date: `BTC/USDT:USDT-240628` becomes `BTCUSDT-240628`.
    """
    symbol = text.strip().upper()
    prefix, colon, rest = symbol.partition(":")
    # Before a colon stands an exchange; after a pair the colon precedes the settlement coin
    if colon and not re.search(r"[/-]", prefix):
        symbol = rest
    pair, _, settled = symbol.partition(":")
    contract = settled.partition("-")[2]
    symbol = pair.removesuffix(".P")
    base, *others = re.split(r"[-/_]", symbol)
    if others and others[0] in _QUOTES and (others[0] != "PERP" or not _ends_with_cash(base)):
        joined, others = base + others[0], others[1:]
    elif others and _ends_with_cash(base):  # BTCUSDT-SWAP
        joined = base
    else:
        joined, others = symbol, []
    others = [one for one in others if one not in _PERPETUAL and one not in _QUOTES and one != base]
    if others and not _DELIVERY.fullmatch(others[0]):
        joined, others = symbol, []
    return "-".join([joined, *others, *([contract] if contract else [])])


def is_symbol(text: str) -> bool:
    """Return whether `text` may be a symbol; a `/` is allowed only between a coin and its quote currency."""
    if "/" not in text:
        return re.fullmatch(r"[A-Za-z0-9.:_^!-]*[A-Za-z0-9][A-Za-z0-9.:_^!-]*", text) is not None
    pair = re.fullmatch(r"[A-Za-z0-9]+/([A-Za-z0-9]+)(?::[A-Za-z0-9-]+)?", text)
    return pair is not None and pair[1].upper() in _QUOTES


def _is_contract(word: str) -> bool:
    return word in _PERPETUAL or word in _QUOTES or _DELIVERY.fullmatch(word) is not None


def _ends_with_cash(word: str) -> bool:
    return any(word.endswith(one) and word != one for one in CASH)
