"""Bybit's kline messages as typed structs, and the validity check of their bars.

Fields: https://bybit-exchange.github.io/docs/v5/websocket/public/kline and .../market/kline. Numbers are sent
as strings.
"""

from __future__ import annotations

from math import inf
from typing import Final

import msgspec

from agent.config.bybit import on_grid
from agent.core.events import Kline


class Frame(msgspec.Struct):
    """Any message of the public stream: data has a `topic`, a response has an `op`."""

    topic: str = ""
    ts: int = 0
    data: msgspec.Raw = msgspec.Raw()
    op: str = ""
    success: bool | None = None
    ret_msg: str | None = None
    req_id: str | int | None = None

    @property
    def is_pong(self) -> bool:
        """True for a pong, which some channels send as `op` pong, others as `op` ping with `ret_msg` pong."""
        return self.op == "pong" or (self.op == "ping" and self.ret_msg == "pong")


class StreamRow(msgspec.Struct, gc=False):
    """Bar of the stream, open or closed."""

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
    """Bar of the REST history; further columns are ignored."""

    start: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    turnover: float


class PageResult(msgspec.Struct):
    """The field `result` of market/kline; newest first."""

    rows: list[PageRow] = msgspec.field(name="list")


class ServerTime(msgspec.Struct):
    """Response of market/time: the venue's clock, UTC ms."""

    time: int


class Page(msgspec.Struct):
    """Response of market/kline; `time` is the venue's clock, UTC ms."""

    result: PageResult
    time: int


_LEAST: Final = 1e-12
_MOST: Final = 1e12  # any price outside these is an error

# `strict=False` reads numbers from strings.
_FRAME: Final = msgspec.json.Decoder(Frame)
_ROWS: Final = msgspec.json.Decoder(list[StreamRow], strict=False)


def read_frame(message: bytes) -> Frame:
    """Decode a stream message. Raises one of `agent.system.untrusted.JSON_DECODE_ERRORS`."""
    return _FRAME.decode(message)


def read_rows(data: msgspec.Raw) -> list[StreamRow]:
    """Decode the bars of a stream message. Raises one of `agent.system.untrusted.JSON_DECODE_ERRORS`."""
    return _ROWS.decode(data)


def read_page(response: object) -> Page:
    """Convert a decoded response of market/kline. Raises msgspec.ValidationError."""
    return msgspec.convert(response, Page, strict=False)


def read_time(response: object) -> int:
    """Return the UTC ms of a decoded response of market/time. Raises msgspec.ValidationError."""
    return msgspec.convert(response, ServerTime, strict=False).time


def is_sound(row: StreamRow | PageRow, interval: int, latest: int) -> bool:
    """Return whether the bar opens on the grid, by `latest` (UTC ms), and its values are consistent."""
    return (
        on_grid(row.start, interval)
        and 0 <= row.start <= latest
        and _LEAST < row.low <= row.open <= row.high < _MOST
        and row.low <= row.close <= row.high
        and 0 <= row.volume < inf
        and 0 <= row.turnover < inf
        and (isinstance(row, PageRow) or row.end == row.start + interval - 1)
    )


def to_kline(row: StreamRow | PageRow, symbol: str, interval: int, ts: int, now: int) -> Kline:
    """Convert a bar of a message with stamp `ts` that arrived at `now` (UTC ms).

    A closed bar is dated by its close, and available then at the earliest.
    """
    confirm = isinstance(row, PageRow) or row.confirm
    if confirm:
        ts = row.start + interval
        now = max(now, ts)
    prices = (row.open, row.high, row.low, row.close, row.volume, row.turnover)
    return Kline(symbol, interval, row.start, ts, now, *prices, confirm=confirm)
