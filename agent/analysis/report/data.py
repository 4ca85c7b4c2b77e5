"""What a report is made from: plain data, so that a page can be drawn from any source, and a program can read it as JSON."""

from __future__ import annotations

import msgspec

from agent.analysis.metrics import Metrics
from agent.analysis.trades import Trade
from agent.config import Config, parse
from agent.events import RiskEvent, RiskState
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
    risk: list[RiskEvent] = []  # changes of the risk state
    refusals: dict[str, int] = {}  # orders that risk refused, by rule
    notes: list[str] = []  # what could not be had, e.g. a kline file that is gone

    @property
    def config(self) -> Config:
        """As it was when the run began."""
        return recorded_config(self.run)

    @property
    def halted(self) -> RiskEvent | None:
        """What halted the run for good."""
        return self.risk[-1] if self.risk and self.risk[-1].state is RiskState.HALTED else None


def recorded_config(run: Run) -> Config:
    """The configuration that a run recorded, without the window beside it."""
    settings = {key: value for key, value in run.config.items() if key != "window"}
    return parse(settings, where=f"the configuration recorded with run {run.id}")
