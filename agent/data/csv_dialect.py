"""How a CSV file is laid out: its delimiter, its header, and the exports that have none or one of their own.

| export | layout |
|---|---|
| data.binance.vision | 12 columns, no header |
| Kraken's OHLCVT files | 7 columns, no header: time, open, high, low, close, volume, trades; from its API 8, with vwap before volume |
| MEXC's API | 8 columns, no header, with the close time after volume |
| CryptoDataDownload | the site's address above the header; `Volume BTC` and `Volume USDT` are volume and turnover |
| yfinance | three header lines: `Price,Close,…`, `Ticker,SPY,…`, `Date,,…` (`Datetime` if intraday); the first two in either order |
| MetaTrader | date and time in two columns, names such as `<OPEN>`, tabs; its older exports have no header |
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from agent.core.symbol_names import CASH

DATE_TIME: Final = "datetime"
"""Name of the column that joins a date and a time of day kept in two columns."""

_OHLC: Final = ("open", "high", "low", "close")
_HEADERLESS: Final[dict[int, tuple[str, ...]]] = {
    12: (
        "open_time", *_OHLC, "volume", "close_time", "quote_volume",
        "count", "taker_base", "taker_quote", "ignore",
    ),
    7: ("open_time", *_OHLC, "volume", "trades"),
}  # fmt: skip
_KRAKEN_API: Final = ("open_time", *_OHLC, "vwap", "volume", "trades")
_MEXC: Final = ("open_time", *_OHLC, "volume", "close_time", "quote_volume")
_METATRADER: Final = ("date", "time", *_OHLC, "tickvol")
_NUMBER: Final = re.compile(r"[-+]?(?:\d+[.,]?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_DATE: Final = re.compile(r"\d{4}[-./]\d{1,2}[-./]\d{1,2}")
_TIME: Final = re.compile(r"\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?")
_VOLUME_OF: Final = re.compile(r"volume\s+([A-Za-z0-9]+)", re.IGNORECASE)
_YAHOO: Final = frozenset(
    (*_OHLC, "adj close", "volume", "dividends", "stock splits", "capital gains", "repaired?")
)


class Dialect(NamedTuple):
    """`names` of the columns, `header_lines` to skip, and the delimiter.

    `date_and_time` names the two columns that together are the time of a row, () if one column is; `symbol` is the symbol
    that the header itself states.
    """

    names: tuple[str, ...]
    header_lines: int
    delimiter: str = ","
    date_and_time: tuple[str, ...] = ()
    symbol: str = ""


def detect(lines: Sequence[str]) -> Dialect | None:
    """The layout of a file that begins with `lines`; None if it has no header and isn't a known export. Raises csv.Error."""
    skipped = 0
    while len(lines) > skipped + 1 and _is_preamble(lines[skipped], lines[skipped + 1]):
        skipped += 1
    rest = lines[skipped : skipped + 4]
    first = rest[0] if rest else ""
    delimiter = max(",;\t|", key=lambda one: (first.count(one), one == ";"))  # of two, a comma may be decimal
    rows = [[cell.strip() for cell in next(csv.reader([line], delimiter=delimiter), [])] for line in rest]
    names = rows[0] if rows else []
    if names and all(_NUMBER.fullmatch(name) for name in names):
        known = _eight(rows) if len(names) == len(_KRAKEN_API) else _HEADERLESS.get(len(names))
        return None if known is None else Dialect(known, skipped, delimiter)
    if len(names) == len(_METATRADER) and _DATE.fullmatch(names[0]) and _TIME.fullmatch(names[1]):
        return Dialect(_METATRADER, skipped, delimiter, ("date", "time"))
    if len(rows) > 2 and (prices := _yahoo(rows)):
        tickers = {cell for row in rows[:2] if row[1:] != prices for cell in row[1:] if cell}
        return Dialect((rows[2][0], *prices), skipped + 3, delimiter, symbol=",".join(sorted(tickers)))
    return Dialect(
        _volumes(names), skipped + 1, delimiter, _date_and_time(names, rows[1] if len(rows) > 1 else [])
    )


def _eight(rows: Sequence[list[str]]) -> tuple[str, ...] | None:
    """The names of 8 columns without a header, as the values show them; None if they show neither layout."""
    full = [row for row in rows if len(row) == len(_MEXC) and all(_NUMBER.fullmatch(cell) for cell in row)]
    values = [[float(cell.replace(",", ".")) for cell in row] for row in full]
    # Kraken: vwap is 0 without trades
    if all(row[3] <= row[5] <= row[2] or row[5] == row[6] == 0 for row in values):
        return _KRAKEN_API
    if len(values) > 1:
        interval = abs(values[1][0] - values[0][0])
        # the close time may be 1 unit early
        if interval and all(abs(row[6] - row[0] - interval) <= 1 for row in values):
            return _MEXC
    return None


def _yahoo(rows: Sequence[list[str]]) -> list[str]:
    """The names of the prices in yfinance's three header lines, which are in the first or the second; [] if it is no such header."""
    if (
        rows[2][:1] not in (["Date"], ["Datetime"])
        or any(rows[2][1:])
        or rows[0][:1] not in (["Price"], ["Ticker"], [""])
    ):
        return []
    return next((row[1:] for row in rows[:2] if row[1:] and {cell.lower() for cell in row[1:]} <= _YAHOO), [])


def _is_preamble(line: str, following: str) -> bool:
    """An address or a title above the header."""
    return not any(one in line for one in ",;\t|") and any(following.count(one) > 3 for one in ",;\t|")


def _volumes(names: Sequence[str]) -> tuple[str, ...]:
    """`Volume BTC`, `Volume USDT` as volume and turnover."""
    found = {name: match[1].upper() for name in names if (match := _VOLUME_OF.fullmatch(name))}
    if len(found) != 2 or sum(coin in CASH for coin in found.values()) != 1:
        return tuple(names)
    return tuple(
        name if name not in found else "turnover" if found[name] in CASH else "volume" for name in names
    )


def _date_and_time(names: Sequence[str], values: Sequence[str]) -> tuple[str, ...]:
    """The columns of a date and of a time of day, as the first row of values shows them."""
    folded = {name.strip("<>").lower(): name for name in names}
    if not {"date", "time"} <= folded.keys() or len(values) != len(names):
        return ()
    row = dict(zip(names, values, strict=True))
    return (
        (folded["date"], folded["time"])
        if _TIME.fullmatch(row[folded["time"]]) and _DATE.match(row[folded["date"]])
        else ()
    )
