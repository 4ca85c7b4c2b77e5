"""One symbol as the fusion model sees it: the ten features on bars of its interval, and what was read lately.

Replay, live trading and the data set of the training (`models.fusion.train.dataset`) fold this very class, so all see the same numbers.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from agent.core.durations import format_duration
from agent.core.errors import ConfigError
from agent.core.events import Prediction, Sentiment
from agent.core.features import Features, FeatureTracker
from agent.core.text_embedding import DecayedEmbedding, Vector


class Forecast(NamedTuple):
    """Calibrated probabilities of the three classes, which sum to 1, and the mean size of a move out of the flat band."""

    down: float
    flat: float
    up: float
    move: float  # fraction of the price


class Predictor(Protocol):
    """A fusion model, as much of it as the core knows. Pure: the same question has the same answer."""

    @property
    def fingerprint(self) -> str:
        """Hash of all that decides a prediction."""
        ...

    @property
    def interval(self) -> int:
        """Of the bars whose features it reads, ms; it is asked at their closes, and on headlines."""
        ...

    @property
    def half_life(self) -> int:
        """In which what was read loses half of its weight, ms."""
        ...

    def vector(self, sentiment: Sentiment) -> Vector | None:
        """What it remembers of a headline; None: nothing."""
        ...

    def read(self, mean: Vector) -> Any:
        """Its own digest of `DecayedEmbedding.mean`, made once a headline."""
        ...

    def predict(self, features: Features, reading: Any, mass: float) -> Forecast:
        """The answer. `reading` is what `read` made of the last headline, None before the first; `mass` is `DecayedEmbedding.weight`."""
        ...


class FusionInputs:
    """Feed it every closed bar of the symbol in order, `reset` it where bars are missing.

    Raises ConfigError where the model's bars can't be made of bars of `interval` ms.
    """

    __slots__ = (
        "_close", "_high", "_identical", "_interval", "_low", "_open", "_reading", "_step", "_symbol", "_volume", "_whole",
        "predictor", "text", "tracker",
    )  # fmt: skip

    def __init__(self, symbol: str, predictor: Predictor, interval: int) -> None:
        if predictor.interval < interval or predictor.interval % interval:
            raise ConfigError(
                f"the fusion model reads bars of {format_duration(predictor.interval)}, "
                f"which can't be made of bars of {format_duration(interval)}",
                hint="train one on these bars: tapewire train fusion --interval",
            )
        self.predictor = predictor
        self.tracker = FeatureTracker()
        self.text = DecayedEmbedding(predictor.half_life)
        self._symbol = symbol
        self._step: int = interval
        self._interval: int = predictor.interval
        self._identical: bool = predictor.interval == interval
        self._reading: Any = None
        self._forget_bar()

    def _forget_bar(self) -> None:
        self._open: int = -1  # where the model's bar that is being made opened
        self._whole: bool = False  # none of it is missing
        self._high: float = 0.0
        self._low: float = 0.0
        self._close: float = 0.0
        self._volume: float = 0.0

    @property
    def features(self) -> Features:
        """At the close of the model's last bar."""
        return self.tracker.values

    def on_bar(self, start: int, high: float, low: float, close: float, volume: float) -> bool:
        """Take a closed bar; whether one of the model's has closed with it, and the model can be asked."""
        if self._identical:
            return self.tracker.advance(start, high, low, close, volume).warm
        opened = start - start % self._interval
        if opened != self._open:
            if self._whole:  # its last bars never came: a market that rests
                self.tracker.advance(self._open, self._high, self._low, self._close, self._volume)
            self._open = opened
            self._whole = start == opened
            self._high = high
            self._low = low
            self._volume = volume
        else:
            if high > self._high:
                self._high = high
            if low < self._low:
                self._low = low
            self._volume += volume
        self._close = close
        if start + self._step < opened + self._interval or not self._whole:
            return False
        self._whole = False
        return self.tracker.advance(opened, self._high, self._low, close, self._volume).warm

    def reset(self) -> None:
        """Bars are missing: the features start anew. What was read stays."""
        self.tracker.reset()
        self._forget_bar()

    def on_headline(self, sentiment: Sentiment, now: int) -> bool:
        """Take a scored headline about the symbol, at `now` (UTC ms); whether there was something to remember."""
        vector = self.predictor.vector(sentiment)
        if vector is None:
            return False
        self.text.update(vector, now)
        self._reading = self.predictor.read(self.text.mean)
        return True

    def predict(self, now: int) -> Prediction:
        """Ask the model; the features must be warm."""
        down, flat, up, move = self.predictor.predict(
            self.tracker.values, self._reading, self.text.weight(now)
        )
        return Prediction(self._symbol, now, down, flat, up, self.predictor.fingerprint, move)
