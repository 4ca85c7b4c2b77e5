"""Layout of a CSV file: delimiter, header, and exports without a header or with a special one.

| export | layout |
|---|---|
| data.binance.vision | 12 columns, no header |
| Kraken's OHLCVT files | 7 columns, no header: time, open, high, low, close, volume, trades |
| Kraken's API | 8 columns, no header, with vwap before volume |
| MEXC's API | 8 columns, no header, with the close time after volume |
| CryptoDataDownload | its address above the header; `Volume BTC` and `Volume USDT` are volume and turnover |
| yfinance | header lines `Price,Close,…`, `Ticker,SPY,…` (in either order), `Date,,…` or `Datetime,,…` |
| MetaTrader | date and time in two columns, names such as `<OPEN>`, tabs; its older exports have no header |
| Stooq, Finam | as MetaTrader, with date and time in digits: `20250103,000000` |
| for Excel | a first line `sep=;` states the delimiter |
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from agent.core.symbol_names import CASH

DATE_TIME: Final = "datetime"
"""Name of the column that joins a column of dates and a column of times of day."""

_OHLC: Final = ("open", "high", "low", "close")
_MEXC: Final = ("open_time", *_OHLC, "volume", "close_time", "quote_volume")
_BINANCE: Final = (*_MEXC, "count", "taker_base", "taker_quote", "ignore")
_KRAKEN: Final = ("open_time", *_OHLC, "volume", "trades")
_KRAKEN_API: Final = ("open_time", *_OHLC, "vwap", "volume", "trades")
_HEADERLESS: Final = {len(names): names for names in (_BINANCE, _KRAKEN)}
_METATRADER: Final = ("date", "time", *_OHLC, "tickvol")
_NUMBER: Final = re.compile(r"[-+]?(?:\d+[.,]?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_DATE: Final = re.compile(r"\d{4}[-./]\d{1,2}[-./]\d{1,2}|(?:19|20)\d{6}(?!\d)")
_TIME: Final = re.compile(r"\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?|\d{4}|\d{6}")
_SEPARATOR: Final = re.compile(r'"?sep=(.)"?', re.IGNORECASE)  # first line of exports for Excel
_VOLUME_OF: Final = re.compile(r"volume\s+([A-Za-z0-9]+)", re.IGNORECASE)
_YAHOO: Final = frozenset(
    (*_OHLC, "adj close", "volume", "dividends", "stock splits", "capital gains", "repaired?")
)


class Dialect(NamedTuple):
    """Layout of a CSV file.

    `names` are the columns, `header_lines` the lines to skip. `date_and_time` names the two columns that
    together are a row's time, () if one column is. `symbol` is the symbol in the header, else "".
    """

    names: tuple[str, ...]
    header_lines: int
    delimiter: str = ","
    date_and_time: tuple[str, ...] = ()
    symbol: str = ""


def detect(lines: Sequence[str]) -> Dialect | None:
    """Return the layout of a file that begins with `lines`; None for an unknown one without a header.

    Raises csv.Error.
    """
    separator = _SEPARATOR.fullmatch(lines[0]) if lines else None
    skipped = 1 if separator else 0
    while len(lines) > skipped + 1 and _is_preamble(lines[skipped], lines[skipped + 1]):
        skipped += 1
    rest = lines[skipped : skipped + 4]
    first = rest[0] if rest else ""
    # if commas and semicolons are equally frequent, the commas may be decimal
    likely = max(",;\t|", key=lambda one: (first.count(one), one == ";"))
    delimiter = separator[1] if separator else likely
    rows = [[cell.strip() for cell in next(csv.reader([line], delimiter=delimiter), [])] for line in rest]
    names = rows[0] if rows else []
    if len(names) == len(_METATRADER) and _DATE.fullmatch(names[0]) and _TIME.fullmatch(names[1]):
        return Dialect(_METATRADER, skipped, delimiter, ("date", "time"))
    if names and all(_NUMBER.fullmatch(name) for name in names):
        known = _eight(rows) if len(names) == len(_KRAKEN_API) else _HEADERLESS.get(len(names))
        return None if known is None else Dialect(known, skipped, delimiter)
    if len(rows) > 2 and (prices := _yahoo(rows)):
        tickers = {cell for row in rows[:2] if row[1:] != prices for cell in row[1:] if cell}
        return Dialect((rows[2][0], *prices), skipped + 3, delimiter, symbol=",".join(sorted(tickers)))
    joined = _date_and_time(names, rows[1]) if len(rows) > 1 else ()
    return Dialect(_volumes(names), skipped + 1, delimiter, joined)


def _eight(rows: Sequence[list[str]]) -> tuple[str, ...] | None:
    """Return the names of 8 columns without a header, by their values; None if neither layout fits."""
    full = [row for row in rows if len(row) == len(_MEXC) and all(_NUMBER.fullmatch(cell) for cell in row)]
    values = [[float(cell.replace(",", ".")) for cell in row] for row in full]
    # Kraken's vwap is between low and high, and 0 without trades
    if all(row[3] <= row[5] <= row[2] or row[5] == row[6] == 0 for row in values):
        return _KRAKEN_API
    if len(values) > 1:
        interval = abs(values[1][0] - values[0][0])
        # MEXC: the close time is the next open time, or 1 unit before it
        if interval and all(abs(row[6] - row[0] - interval) <= 1 for row in values):
            return _MEXC
    return None


def _yahoo(rows: Sequence[list[str]]) -> list[str]:
    """Return the names of the prices in yfinance's three header lines; [] if it isn't such a header."""
    if rows[2][:1] not in (["Date"], ["Datetime"]) or any(rows[2][1:]):
        return []
    if rows[0][:1] not in (["Price"], ["Ticker"], [""]):
        return []
    return next((row[1:] for row in rows[:2] if row[1:] and {cell.lower() for cell in row[1:]} <= _YAHOO), [])


def _is_preamble(line: str, following: str) -> bool:
    """Return whether `line` is an address or a title above the header `following`."""
    return not any(one in line for one in ",;\t|") and any(following.count(one) > 3 for one in ",;\t|")


def _volumes(names: Sequence[str]) -> tuple[str, ...]:
    """Rename `Volume BTC` and `Volume USDT` to volume and turnover."""
    found = {name: match[1].upper() for name in names if (match := _VOLUME_OF.fullmatch(name))}
    if len(found) != 2 or sum(coin in CASH for coin in found.values()) != 1:
        return tuple(names)
    renamed = {name: "turnover" if coin in CASH else "volume" for name, coin in found.items()}
    return tuple(renamed.get(name, name) for name in names)


def _date_and_time(names: Sequence[str], values: Sequence[str]) -> tuple[str, ...]:
    """Return the names of a column of dates and one of times of day, by the first row's `values`; else ()."""
    folded = {name.strip("<>").lower(): name for name in names}
    if not {"date", "time"} <= folded.keys() or len(values) != len(names):
        return ()
    row = dict(zip(names, values, strict=True))
    date, time = folded["date"], folded["time"]
    return (date, time) if _TIME.fullmatch(row[time]) and _DATE.match(row[date]) else ()
