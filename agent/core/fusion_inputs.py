"""Inputs of the fusion model for one symbol: the price features on bars of its interval, and the recent
headlines.

Replay, live trading and training (`models.fusion.train.dataset`) all use `FusionInputs`, so they see the same
numbers.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from agent.core.durations import format_duration
from agent.core.errors import ConfigError
from agent.core.events import Prediction, Sentiment
from agent.core.features import Features, FeatureTracker
from agent.core.symbols import base_of
from agent.core.text_embedding import DecayedEmbedding, Vector


class Forecast(NamedTuple):
    """Calibrated probabilities of the classes, which sum to 1, and the mean move outside the flat band."""

    down: float
    flat: float
    up: float
    move: float  # fraction of the price


class Predictor(Protocol):
    """Interface of a fusion model. Its methods are pure functions."""

    @property
    def fingerprint(self) -> str:
        """Hash of everything that affects a prediction."""
        ...

    @property
    def interval(self) -> int:
        """Interval of the bars whose features the model uses (ms)."""
        ...

    @property
    def half_life(self) -> int:
        """Time in which the weight of a headline halves (ms)."""
        ...

    def vector(self, sentiment: Sentiment, asset: str) -> Vector | None:
        """Return the embedding of a headline for `asset`; None if the model can't use it.

        If the sentiment has none for the asset, it is that of the whole headline.
        """
        ...

    def read(self, mean: Vector) -> Any:
        """Convert `DecayedEmbedding.mean` to the form that `predict` takes; called once per headline."""
        ...

    def predict(self, features: Features, reading: Any, mass: float) -> Forecast:
        """Predict from the price features and the headlines.

        `reading` is the last result of `read`, None before the first headline; `mass` is
        `DecayedEmbedding.weight`.
        """
        ...


class FusionInputs:
    """Features and headlines of one symbol, as the fusion model needs them.

    Pass every closed bar to `on_bar`, in order, and call `reset` if bars are missing. Bars of `interval` ms
    are combined into bars of the model's interval. Raises ConfigError if the model's interval is not a
    multiple of `interval`.
    """

    __slots__ = (
        "_asset",
        "_close",
        "_complete",
        "_high",
        "_identical",
        "_interval",
        "_low",
        "_open",
        "_reading",
        "_step",
        "_symbol",
        "_volume",
        "predictor",
        "text",
        "tracker",
    )

    def __init__(self, symbol: str, predictor: Predictor, interval: int) -> None:
        if predictor.interval < interval or predictor.interval % interval:
            raise ConfigError(
                f"the fusion model needs bars of {format_duration(predictor.interval)}, "
                f"which can't be made of bars of {format_duration(interval)}",
                hint="train one on these bars: tapewire train fusion --interval",
            )
        self.predictor = predictor
        self.tracker = FeatureTracker()
        self.text = DecayedEmbedding(predictor.half_life)
        self._symbol = symbol
        self._asset = base_of(symbol)
        self._step: int = interval
        self._interval: int = predictor.interval
        self._identical: bool = predictor.interval == interval
        self._reading: Any = None
        self._start_bar()

    def _start_bar(self) -> None:
        self._open: int = -1  # start of the model's bar that is being combined
        self._complete: bool = False  # True if none of its bars is missing so far
        self._high: float = 0.0
        self._low: float = 0.0
        self._close: float = 0.0
        self._volume: float = 0.0

    @property
    def features(self) -> Features:
        """The features at the close of the model's last bar."""
        return self.tracker.values

    def on_bar(self, start: int, high: float, low: float, close: float, volume: float) -> bool:
        """Add a closed bar; return whether it completes a bar of the model and the features are warm."""
        if self._identical:
            return self.tracker.advance(start, high, low, close, volume).warm
        opened = start - start % self._interval
        if opened != self._open:
            if self._complete:  # its last bars never came: the market was closed
                self.tracker.advance(self._open, self._high, self._low, self._close, self._volume)
            self._open = opened
            self._complete = start == opened
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
        if start + self._step < opened + self._interval or not self._complete:
            return False
        self._complete = False
        return self.tracker.advance(opened, self._high, self._low, close, self._volume).warm

    def reset(self) -> None:
        """Restart the features after missing bars; the headlines are kept."""
        self.tracker.reset()
        self._start_bar()

    def on_headline(self, sentiment: Sentiment, now: int) -> bool:
        """Add a scored headline at `now` (UTC ms); return whether the model can use it.

        The headline's embedding is that of the symbol's asset. A revision of its sentiment is by another
        model and must not be added: the headline counts once, with its first embedding.
        """
        vector = self.predictor.vector(sentiment, self._asset)
        if vector is None:
            return False
        self.text.update(vector, now)
        self._reading = self.predictor.read(self.text.mean)
        return True

    def predict(self, now: int) -> Prediction:
        """Return the model's prediction; the features must be warm."""
        down, flat, up, move = self.predictor.predict(
            self.tracker.values, self._reading, self.text.weight(now)
        )
        return Prediction(self._symbol, now, down, flat, up, self.predictor.fingerprint, move)
