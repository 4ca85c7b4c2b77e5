"""The events of a recorded run, one by one, with what a reader needs beside them.

A live run's events come from its journal, also where that was moved to files; those of a replay from its
inputs. Nothing is kept but the latest headlines, so a run of any length is listed in constant memory.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final, NamedTuple, get_args

from agent.core.errors import UsageError, did_you_mean
from agent.core.events import Event, News, Sentiment, kind_of
from agent.core.symbols import SymbolMapper
from agent.replay.verify import inputs
from agent.store.database import Database
from agent.store.queries import RecordedDecision, read_decisions
from agent.store.runs import Run

KINDS: Final = {kind_of(kind).lower(): kind_of(kind) for kind in get_args(Event)}
"""Kinds on the wire by their name in lower case."""

_KEPT: Final = 20_000  # headlines: an agent remembers no more either


class ListedEvent(NamedTuple):
    """An event with its number. Of headlines and scores it has the title and the symbols that it is about.

    `before` is the first score that this one revises.
    """

    seq: int
    event: Event
    title: str = ""
    symbols: tuple[str, ...] = ()
    before: Sentiment | None = None
    decisions: tuple[RecordedDecision, ...] = ()


class EventSelection(NamedTuple):
    """Which events are listed: of these kinds and about this symbol, if any, available from `start` (UTC ms)
    until before `end`.
    """

    kinds: frozenset[str] = frozenset()
    symbol: str = ""
    start: int | None = None
    end: int | None = None

    def has(self, listed: ListedEvent) -> bool:
        """Return whether an event is one of them."""
        event = listed.event
        if self.kinds and kind_of(event) not in self.kinds:
            return False
        if self.start is not None and event.available_at < self.start:
            return False
        return not self.symbol or self.symbol in (getattr(event, "symbol", ""), *listed.symbols)


def parse_kinds(names: list[str]) -> frozenset[str]:
    """Return kinds by their names in any case. Raises UsageError for an unknown one."""
    for name in names:
        if name.lower() not in KINDS:
            hint = did_you_mean(name.lower(), list(KINDS)) or f"one of {', '.join(KINDS)}"
            raise UsageError(f"there is no kind of event {name!r}", hint=hint)
    return frozenset(KINDS[name.lower()] for name in names)


def list_events(
    database: Database, run: Run, selection: EventSelection, *, decisions: bool = False
) -> Iterator[ListedEvent]:
    """Yield the selected events in order, with the decisions that the run recorded on each if requested.

    Raises as `agent.replay.verify.inputs`.
    """
    config, events = inputs(database, run)
    mapper = SymbolMapper(config.market.symbols, config.instruments, config.signals.macro_keywords)
    memory = _Headlines(mapper)
    made = read_decisions(database, run.id) if decisions else iter(())
    following = next(made, None)
    for seq, event in enumerate(events, 1):
        if selection.end is not None and event.available_at >= selection.end:
            return
        listed = memory.listed(seq, event)
        own: list[RecordedDecision] = []
        while following is not None and following.event_seq <= seq:
            own += [following] if following.event_seq == seq else []
            following = next(made, None)
        if selection.has(listed):
            yield listed._replace(decisions=tuple(own)) if own else listed


class _Headlines:
    """Remembers the latest headlines, and their scores that may be revised."""

    def __init__(self, mapper: SymbolMapper) -> None:
        self._mapper = mapper
        self._known: OrderedDict[str, tuple[str, tuple[str, ...]]] = OrderedDict()
        self._provisional: OrderedDict[str, Sentiment] = OrderedDict()

    def listed(self, seq: int, event: Event) -> ListedEvent:
        """Return the event with what is known of its headline."""
        if isinstance(event, News):
            symbols = self._mapper.map(event.title, event.currencies)
            self._known[event.id] = event.title, symbols
            _bound(self._known)
            return ListedEvent(seq, event, event.title, symbols)
        if not isinstance(event, Sentiment):
            return ListedEvent(seq, event)
        title, symbols = self._known.get(event.news_id, ("", ()))
        before = self._provisional.pop(event.news_id, None)
        if event.provisional:
            self._provisional[event.news_id] = event
            _bound(self._provisional)
        return ListedEvent(seq, event, title, event.symbols or symbols, before)


def _bound(kept: OrderedDict[str, tuple[str, tuple[str, ...]]] | OrderedDict[str, Sentiment]) -> None:
    if len(kept) > _KEPT:
        kept.popitem(last=False)
