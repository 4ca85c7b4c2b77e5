"""State of one symbol, and the read-only view of it that strategies receive."""

from __future__ import annotations

from collections import Counter
from math import nan

from agent.core.bar_history import Bars, SymbolHistory
from agent.core.errors import StrategyError
from agent.core.events import HOUR_MS, Prediction, RiskState, Signal
from agent.core.features import Features, FeatureTracker
from agent.core.fusion_inputs import FusionInputs
from agent.core.instruments import Instrument
from agent.core.orders import WorkingOrder
from agent.core.portfolio import Portfolio, Position
from agent.core.position_view import PositionView
from agent.core.risk import RiskManager
from agent.core.settings import MarketConfig
from agent.core.shared_history import SharedHistory
from agent.core.signals import SignalEngine


class InstrumentState:
    """Everything about one symbol that a bar updates, so that a bar costs one dictionary look-up."""

    __slots__ = (
        "book",
        "calendar",
        "fusion_inputs",
        "history",
        "instrument",
        "interval",
        "last_start",
        "next_start",
        "position",
        "prediction",
        "tracker",
        "view",
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
        self.next_start = -1  # start of the next bar if none is missing; -1 before the first bar
        self.fusion_inputs: FusionInputs | None = None  # set if there is a fusion model
        self.prediction: Prediction | None = None
        self.history: SymbolHistory | None = None  # set if the strategy declares intervals
        self.view: PositionView | None = None  # the last one, for as long as it has the position's size

    def share(self, front: InstrumentState, counts: Counter[str]) -> None:
        """Read the features, bars and fusion inputs of the same symbol's state in another engine."""
        self.tracker = front.tracker
        self.fusion_inputs = front.fusion_inputs
        if front.history is not None:
            self.history = SharedHistory(front.history, counts)

    def start_anew(self) -> None:
        """Reset the features and the prediction after missing bars."""
        self.tracker.reset()
        if self.fusion_inputs is not None:
            self.fusion_inputs.reset()
            self.prediction = None

    def overdue(self, now: int) -> int:
        """Return by how many ms the next bar is late at `now`; 0 for markets that close overnight."""
        if self.next_start < 0 or not self.instrument.trades_around_the_clock:
            return 0
        longest = self.interval + HOUR_MS if self.calendar else self.interval  # clocks may go back by an hour
        return max(0, now - self.next_start - longest)

    def contains(self, moment: int) -> bool:
        """Return whether `moment` (UTC ms) lies strictly inside a bar that has not closed yet."""
        ahead = moment - self.next_start
        # A calendar bar may end at any time, so every moment ahead may lie inside one
        return self.next_start >= 0 and ahead > 0 and (self.calendar or ahead % self.interval != 0)


class MarketView:
    """Implements `agent.core.strategy.Market` on the engine's state."""

    def __init__(
        self,
        states: dict[str, InstrumentState],
        portfolio: Portfolio,
        signals: SignalEngine,
        risk: RiskManager,
    ) -> None:
        self.now = 0
        self.subject = ""  # symbol of the event being handled, for `Strategy.plot`
        self.symbols = tuple(states)
        self.serves_features = True  # False if the strategy declares that it doesn't read them
        self._states = states
        self._portfolio = portfolio
        self._signals = signals
        self._risk = risk

    @property
    def equity(self) -> float:
        return self._portfolio.equity()

    @property
    def risk_state(self) -> RiskState:
        risk = self._risk
        ready = risk.ready and (risk.account is None or risk.account.active)
        return RiskState.REDUCING if risk.state is RiskState.ACTIVE and not ready else risk.state

    def price(self, symbol: str) -> float:
        return self._states[symbol].position.mark

    def features(self, symbol: str) -> Features:
        """Return the features of a symbol. Raises StrategyError if the strategy declares not to read them."""
        if not self.serves_features:
            raise StrategyError(
                "the strategy reads features, and its class has reads_features = False",
                hint="leave reads_features out",
            )
        return self._states[symbol].tracker.latest()

    def unbroken_since(self, symbol: str) -> int:
        return self._states[symbol].tracker.first_start

    def bars(self, symbol: str, interval: str, n: int) -> Bars:
        return self.history(symbol).last(interval, n)

    def history(self, symbol: str) -> SymbolHistory:
        """Return the bars of a symbol. Raises StrategyError if the strategy declares no intervals."""
        history = self._states[symbol].history
        if history is None:
            raise StrategyError(
                "the strategy asks for bars, and declares no intervals",
                hint='write intervals = ("1h",) in the class',
            )
        return history

    def position(self, symbol: str) -> PositionView:
        state = self._states[symbol]
        view = state.view
        if view is None or view != state.position.size:
            view = state.view = PositionView.of(state, self)
        return view

    def weight(self, symbol: str) -> float:
        position = self._states[symbol].position
        if not position.size:
            return 0.0
        equity = self._portfolio.equity()
        return position.size * position.mark / equity if equity > 0 else nan

    def signal(self, symbol: str) -> Signal | None:
        return self._signals.current(symbol)

    def prediction(self, symbol: str) -> Prediction | None:
        return self._states[symbol].prediction
