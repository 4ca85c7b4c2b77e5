"""Hands the events of a history to an engine, and numbers them for the engine's sink."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from agent.core.block_runner import BlockRunner
from agent.core.engine import Engine
from agent.core.events import Decision, Event
from agent.core.sinks import SleevedSink
from agent.core.trading_engine import TradingEngine
from agent.data.block_stream import BarSlice, BlockSource, block_stream
from agent.data.merge import merge


class ReplaySink(SleevedSink, Protocol):
    """Sink whose `event_seq` is set to the number of the event before its decisions arrive."""

    event_seq: int


class NumberingSink:
    """Forwards everything to `inner`, whose `event_seq` it sets before each decision.

    Give it to the engine, and then to the `EventFeed` of that engine.
    """

    def __init__(self, inner: ReplaySink) -> None:
        self.event_seq = 0
        """Number of the event, from 1; of the last one before a slice, while its bars are handled."""
        self.runner: BlockRunner | None = None  # while it handles a slice
        self.inner = inner
        self.equity = inner.equity
        self.sleeve_equity = inner.sleeve_equity
        self.news = inner.news
        self.sentiment = inner.sentiment

    def decision(self, decision: Decision) -> None:
        """Forward a decision with the number of its event."""
        self.inner.event_seq = self.number
        self.inner.decision(decision)

    @property
    def number(self) -> int:
        """Number of the event that the engine handles."""
        return self.event_seq if self.runner is None else self.event_seq + self.runner.row + 1


def by_block(engine: TradingEngine, sources: Sequence[Iterable[Event]]) -> Iterator[Event | BarSlice]:
    """Merge `sources`, with bars in slices if the engine is of one strategy and a source has columns."""
    if isinstance(engine, Engine) and any(isinstance(source, BlockSource) for source in sources):
        return block_stream(sources)
    return merge(sources)


class EventFeed:
    """Iterates over the parts of a history, single events and slices of bars.

    Each part is handled after it has been yielded. Call `finish` after the last one.
    """

    def __init__(self, engine: TradingEngine, sink: NumberingSink, parts: Iterable[Event | BarSlice]) -> None:
        self.events = 0
        """Number of the events that were handled."""
        self._engine = engine
        self._sink = sink
        self._parts = parts
        self._last: Event | BarSlice | None = None  # that was handled
        self._runner: BlockRunner | None = None

    def __iter__(self) -> Iterator[Event | BarSlice]:
        sink, handle = self._sink, self._engine.handle
        for part in self._parts:
            yield part
            self._last = part
            if isinstance(part, BarSlice):
                self._handle_slice(part)
            else:
                self.events += 1
                sink.event_seq = sink.inner.event_seq = self.events
                handle(part)

    def _handle_slice(self, part: BarSlice) -> None:
        sink, runner = self._sink, self._runner
        if runner is None:
            if not isinstance(self._engine, Engine):
                raise ValueError("slices of bars are for an engine of one strategy")
            runner = self._runner = BlockRunner(self._engine)
        sink.event_seq, sink.runner = self.events - part.first, runner
        try:
            runner.handle(part.block, part.first, part.last)
        finally:  # a failed run ends at the event that failed
            sink.inner.event_seq = sink.number
            sink.runner = None
        self.events += part.last - part.first
        sink.event_seq = sink.inner.event_seq = self.events

    def event(self, number: int) -> Event | None:
        """Return event `number` of the part that was handled last, or its last one; None before any."""
        part = self._last
        if not isinstance(part, BarSlice):
            return part
        return part.block.kline(part.last - 1 - max(0, self.events - number))

    def finish(self) -> None:
        """Finish the engine. Raises as `Engine.finish`."""
        (self._engine if self._runner is None else self._runner).finish()
