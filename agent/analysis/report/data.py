"""What a report is made from: plain data, so that a page can be drawn from any source, and a program can read it as JSON."""

from __future__ import annotations

import msgspec

from agent.analysis.metrics import Metrics
from agent.analysis.trades import Trade
from agent.store.runs import Run


class Series(msgspec.Struct, frozen=True):
    """A curve to draw: UTC ms, rising, and as many values."""

    ts: list[int] = []
    values: list[float] = []


class Headline(msgspec.Struct, frozen=True):
    """A headline behind a trade. Its text is foreign: every renderer escapes it."""

    title: str
    publisher: str
    ts: int  # UTC ms of publication


class ReportData(msgspec.Struct, frozen=True, kw_only=True):
    """Everything on the page. Curves are thinned to about 4,000 points; `trades` are all, in order of their exit."""

    run: Run
    metrics: Metrics
    equity: Series
    benchmark: Series = Series()  # equal-weight buy-and-hold, from the same capital
    prices: dict[str, Series] = {}  # closes by symbol
    trades: list[Trade] = []
    headlines: dict[str, list[Headline]] = {}  # client order id -> what its signal rested on
    notes: list[str] = []  # what could not be had, e.g. a kline file that is gone
