"""Error containment for strategies: in a live run an error stops the strategy, never the agent.

The same event raises the same error when the run is verified, so the guard needs no journal entry of its own.
The halt of the account is journalled, as the command `strategy-error`; its text affects no decision.
"""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable
from typing import Any

from agent.core.bar_history import Bar
from agent.core.events import Fill, Kline, News, Prediction, Sentiment, Signal
from agent.core.strategy import Market, Strategy

_ADDRESS = re.compile(r"0x[0-9a-fA-F]+")
_MAX_LENGTH = 300  # characters of an error's message


def describe_error(strategy: Strategy, error: Exception) -> str:
    """Return one line with the strategy, its file and line, and the error."""
    files = {
        getattr(sys.modules.get(kind.__module__), "__file__", None) for kind in type(strategy).__mro__[:-1]
    }
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename in files]
    user = [frame for frame in own if not frame.filename.endswith("agent/core/strategy.py")] or own
    where = f" {user[-1].filename}, line {user[-1].lineno}:" if user else ""
    text = _ADDRESS.sub("0x…", " ".join(str(error).split()))[:_MAX_LENGTH]
    return f"strategy {type(strategy).__name__} failed:{where} {type(error).__name__}: {text}"


class StrategyGuard(Strategy):
    """Forwards callbacks to a strategy until one raises, then drops them until `resume`."""

    def __init__(self, inner: Strategy) -> None:
        super().__init__(inner.params)
        self._inner = inner
        self.targets = inner.targets
        self.stopped = False
        self.failure = ""  # error that has yet to be reported
        self._inherited = False  # True if it is the error of the strategy before this one

    def fail(self, detail: str) -> None:
        """Stop the strategy because of an error, which has yet to be reported."""
        if not self.stopped:
            self.stopped, self.failure, self._inherited = True, detail, False

    def inherit(self, failure: str) -> None:
        """Take over an error of the strategy before this one, which has yet to be reported."""
        self.failure, self._inherited = failure, bool(failure)

    def stop(self) -> None:
        """Keep the strategy stopped, unless it was another that failed: the error has been reported."""
        self.stopped, self.failure, self._inherited = not self._inherited, "", False

    def resume(self) -> None:
        """Let the strategy continue: the operator has checked the error."""
        self.stopped, self.failure, self._inherited = False, "", False

    def on_start(self, market: Market) -> None:
        if not self.stopped:
            try:
                self._inner.on_start(market)
            except Exception as error:  # noqa: BLE001 - a strategy may raise anything
                self.fail(describe_error(self._inner, error))

    def on_kline(self, kline: Kline, market: Market) -> None:
        self._call(self._inner.on_kline, kline, market)

    def on_bar(self, bar: Bar, market: Market) -> None:
        self._call(self._inner.on_bar, bar, market)

    def on_news(self, news: News, market: Market) -> None:
        self._call(self._inner.on_news, news, market)

    def on_sentiment(self, sentiment: Sentiment, market: Market) -> None:
        self._call(self._inner.on_sentiment, sentiment, market)

    def on_signal(self, signal: Signal, market: Market) -> None:
        self._call(self._inner.on_signal, signal, market)

    def on_signal_expired(self, signal: Signal, market: Market) -> None:
        self._call(self._inner.on_signal_expired, signal, market)

    def on_prediction(self, prediction: Prediction, market: Market) -> None:
        self._call(self._inner.on_prediction, prediction, market)

    def on_fill(self, fill: Fill, market: Market) -> None:
        self._call(self._inner.on_fill, fill, market)

    def _call(self, callback: Callable[[Any, Market], None], event: Any, market: Market) -> None:
        if not self.stopped:
            try:
                callback(event, market)
            except Exception as error:  # noqa: BLE001 - a strategy may raise anything
                self.fail(describe_error(self._inner, error))
