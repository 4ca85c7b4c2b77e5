"""What a report is made from: plain data, so that a page can be drawn from any source, and a program can read it as JSON."""

from __future__ import annotations

import msgspec

from agent.analysis.breakdown import Group
from agent.analysis.costs import Costs
from agent.analysis.decay import Decay
from agent.analysis.event_study import EventStudy
from agent.analysis.metrics import Metrics
from agent.analysis.outcomes import Outcomes
from agent.analysis.regimes import RULE, RegimeRule
from agent.analysis.significance import Difference, Interval
from agent.analysis.trades import Trade
from agent.config import Config, parse
from agent.core.events import DAY_MS, RiskEvent, RiskState
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


class Mark(msgspec.Struct, frozen=True):
    """A headline beside a price: when its score was known (UTC ms), how the model read it, and the close known then."""

    ts: int
    price: float
    title: str
    publisher: str
    predicted: str  # bearish, neutral or bullish
    confidence: float


class Significance(msgspec.Struct, frozen=True):
    """How far the result is from luck, from the returns of `periods` periods (`Evidence.period`). An undefined figure is None.

    - `sharpe`, `total_return`: with 95 % intervals of the stationary bootstrap.
    - `probabilistic_sharpe`: probability that the true Sharpe ratio is above zero.
    - `against_hold`: the same periods of buy-and-hold subtracted, resampled together.
    """

    periods: int
    sharpe: Interval | None = None
    total_return: Interval | None = None
    probabilistic_sharpe: float | None = None
    against_hold: Difference | None = None


class Rolling(msgspec.Struct, frozen=True):
    """The Sharpe ratio of the last `window` periods (`Evidence.period`), of the run and of buy-and-hold."""

    window: int
    own: Series
    hold: Series = Series()


class Evidence(msgspec.Struct, frozen=True):
    """What is computed beyond the metrics. `absent` maps each missing part to its reason.

    `period` (ms) is the length of the periods behind `significance`, `rolling`, `years` and `regimes`: a UTC day, or one bar if bars
    are longer than a day.
    """

    costs: Costs
    significance: Significance
    period: int = DAY_MS
    rolling: Rolling | None = None
    years: dict[str, Group] = {}
    regime_rule: RegimeRule = RULE
    regimes: dict[str, dict[str, Group]] = {}  # the market as a whole under "", then by symbol -> regime
    symbol_years: dict[str, dict[str, Group]] = {}  # symbol -> year
    outcomes: list[Outcomes] = []
    event_study: EventStudy | None = None
    decay: Decay | None = None
    absent: dict[str, str] = {}


class ReportData(msgspec.Struct, frozen=True, kw_only=True):
    """Everything on the page. Curves are thinned to about 4,000 points; `trades` are all, in order of their exit."""

    run: Run
    metrics: Metrics
    equity: Series
    evidence: Evidence
    benchmark: Series = Series()  # equal-weight buy-and-hold, from the same capital
    prices: dict[str, Series] = {}  # closes by symbol
    marks: dict[str, list[Mark]] = {}  # headlines by symbol, the surest where there are many
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
