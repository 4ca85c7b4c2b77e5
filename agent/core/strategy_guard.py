"""Keeps a strategy's errors out of the core: in a live run an error stops the strategy, never the agent.

What led to the error is an input like any other, so the same event stops it again when the run is verified. The halt of the
account is journalled separately, as the command `strategy-error`; its text affects no decision.
"""

from __future__ import annotations

import re
import sys
import traceback

from agent.core.events import Fill, Kline, News, Prediction, Sentiment, Signal
from agent.core.strategy import Market, Strategy

_ADDRESS = re.compile(r"0x[0-9a-fA-F]+")
_LONGEST = 300  # characters of an error's text


def describe_error(strategy: Strategy, error: Exception) -> str:
    """One line: the strategy, its file and line, and the error."""
    files = {
        getattr(sys.modules.get(kind.__module__), "__file__", None) for kind in type(strategy).__mro__[:-1]
    }
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    user = [frame for frame in own if not frame.filename.endswith("agent/core/strategy.py")] or own
    where = f" {user[-1].filename}, line {user[-1].lineno}:" if user else ""
    text = _ADDRESS.sub("0x…", " ".join(str(error).split()))[:_LONGEST]
    return f"strategy {type(strategy).__name__} failed:{where} {type(error).__name__}: {text}"


class StrategyGuard(Strategy):
    """Forwards callbacks to a strategy until one raises; then drops them until `resume`."""

    def __init__(self, inner: Strategy) -> None:
        super().__init__(inner.params)
        self._inner = inner
        self.targets = inner.targets
        self.stopped = False
        self.failure = ""  # what has to be reported; empty once it was

    def fail(self, detail: str) -> None:
        """Stop the strategy for an error that has yet to be reported."""
        if not self.stopped:
            self.stopped, self.failure = True, detail

    def stop(self) -> None:
        """The error was reported: the strategy stays stopped."""
        self.stopped, self.failure = True, ""

    def resume(self) -> None:
        """The user has checked the error: the strategy continues."""
        self.stopped, self.failure = False, ""

    def on_kline(self, kline: Kline, market: Market) -> None:
        if not self.stopped:
            try:
                self._inner.on_kline(kline, market)
            except Exception as error:  # noqa: BLE001 - a strategy may raise anything
                self.fail(describe_error(self._inner, error))

    def on_news(self, news: News, market: Market) -> None:
        if not self.stopped:
            try:
                self._inner.on_news(news, market)
            except Exception as error:  # noqa: BLE001
                self.fail(describe_error(self._inner, error))

    def on_sentiment(self, sentiment: Sentiment, market: Market) -> None:
        if not self.stopped:
            try:
                self._inner.on_sentiment(sentiment, market)
            except Exception as error:  # noqa: BLE001
                self.fail(describe_error(self._inner, error))

    def on_signal(self, signal: Signal, market: Market) -> None:
        if not self.stopped:
            try:
                self._inner.on_signal(signal, market)
            except Exception as error:  # noqa: BLE001
                self.fail(describe_error(self._inner, error))

    def on_signal_expired(self, signal: Signal, market: Market) -> None:
        if not self.stopped:
            try:
                self._inner.on_signal_expired(signal, market)
            except Exception as error:  # noqa: BLE001
                self.fail(describe_error(self._inner, error))

    def on_prediction(self, prediction: Prediction, market: Market) -> None:
        if not self.stopped:
            try:
                self._inner.on_prediction(prediction, market)
            except Exception as error:  # noqa: BLE001
                self.fail(describe_error(self._inner, error))

    def on_fill(self, fill: Fill, market: Market) -> None:
        if not self.stopped:
            try:
                self._inner.on_fill(fill, market)
            except Exception as error:  # noqa: BLE001
                self.fail(describe_error(self._inner, error))
