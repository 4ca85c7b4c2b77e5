"""The market as a strategy sees it, and one symbol's tape as the engine keeps it."""

from __future__ import annotations

from math import nan

from agent.core.events import HOUR_MS, Prediction, RiskState, Signal
from agent.core.features import Features, FeatureTracker
from agent.core.fusion_inputs import FusionInputs
from agent.core.instruments import Instrument
from agent.core.orders import WorkingOrder
from agent.core.portfolio import Portfolio, Position
from agent.core.risk import RiskManager
from agent.core.settings import MarketConfig
from agent.core.signals import SignalEngine


class InstrumentState:
    """Everything about one symbol that a bar touches, together so that a bar costs one look-up."""

    __slots__ = (
        "book",
        "calendar",
        "fusion_inputs",
        "instrument",
        "interval",
        "last_start",
        "next_start",
        "position",
        "prediction",
        "tracker",
    )

    def __init__(
        self, instrument: Instrument, market: MarketConfig, position: Position, book: list[WorkingOrder]
    ) -> None:
        self.instrument = instrument
        self.interval: int = market.interval
        self.calendar: bool = market.calendar_bars
        self.position = position
        self.book = book
        self.tracker = FeatureTracker()
        self.last_start = -1
        self.next_start = -1  # where the next bar begins, if none is missing; -1 before the first
        self.fusion_inputs: FusionInputs | None = None  # where a fusion model looks on
        self.prediction: Prediction | None = None

    def start_anew(self) -> None:
        """Bars are missing."""
        self.tracker.reset()
        if self.fusion_inputs is not None:
            self.fusion_inputs.reset()
            self.prediction = None

    def overdue(self, now: int) -> int:
        """How long the next bar's close is overdue, in ms; 0 while it isn't or for markets that rest."""
        if self.next_start < 0 or not self.instrument.trades_around_the_clock:
            return 0
        longest = self.interval + HOUR_MS if self.calendar else self.interval  # clocks may be set back
        return max(0, now - self.next_start - longest)

    def contains(self, moment: int) -> bool:
        """Whether `moment` (UTC ms) lies strictly inside a bar that has yet to come; one of a calendar may end at any time."""
        ahead = moment - self.next_start
        return self.next_start >= 0 and ahead > 0 and (self.calendar or ahead % self.interval != 0)


class MarketView:
    """`agent.core.strategy.Market`, on the engine's own state: nothing that isn't known yet is within reach."""

    def __init__(
        self,
        states: dict[str, InstrumentState],
        portfolio: Portfolio,
        signals: SignalEngine,
        risk: RiskManager,
    ) -> None:
        self.now = 0
        self.symbols = tuple(states)
        self._tapes = states
        self._portfolio = portfolio
        self._signals = signals
        self._risk = risk

    @property
    def equity(self) -> float:
        """Cash plus positions at the last marks, in account currency."""
        return self._portfolio.equity()

    @property
    def risk_state(self) -> RiskState:
        """Whether new exposure is allowed; it never is while history is being read, or a venue's account isn't known."""
        risk = self._risk
        return (
            RiskState.REDUCING
            if (risk.warming or risk.unreconciled) and risk.state is RiskState.ACTIVE
            else risk.state
        )

    def price(self, symbol: str) -> float:
        """The last mark; NaN before the first bar."""
        return self._tapes[symbol].position.mark

    def features(self, symbol: str) -> Features:
        """The ten features at the last closed bar."""
        return self._tapes[symbol].tracker.values

    def position(self, symbol: str) -> float:
        """Signed quantity in base coin or shares."""
        return self._tapes[symbol].position.size

    def weight(self, symbol: str) -> float:
        """The position's notional as a signed fraction of equity; NaN without equity."""
        position = self._tapes[symbol].position
        if not position.size:
            return 0.0
        equity = self._portfolio.equity()
        return position.size * position.mark / equity if equity > 0 else nan

    def signal(self, symbol: str) -> Signal | None:
        """The last signal that has not faded."""
        return self._signals.current(symbol)

    def prediction(self, symbol: str) -> Prediction | None:
        """The last prediction of the fusion model; None before the first, and after a gap."""
        return self._tapes[symbol].prediction
