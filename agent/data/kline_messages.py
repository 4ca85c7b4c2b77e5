"""The venue's messages as typed structs, and what of them is a sound bar.

Field meanings: https://bybit-exchange.github.io/docs/v5/websocket/public/kline and .../market/kline. Numbers come as strings.
"""

from __future__ import annotations

from math import inf
from typing import Final

import msgspec

from agent.config.bybit import on_grid
from agent.core.events import Kline


class Frame(msgspec.Struct):
    """Any message of the public stream: data has a `topic`, answers have an `op`."""

    topic: str = ""
    ts: int = 0
    data: msgspec.Raw = msgspec.Raw()
    op: str = ""
    success: bool | None = None
    ret_msg: str | None = None
    req_id: str | int | None = None

    @property
    def is_pong(self) -> bool:
        """Every channel words it differently: `op` is pong, or ping with `ret_msg` pong."""
        return self.op == "pong" or (self.op == "ping" and self.ret_msg == "pong")


class Row(msgspec.Struct, gc=False):
    """A bar of the stream, open or closed."""

    start: int
    end: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    turnover: float
    confirm: bool


class PageRow(msgspec.Struct, array_like=True, gc=False):
    """A bar of the REST history; columns that the venue may add behind these are ignored."""

    start: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    turnover: float


class PageResult(msgspec.Struct):
    """What `result` of market/kline holds; newest first."""

    rows: list[PageRow] = msgspec.field(name="list")


class Time(msgspec.Struct):
    """An answer of market/time: the venue's clock, UTC ms."""

    time: int


class Page(msgspec.Struct):
    """An answer of market/kline; `time` is the venue's clock, UTC ms."""

    result: PageResult
    time: int


_LEAST: Final = 1e-12
_MOST: Final = 1e12  # no price of anything is outside these

# `strict=False` reads numbers from strings.
_FRAME: Final = msgspec.json.Decoder(Frame)
_ROWS: Final = msgspec.json.Decoder(list[Row], strict=False)


def read_frame(message: bytes) -> Frame:
    """Raises one of `agent.system.untrusted.JSON_DECODE_ERRORS` where it is no JSON object of this shape."""
    return _FRAME.decode(message)


def read_rows(data: msgspec.Raw) -> list[Row]:
    """Raises one of `agent.system.untrusted.JSON_DECODE_ERRORS` where it is no list of bars."""
    return _ROWS.decode(data)


def read_page(answer: object) -> Page:
    """Raises msgspec.ValidationError where the decoded answer has another shape."""
    return msgspec.convert(answer, Page, strict=False)


def read_time(answer: object) -> int:
    """UTC ms. Raises msgspec.ValidationError if the decoded answer has another shape."""
    return msgspec.convert(answer, Time, strict=False).time


def is_sound(row: Row | PageRow, interval: int, latest: int) -> bool:
    """Whether the bar opens where one can, at `latest` (UTC ms) at most, and its prices are possible and consistent."""
    return (
        on_grid(row.start, interval)
        and 0 <= row.start <= latest
        and _LEAST < row.low <= row.open <= row.high < _MOST
        and row.low <= row.close <= row.high
        and 0 <= row.volume < inf
        and 0 <= row.turnover < inf
        and (isinstance(row, PageRow) or row.end == row.start + interval - 1)
    )


def to_kline(row: Row | PageRow, symbol: str, interval: int, ts: int, now: int) -> Kline:
    """The event, where a message of `ts` arrived at `now` (UTC ms). A closed bar is true, and known, from its close on."""
    confirm = isinstance(row, PageRow) or row.confirm
    if confirm:
        ts = row.start + interval
        now = max(now, ts)
    prices = (row.open, row.high, row.low, row.close, row.volume, row.turnover)
    return Kline(symbol, interval, row.start, ts, now, *prices, confirm=confirm)
