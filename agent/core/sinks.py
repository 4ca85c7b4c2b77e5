"""Where the engine's decisions go: the recorder in a run, a comparison in `verify`, a list in tests, nowhere in a benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from agent.core.events import Decision, News, Sentiment


class DecisionSink(Protocol):
    """What the engine tells as it goes. Calls come in the order of decision; none may change what the engine decides next."""

    def decision(self, decision: Decision) -> None:
        """A signal, prediction, order, order update, fill, funding payment or risk event: part of the run's hash chain."""
        ...

    def equity(
        self, ts: Sequence[int], equity: Sequence[float], cash: Sequence[float], exposure: Sequence[float]
    ) -> None:
        """Samples of the account, one a bar period, in blocks: times (UTC ms), equity, cash and gross notional of positions."""
        ...

    def news(self, news: News, symbols: tuple[str, ...], story: str) -> None:
        """A headline with the symbols it was mapped to and the id of the story that it belongs to."""
        ...

    def sentiment(self, sentiment: Sentiment) -> None:
        """What a model said of a headline."""
        ...


class NullSink:
    """Forgets everything."""

    def decision(self, decision: Decision) -> None:
        """Forgotten."""

    def equity(
        self, ts: Sequence[int], equity: Sequence[float], cash: Sequence[float], exposure: Sequence[float]
    ) -> None:
        """Forgotten."""

    def news(self, news: News, symbols: tuple[str, ...], story: str) -> None:
        """Forgotten."""

    def sentiment(self, sentiment: Sentiment) -> None:
        """Forgotten."""


class EquitySample(NamedTuple):
    """The account at one moment; see `DecisionSink.equity`."""

    ts: int
    equity: float
    cash: float
    exposure: float


class ListSink:
    """Keeps everything in memory: for short runs and tests."""

    def __init__(self) -> None:
        self.decisions: list[Decision] = []
        self.samples: list[EquitySample] = []
        self.headlines: list[tuple[News, tuple[str, ...], str]] = []
        self.sentiments: list[Sentiment] = []

    def decision(self, decision: Decision) -> None:
        """Appended to `decisions`."""
        self.decisions.append(decision)

    def equity(
        self, ts: Sequence[int], equity: Sequence[float], cash: Sequence[float], exposure: Sequence[float]
    ) -> None:
        """Appended to `samples`."""
        self.samples.extend(map(EquitySample, ts, equity, cash, exposure))

    def news(self, news: News, symbols: tuple[str, ...], story: str) -> None:
        """Appended to `headlines`."""
        self.headlines.append((news, symbols, story))

    def sentiment(self, sentiment: Sentiment) -> None:
        """Appended to `sentiments`."""
        self.sentiments.append(sentiment)
