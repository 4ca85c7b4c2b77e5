"""The strategy interface: a strategy receives events and sets target exposures.

class Params(StrategyParams):
    weight: float = 0.1

class NewsMomentum(Strategy[Params]):
    def on_signal(self, signal: Signal, market: Market) -> None:
        if signal.actionable and signal.direction is BUY:
            self.target(signal.symbol, weight=self.params.weight, stop=-0.02)
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from math import isfinite
from typing import Any, ClassVar, Final, Generic, Protocol, get_args, get_origin

from pydantic import BaseModel, ConfigDict
from typing_extensions import TypeVar

from agent.core.bar_block import BarSpan
from agent.core.bar_history import Bar, Bars
from agent.core.events import (
    BUY,
    HOLD,
    SELL,
    Fill,
    Kline,
    News,
    Prediction,
    RiskState,
    Sentiment,
    Signal,
    TimeInForce,
)
from agent.core.features import Features
from agent.core.indicators import BarSource, Indicators
from agent.core.position_view import PositionView
from agent.core.target import TakeProfit, Target, checked_target, number_of, plain_target

__all__ = ["BUY", "HOLD", "SELL", "Bar", "BarSpan", "Bars", "Features", "Fill", "Kline", "Market", "News"]
__all__ += ["PositionView", "Prediction", "Sentiment", "Signal", "Strategy", "StrategyParams", "Target"]
__all__ += ["TimeInForce"]

MAX_NOTICE: Final = 500
"""Characters of a notice; the rest is cut off."""

_LEVELS: Final = ("info", "warning", "error")


class StrategyParams(BaseModel):
    """Base class of a strategy's parameters: validated and immutable. Unknown names are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Plotter(Protocol):
    """Receives what a strategy plots."""

    def plot(self, name: str, value: float, symbol: str) -> None:
        """Record a finite value of a line; an empty symbol stands for that of the event being handled."""
        ...


class Market(Protocol):
    """Read-only view of the market and the account, as known at `now`."""

    @property
    def now(self) -> int:
        """Time of the event being handled (`available_at`, UTC milliseconds)."""
        ...

    @property
    def symbols(self) -> tuple[str, ...]:
        """The traded symbols."""
        ...

    @property
    def equity(self) -> float:
        """Cash plus positions at their last prices, in account currency."""
        ...

    @property
    def risk_state(self) -> RiskState:
        """ACTIVE if new exposure is allowed."""
        ...

    def price(self, symbol: str) -> float:
        """Return the last price; NaN before the first bar."""
        ...

    def features(self, symbol: str) -> Features:
        """Return the ten features at the last closed bar; NaN until they are warm, and after a gap."""
        ...

    def bars(self, symbol: str, interval: str, n: int) -> Bars:
        """Return the last `n` closed bars of a declared interval, oldest first; fewer if fewer have come.

        Raises StrategyError if the strategy doesn't declare the interval.
        """
        ...

    def unbroken_since(self, symbol: str) -> int:
        """Return the open time of the first bar since the last gap (UTC ms); -1 before a bar."""
        ...

    def position(self, symbol: str) -> PositionView:
        """Return the position: a float, the signed quantity held, with entry price, age, profit and stops."""
        ...

    def weight(self, symbol: str) -> float:
        """Return the value of the position as a signed fraction of equity; NaN without equity."""
        ...

    def signal(self, symbol: str) -> Signal | None:
        """Return the last signal; None before the first, and after it has expired."""
        ...

    def prediction(self, symbol: str) -> Prediction | None:
        """Return the fusion model's last prediction; None before the first, and after a gap."""
        ...


P = TypeVar("P", bound=StrategyParams, default=Any)


class Strategy(Generic[P]):
    """Base class of all strategies: override the `on_…` methods you need and call `target`.

    `Strategy[MyParams]` types `self.params`. Keep state on `self` and take the time from `market.now`.
    Without I/O and random numbers, `tapewire verify` can reproduce every decision.
    """

    Params: ClassVar[type[StrategyParams]] = StrategyParams
    params: P
    intervals: Sequence[str] = ()
    """Intervals of the bars for `on_bar` and `market.bars`: ("1m", "1h"). The run's own is one of them, or
    they are folded from its bars."""
    warm_up: Mapping[str, int] = {}
    """Bars to read before trading starts, by interval: {"1h": 200}."""
    reads_features: bool = True
    """Whether the strategy calls `market.features`. False saves a backtest their computation; a call then
    raises StrategyError."""
    _on_notice: Callable[[str, str], None] | None = None  # set by the engine

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "Params" not in vars(cls):
            for base in getattr(cls, "__orig_bases__", ()):  # find MyParams of Strategy[MyParams]
                if get_origin(base) is Strategy and isinstance(get_args(base)[0], type):
                    cls.Params = get_args(base)[0]
        if "on_faded" in vars(cls):
            warnings.warn(
                f"{cls.__qualname__}.on_faded: this method is called on_signal_expired now",
                DeprecationWarning,
                stacklevel=2,
            )
            cls.on_signal_expired = vars(cls)["on_faded"]  # type: ignore[method-assign]

    def __init__(self, params: P | None = None) -> None:
        self.params = params if params is not None else self.Params()  # type: ignore[assignment]
        self.targets: list[Target] = []  # set since the last callback; the engine empties the list
        self.ta = Indicators()
        """TA-Lib's functions on closed bars: self.ta.RSI(symbol, "1h", timeperiod=14)."""
        self._plotter: Plotter | None = None

    def target(
        self,
        symbol: str,
        *,
        weight: float | None = None,
        qty: float | Decimal | None = None,
        risk: float | None = None,
        limit: float | None = None,
        stop_entry: float | None = None,
        expire: str | int | None = None,
        stop: float | None = None,
        trail: float | None = None,
        take_profit: TakeProfit | None = None,
        tif: TimeInForce = TimeInForce.GTC,
        loosen: bool = False,
        reason: str = "",
    ) -> None:
        """Set the target exposure in a symbol; it replaces an earlier target and the symbol's working orders.

        Give one of `weight`, `qty` and `risk`. If the position is already within `paper.rebalance_band` of
        a weight, or has the quantity, nothing is traded, and the working protection moves to the given one.
        Distances are signed fractions of the entry's price: the limit, else `stop_entry`, else the last
        price.

        Args:
            symbol: one of `market.symbols`.
            weight: signed fraction of equity; 0 closes the position, a negative weight is short.
            qty: signed quantity to hold, in base coin or shares.
            risk: fraction of equity to lose, without fees, if the entry's price moves to the stop. The sign
                of `stop` is the side; risk limits bound the size.
            limit: limit price of the entry; without it a market order is sent.
            stop_entry: price at which the entry is triggered: above the last price for a purchase.
            expire: the entry is cancelled after this time, such as "15m"; needs `limit` or `stop_entry`.
            stop: distance of the stop: -0.02 is 2 % below, for a long.
            trail: distance of a trailing stop likewise. It follows the best price since the entry, and is not
                replaced by a looser one unless `loosen`.
            take_profit: distance of the take-profit: 0.04 is 4 % above, for a long. Or several levels of
                (distance, share of the position), whose shares are at most 1 together.
            tif: how long the order lives.
            loosen: whether `trail` may replace a tighter one.
            reason: recorded with the order.

        Raises ValueError or TypeError if a number is not finite, a price is not above 0, or a distance is an
        absolute price or on the wrong side.
        """
        plain = limit is None and stop is None and take_profit is None and trail is None
        plain = plain and qty is None and risk is None and stop_entry is None and expire is None
        if plain and type(weight) is float and isfinite(weight):  # most targets: nothing more to check
            self.targets.append(plain_target(symbol, weight, tif, reason, loosen))
            return
        self.targets.append(
            checked_target(
                symbol,
                weight,
                limit=limit,
                stop=stop,
                take_profit=take_profit,
                tif=tif,
                reason=reason,
                qty=qty,
                risk=risk,
                trail=trail,
                loosen=loosen,
                stop_entry=stop_entry,
                expire=expire,
            )
        )

    def notify(self, text: str, level: str = "info") -> None:
        """Send a message to the operator: it is recorded, logged, and in a live run delivered.

        `level` is info, warning or error, which is delivered at once. A text is cut off after 500 characters.
        Raises ValueError for other levels.
        """
        if level not in _LEVELS:
            raise ValueError(f"level={level!r} is not one of {', '.join(_LEVELS)}")
        if self._on_notice is not None:
            self._on_notice(level, str(text))

    def plot(self, name: str, value: float, *, symbol: str = "") -> None:
        """Record a value for the charts of report and dashboard; NaN is left out.

        Values during the warm-up are not recorded, nor are those beyond the first 100,000 of a run, which are
        counted.

        Args:
            name: of the line, at most 60 characters.
            value: of the line from now on. If it is out of the prices' range, the line has a pane of its own.
            symbol: whose chart has the line; by default the one of the bar, signal or fill being handled.

        Raises TypeError or ValueError for a name or value that can't be drawn.
        """
        number = float(value) if value != value else number_of(value, "value")
        if not isinstance(name, str) or not 0 < len(name) <= 60 or not name.isprintable():
            raise ValueError(f"plot: {name!r} is not a name of 1 to 60 printable characters")
        if self._plotter is not None and number == number:
            self._plotter.plot(name, number, symbol)

    def attach(self, bars: BarSource, plotter: Plotter) -> None:
        """Connect `ta` and `plot` with an engine, which calls this before `on_start`."""
        self.ta.attach(bars)
        self._plotter = plotter

    def quiet_bars(self, bars: BarSpan, market: Market) -> int:
        """Return how many of the bars that come next, from the first on, `on_kline` would let pass.

        Override it and a backtest calls `on_kline` only for the bar after these, which saves most of its time
        if the strategy acts rarely. `on_kline` would neither set a target nor notify or plot at the bars, and
        changes no state but what `pass_over` changes. `bars` are of one symbol and lie in the future: decide
        on each bar by those up to it alone. `market` is as of the bar before the first. All other runs call
        `on_kline` for every bar, so `tapewire verify` fails if the two disagree.

        If a subclass overrides `on_kline` and not this method, `on_kline` is called for every bar.
        """
        raise NotImplementedError

    def pass_over(self, bars: BarSpan) -> None:
        """Called in a backtest with bars that `quiet_bars` has let pass: keep the state of `on_kline`."""

    @classmethod
    def lets_bars_pass(cls) -> bool:
        """Return whether the class has a `quiet_bars` that is not older than its `on_kline`."""
        for base in cls.__mro__:
            if "quiet_bars" in vars(base):
                return base is not Strategy
            if "on_kline" in vars(base) or "on_bar" in vars(base):
                return False
        return False

    @classmethod
    def overrides(cls, *methods: str) -> bool:
        """Return whether the class overrides any of these `on_…` methods."""
        return any(getattr(cls, method) is not getattr(Strategy, method) for method in methods)

    def wants(self, method: str) -> bool:
        """Return whether the engine calls this `on_…` method: by default, if the class overrides it.

        Override `wants` if that depends on the parameters. A strategy that is not called for every bar costs
        little in `tapewire sweep`.
        """
        return self.overrides(method)

    def snapshot(self) -> Any:
        """Return the state as plain data: numbers, strings, decimals and containers of them.

        By default the attributes are saved. Override this method and `restore` if an attribute can't be saved
        as it is (a generator, a lock); otherwise a restart has to replay the whole journal.
        """
        return None

    def restore(self, state: Any) -> None:
        """Load the state that `snapshot` returned. `on_start` has been called before."""

    def on_start(self, market: Market) -> None:
        """Called once, before the first event."""

    def on_kline(self, kline: Kline, market: Market) -> None:
        """Called when a bar has closed."""

    def on_bar(self, bar: Bar, market: Market) -> None:
        """Called when a bar of one of `intervals` has closed, after `on_kline`; the shortest one first."""

    def on_news(self, news: News, market: Market) -> None:
        """Called when a headline becomes known, before it is scored."""

    def on_sentiment(self, sentiment: Sentiment, market: Market) -> None:
        """Called when a headline has been scored, or the model has abstained."""

    def on_signal(self, signal: Signal, market: Market) -> None:
        """Called when a headline has changed the signal of a symbol."""

    def on_signal_expired(self, signal: Signal, market: Market) -> None:
        """Called when an actionable signal has expired; `signal` is the HOLD that ends it."""

    def on_prediction(self, prediction: Prediction, market: Market) -> None:
        """Called when the fusion model has made a prediction."""

    def on_fill(self, fill: Fill, market: Market) -> None:
        """Called when an order has been filled, completely or in part."""
