"""Sinks receive the engine's decisions. The store's recorder and `verify` implement `DecisionSink`, too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from agent.core.events import Decision, News, Sentiment


class DecisionSink(Protocol):
    """Receives the engine's output in order. An implementation must not affect later decisions."""

    def decision(self, decision: Decision) -> None:
        """Receive a decision; all decisions are part of the run's hash chain."""
        ...

    def equity(
        self, ts: Sequence[int], equity: Sequence[float], cash: Sequence[float], exposure: Sequence[float]
    ) -> None:
        """Receive samples of the account in blocks, one sample per bar period.

        `ts` is in UTC ms, `exposure` is the gross notional of all positions. If bars are handled in blocks
        (`BlockRunner`), the columns are arrays.
        """
        ...

    def news(self, news: News, symbols: tuple[str, ...], story: str) -> None:
        """Receive a headline with its symbols and the id of its story."""
        ...

    def sentiment(self, sentiment: Sentiment) -> None:
        """Receive the sentiment of a headline."""
        ...


class SleevedSink(DecisionSink, Protocol):
    """A sink of a run with several strategies in one account."""

    def sleeve_equity(
        self,
        sleeve: str,
        ts: Sequence[int],
        equity: Sequence[float],
        cash: Sequence[float],
        exposure: Sequence[float],
    ) -> None:
        """Receive samples of one sleeve's virtual account; see `equity`."""
        ...


class NullSink:
    """Discards everything."""

    def decision(self, decision: Decision) -> None:
        pass

    def equity(
        self, ts: Sequence[int], equity: Sequence[float], cash: Sequence[float], exposure: Sequence[float]
    ) -> None:
        pass

    def sleeve_equity(
        self,
        sleeve: str,
        ts: Sequence[int],
        equity: Sequence[float],
        cash: Sequence[float],
        exposure: Sequence[float],
    ) -> None:
        pass

    def news(self, news: News, symbols: tuple[str, ...], story: str) -> None:
        pass

    def sentiment(self, sentiment: Sentiment) -> None:
        pass


class EquitySample(NamedTuple):
    """One sample of the account; see `DecisionSink.equity`."""

    ts: int
    equity: float
    cash: float
    exposure: float


class ListSink:
    """Keeps everything in memory, for short runs and tests."""

    def __init__(self) -> None:
        self.decisions: list[Decision] = []
        self.samples: list[EquitySample] = []
        self.headlines: list[tuple[News, tuple[str, ...], str]] = []
        self.sentiments: list[Sentiment] = []
        self.sleeve_samples: dict[str, list[EquitySample]] = {}

    def decision(self, decision: Decision) -> None:
        self.decisions.append(decision)

    def equity(
        self, ts: Sequence[int], equity: Sequence[float], cash: Sequence[float], exposure: Sequence[float]
    ) -> None:
        self.samples.extend(map(EquitySample, ts, equity, cash, exposure))

    def sleeve_equity(
        self,
        sleeve: str,
        ts: Sequence[int],
        equity: Sequence[float],
        cash: Sequence[float],
        exposure: Sequence[float],
    ) -> None:
        samples = self.sleeve_samples.setdefault(sleeve, [])
        samples.extend(map(EquitySample, ts, equity, cash, exposure))

    def news(self, news: News, symbols: tuple[str, ...], story: str) -> None:
        self.headlines.append((news, symbols, story))

    def sentiment(self, sentiment: Sentiment) -> None:
        self.sentiments.append(sentiment)
