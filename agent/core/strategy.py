"""What a strategy is: a small class that hears of the market and answers with target exposures.

class NewsMomentum(Strategy):
    class Params(StrategyParams):
        weight: float = 0.1

    def on_signal(self, signal: Signal, market: Market) -> None:
        if signal.actionable and signal.direction is BUY:
            self.target(signal.symbol, weight=self.params.weight, stop=-0.02)
"""

from __future__ import annotations

import warnings
from decimal import Decimal
from math import isfinite
from numbers import Real
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, get_args, get_origin

from pydantic import BaseModel, ConfigDict
from typing_extensions import TypeVar

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

__all__ = [
    "BUY", "HOLD", "SELL", "Features", "Fill", "Kline", "Market", "News", "Prediction", "Sentiment", "Signal", "Strategy",
    "StrategyParams", "Target", "TimeInForce",
]  # fmt: skip


class StrategyParams(BaseModel):
    """Base of a strategy's parameters: typed, validated, immutable; an unknown one is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Target(NamedTuple):
    """The exposure that a strategy wants in one symbol."""

    symbol: str
    weight: float  # signed fraction of equity; 0 is flat, negative is short
    limit: float | None = None  # limit price of the entry; None trades at the market
    # signed fraction of the price at decision (or of the limit): -0.02 stops a long 2 % below
    stop: float | None = None
    take_profit: float | None = None  # the same for the profit side, e.g. 0.04
    tif: TimeInForce = TimeInForce.GTC
    reason: str = ""


_HIGHEST_PROFIT = 10.0
"""A take-profit so many times its price above a long is an absolute price."""


def _number(value: Any, name: str) -> float:
    """A finite number, else ValueError or TypeError; texts and truth values are none."""
    if isinstance(value, bool) or not isinstance(value, (Real, Decimal)):
        raise TypeError(f"{name}={value!r} is no number")
    number = float(value)
    if not isfinite(number):
        raise ValueError(f"{name}={value!r} is not finite")
    return number


class Market(Protocol):
    """What a strategy may look at: nothing that isn't known yet."""

    @property
    def now(self) -> int:
        """UTC milliseconds: `available_at` of the event being handled."""
        ...

    @property
    def symbols(self) -> tuple[str, ...]:
        """The symbols that are traded."""
        ...

    @property
    def equity(self) -> float:
        """Cash plus positions at the last marks, in account currency."""
        ...

    @property
    def risk_state(self) -> RiskState:
        """Whether new exposure is allowed."""
        ...

    def price(self, symbol: str) -> float:
        """The last mark; NaN before the first bar."""
        ...

    def features(self, symbol: str) -> Features:
        """The ten features at the last closed bar; NaN until warm and after a gap."""
        ...

    def position(self, symbol: str) -> float:
        """Signed quantity in base coin or shares."""
        ...

    def weight(self, symbol: str) -> float:
        """The position's notional as a signed fraction of equity."""
        ...

    def signal(self, symbol: str) -> Signal | None:
        """The last signal that has not faded."""
        ...

    def prediction(self, symbol: str) -> Prediction | None:
        """The last prediction of the fusion model; None before the first, and after a gap."""
        ...


P = TypeVar("P", bound=StrategyParams, default=Any)


class Strategy(Generic[P]):
    """Override the `on_…` methods you need. State belongs on `self`; time comes from `market.now`; no I/O, no randomness."""

    Params: ClassVar[type[StrategyParams]] = StrategyParams
    params: P

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "Params" not in vars(cls):
            for base in getattr(cls, "__orig_bases__", ()):  # Strategy[MyParams]
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
        # what was asked for since the engine last looked; it empties this list
        self.targets: list[Target] = []

    def target(
        self,
        symbol: str,
        *,
        weight: float,
        limit: float | None = None,
        stop: float | None = None,
        take_profit: float | None = None,
        tif: TimeInForce = TimeInForce.GTC,
        reason: str = "",
    ) -> None:
        """Ask for an exposure of `weight` (signed fraction of equity) in `symbol`; the latest word on a symbol holds.

        A target replaces the working orders of its symbol. One near the present position trades nothing (see `rebalance_band`), and
        moves the working stop and take-profit to those that it gives. Raises ValueError or TypeError for numbers that are not
        finite, a `limit` that is no price, and a `stop` or `take_profit` that is no fraction or on the wrong side.
        """
        side = "short" if _number(weight, "weight") < 0 else "long"
        exact = Target(
            symbol,
            _number(weight, "weight"),
            None if limit is None else _number(limit, "limit"),
            None if stop is None else _number(stop, "stop"),
            None if take_profit is None else _number(take_profit, "take_profit"),
            tif,
            reason,
        )
        if exact.limit is not None and exact.limit <= 0:
            raise ValueError(f"limit={limit!r} is no price: it must be above 0")
        for name, fraction, right in (("stop", exact.stop, -1), ("take_profit", exact.take_profit, 1)):
            if fraction is None:
                continue
            if abs(fraction) >= (_HIGHEST_PROFIT if name == "take_profit" and side == "long" else 1):
                raise ValueError(
                    f"{name}={fraction:g} is no fraction of the price: write {right * 0.02:+g} for 2 % "
                    f"{'below' if right < 0 else 'above'} a long's price"
                )
            right = -right if side == "short" else right
            if exact.weight and fraction * right <= 0:
                raise ValueError(
                    f"{name}={fraction:g} is on the wrong side of a {side}: a {side}'s {name} is {'above' if right > 0 else 'below'} 0"
                )
        self.targets.append(exact)

    @classmethod
    def overrides(cls, *methods: str) -> bool:
        """Return whether the class overrides any of these `on_…` methods; what none receives is not computed."""
        return any(getattr(cls, method) is not getattr(Strategy, method) for method in methods)

    def snapshot(self) -> Any:
        """The strategy's state as plain data: numbers, texts, decimals, containers of these. Without it the attributes are saved.

        Override it, with `restore`, where an attribute isn't plain data: else a restart has to read the whole journal.
        """
        return None

    def restore(self, state: Any) -> None:
        """Go on from what `snapshot` returned, instead of from the first event; `on_start` was called."""

    def on_start(self, market: Market) -> None:
        """Before the first event."""

    def on_kline(self, kline: Kline, market: Market) -> None:
        """A bar has closed."""

    def on_news(self, news: News, market: Market) -> None:
        """A headline became known; its sentiment follows."""

    def on_sentiment(self, sentiment: Sentiment, market: Market) -> None:
        """A headline was scored, or the model abstained."""

    def on_signal(self, signal: Signal, market: Market) -> None:
        """The vote of recent headlines on a symbol changed."""

    def on_signal_expired(self, signal: Signal, market: Market) -> None:
        """An actionable signal has lost its weight."""

    def on_prediction(self, prediction: Prediction, market: Market) -> None:
        """The fusion model has spoken."""

    def on_fill(self, fill: Fill, market: Market) -> None:
        """One of our orders was executed, wholly or in part."""
