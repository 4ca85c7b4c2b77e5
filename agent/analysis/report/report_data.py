"""The data of a report: plain structures that the page is rendered from and that are also written as JSON."""

from __future__ import annotations

import msgspec

from agent.analysis.breakdown import PeriodGroup
from agent.analysis.cost_breakdown import CostBreakdown
from agent.analysis.decay import Decay
from agent.analysis.equity import Drawdown
from agent.analysis.event_study import EventStudy
from agent.analysis.kind_study import KindStudy
from agent.analysis.member_study import MemberStudy
from agent.analysis.outcomes import Outcomes
from agent.analysis.realised_moves import RealisedMoves
from agent.analysis.regimes import RULE, RegimeRule
from agent.analysis.run_metrics import Metrics
from agent.analysis.significance import Difference, Interval
from agent.analysis.sleeve_study import SleeveStudy
from agent.analysis.story_table import StoryResults
from agent.analysis.trade_groups import TradeAnalysis
from agent.analysis.trades import RoundTrip
from agent.analysis.twin_report import TwinReport
from agent.config import Config, parse
from agent.core.events import DAY_MS, RiskEvent, RiskState
from agent.store.runs import Run
from agent.store.strategy_history import RecordedVersion
from models.sentiment.serve.drift import Drift


class Curve(msgspec.Struct, frozen=True):
    """A curve of a chart: times in UTC ms, ascending, and one value for each."""

    ts: list[int] = []
    values: list[float] = []


class Candles(msgspec.Struct, frozen=True):
    """Candles of `interval` ms: open times in UTC ms, ascending, prices and volumes, one for each."""

    interval: int
    ts: list[int] = []
    open: list[float] = []
    high: list[float] = []
    low: list[float] = []
    close: list[float] = []
    volume: list[float] = []


class ProtectiveLevel(msgspec.Struct, frozen=True):
    """The trigger of a stop or take-profit order while it worked, except for trailing stops."""

    start: int  # UTC ms
    end: int | None  # None if it worked until the end of the run
    price: float
    kind: str  # stop or take profit


class SourceHeadline(msgspec.Struct, frozen=True):
    """A headline that a trade was based on. Its text is untrusted, so every renderer must escape it."""

    title: str
    publisher: str
    ts: int  # UTC ms of publication


class HeadlineMarker(msgspec.Struct, frozen=True):
    """A scored headline on a price chart: when its score was known (UTC ms), and the last close then."""

    ts: int
    price: float
    title: str
    publisher: str
    predicted: str  # bearish, neutral or bullish: for this symbol, if the model has a score for it
    confidence: float
    kind: str = ""  # of news; empty if the model has none


class Significance(msgspec.Struct, frozen=True):
    """Statistical significance of the returns of `periods` periods (`RunEvidence.period`). None if undefined.

    - `sharpe`, `total_return`: with 95 % intervals from the stationary bootstrap.
    - `probabilistic_sharpe`: probability that the true Sharpe ratio is above zero.
    - `against_hold`: the run minus buy-and-hold over the same periods, resampled together.
    """

    periods: int
    sharpe: Interval | None = None
    total_return: Interval | None = None
    probabilistic_sharpe: float | None = None
    against_hold: Difference | None = None


class Rolling(msgspec.Struct, frozen=True):
    """The Sharpe ratio of the run and of buy-and-hold over the last `window` periods (see `RunEvidence`)."""

    window: int
    own: Curve
    hold: Curve = Curve()


class RunEvidence(msgspec.Struct, frozen=True):
    """Results beyond the metrics. `absent` maps each missing part to the reason.

    `period` (ms) is the length of the periods of `significance`, `rolling`, `years` and `regimes`: a UTC day,
    or one bar if bars are longer than a day.
    """

    costs: CostBreakdown
    significance: Significance
    period: int = DAY_MS
    rolling: Rolling | None = None
    years: dict[str, PeriodGroup] = {}
    regime_rule: RegimeRule = RULE
    regimes: dict[str, dict[str, PeriodGroup]] = {}  # symbol ("" for the market as a whole) -> regime
    symbol_years: dict[str, dict[str, PeriodGroup]] = {}  # symbol -> year
    outcomes: list[Outcomes] = []
    event_study: EventStudy | None = None
    kinds: KindStudy | None = None  # None if the model has no kinds of news
    decay: Decay | None = None
    absent: dict[str, str] = {}


class ModelDrift(msgspec.Struct, frozen=True):
    """The drift of the model that scored last, and the price moves after all bullish and bearish calls.

    Unknown tokens are not recorded.
    """

    drift: Drift
    moves: RealisedMoves


class RevisedHeadline(msgspec.Struct, frozen=True):
    """A headline in whose likeliest class the two models differ; a class may be `abstained`."""

    at: int  # when the revision was available, UTC ms
    title: str
    publisher: str
    first: str
    first_confidence: float
    revised: str
    revised_confidence: float
    reason: str = ""  # of a language model, on one line


class RevisionSummary(msgspec.Struct, frozen=True):
    """First scores and those of the model that revises them, for the headlines as a whole.

    Of the `provisional` first scores `revisions` were revised, on average `latency_ms` later; `abstained`
    revisions were abstentions. `changed` have another likeliest class, where both models answered, and
    `agreement` is the share of the others. `matrix` counts revisions by class of the first score, then of
    the revision; an abstention is the class `abstained`. Shares and means of nothing are None.

    First scores that nothing revised are in `given_up`, by its cause (`agent.data.given_up.CAUSES`), or still
    `waiting` at the end of the run. `headlines` are those of another class, in order of time.
    """

    model: str  # fingerprint of the revising model that answered last
    provisional: int
    revisions: int
    abstained: int
    changed: int
    agreement: float | None
    latency_ms: float | None
    matrix: dict[str, dict[str, int]]
    given_up: dict[str, int] = {}
    waiting: int = 0
    headlines: list[RevisedHeadline] = []


class ReportData(msgspec.Struct, frozen=True, kw_only=True):
    """All data of the page. Curves have at most about 4,000 points; `trades` are in order of exit.

    The candles are the run's bars again, so the JSON file beside a page has none.
    """

    run: Run
    metrics: Metrics
    equity: Curve
    evidence: RunEvidence
    benchmark: Curve = Curve()  # equal-weight buy-and-hold with the same capital
    prices: dict[str, Curve] = {}  # closes by symbol
    candles: dict[str, Candles] = {}  # by symbol, of a limited number
    levels: dict[str, list[ProtectiveLevel]] = {}  # by symbol, in order of their start
    plots: dict[str, dict[str, Curve]] = {}  # what the strategy plots, by symbol ("": of none) and name
    marks: dict[str, list[HeadlineMarker]] = {}  # by symbol; those with the highest confidence
    trades: list[RoundTrip] = []
    analysis: TradeAnalysis | None = None  # None if no round trip is closed
    drawdowns: list[Drawdown] = []  # the deepest ones of the recorded samples
    samples: int = 0  # ms between the recorded samples of equity
    headlines: dict[str, list[SourceHeadline]] = {}  # client order id -> headlines of its signal
    risk: list[RiskEvent] = []  # changes of the risk state
    refusals: dict[str, int] = {}  # number of orders that each risk rule refused
    model_drift: ModelDrift | None = None  # None if the run scored no headline
    members: MemberStudy | None = None  # None if no ensemble scored the headlines
    revisions: RevisionSummary | None = None  # None if no score was to be revised
    sleeves: SleeveStudy | None = None  # None if one strategy has the whole account
    sleeve_risk: list[RiskEvent] = []  # changes of the sleeves' risk states
    strategies: list[RecordedVersion] = []  # that decided, the first one first
    twin: TwinReport | None = None  # None of a run on paper, and if it was not computed
    absent_twin: str = ""  # why a run at a venue could not be compared with its twin
    stories: StoryResults | None = None  # None if they were not computed
    notes: list[str] = []  # missing data, for example a kline file that was deleted

    @property
    def config(self) -> Config:
        """The configuration at the start of the run."""
        return recorded_config(self.run)

    @property
    def halted(self) -> RiskEvent | None:
        """The event that halted the run, unless trading was resumed."""
        return self.risk[-1] if self.risk and self.risk[-1].state is RiskState.HALTED else None


def recorded_config(run: Run) -> Config:
    """Return the configuration recorded with a run, without its window."""
    settings = {key: value for key, value in run.config.items() if key != "window"}
    return parse(settings, where=f"the configuration recorded with run {run.id}")
