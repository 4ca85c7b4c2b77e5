"""A recorded run, moved through in time: the page as it was at any moment of it.

Opening a run lets a `Picture` hear all of it once, as it would have live. What it heard is spooled to a temporary file, and now
and then a copy of the picture is kept. A moment is then drawn from the last copy before it and the few records after that: the
work doesn't grow with the run's length, nor does the memory.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator
from itertools import groupby, islice
from operator import attrgetter
from tempfile import TemporaryFile
from typing import Any, Final, NamedTuple

import msgspec

from agent.core.events import Command, Decision, Event, Fill, RiskEvent
from agent.dashboard.picture import NOTHING, Picture
from agent.dashboard.views import Head, head_of
from agent.live.control_socket import COMMANDS
from agent.replay.verify import inputs
from agent.store.database import Database
from agent.store.queries import RecordedDecision, read_decisions
from agent.store.runs import Run, RunKind, RunStatus

MARKS: Final = 2_000
"""Moments of note that are listed at most."""

_COPIES: Final = 256  # of one symbol's picture; fewer where there are more symbols
_FEWEST: Final = 16
_TICK: Final = 4_096
_RECORD: Final = struct.Struct("<IBQ")  # length, whether it is a decision, number of the event
_encode: Final = msgspec.msgpack.Encoder().encode
_event: Final = msgspec.msgpack.Decoder(Event).decode
_decision: Final = msgspec.msgpack.Decoder(Decision).decode


class Mark(NamedTuple):
    """A moment that is worth a look."""

    at: int
    what: str  # fill, risk, command
    symbol: str


class _Copy(NamedTuple):
    at: int
    offset: int  # in the spool, of the record after it
    picture: Picture


class Recording:
    """`open` it once, then ask for any moment. Blocking; one thread at a time. Close it to give the spool's disk space back."""

    def __init__(self, database: Database, run: Run) -> None:
        self.run = run
        self.share = 0.0
        """How much of the run has been read, while it is opened."""
        self.begins = self.ends = 0
        """UTC ms: the end of the warm-up, and the last event."""
        self.marks: list[Mark] = []
        self.head: Head
        self._database = database
        self._spool = TemporaryFile()  # noqa: SIM115 - lives as long as the recording
        self._copies: list[_Copy] = []
        self._stopped = False

    def open(self, *, bars: int = 300) -> None:
        """Hear the whole run. Raises DataError or UsageError where its input files are gone or changed, StoreError."""
        config, events = inputs(self._database, self.run)
        self.head = head_of(self.run, config)
        # input files go on after the event on which a run failed
        if self.run.status is not RunStatus.RUNNING:
            events = islice(events, self.run.events)
        picture = Picture(self.head, config, bars=bars)
        copies = max(_FEWEST, _COPIES // len(self.head.symbols))
        every, offset = 256, 0
        self._copies = [_Copy(0, 0, picture.copy())]
        for heard, (seq, message, decided) in enumerate(_heard(self._database, self.run, events), 1):
            if self._stopped:
                break
            hear(picture, seq, message, decided=decided)
            record = _encode(message)
            offset += self._spool.write(_RECORD.pack(len(record), decided, seq) + record)
            self._remark(picture.now, message)
            if heard % every == 0:
                self._copies.append(_Copy(picture.now, offset, picture.copy()))
                if len(self._copies) > copies:
                    del self._copies[1::2]
                    every *= 2
            if heard % _TICK == 0 and self.run.events:
                self.share = min(seq / self.run.events, 1.0)
        self.begins, self.ends = self.begins or picture.now, picture.now
        self.share = 1.0

    def at(self, moment: int, symbol: str = "") -> dict[str, Any]:
        """Everything on the page after the events up to `moment` (UTC ms), with the bars of `symbol`."""
        return self.picture(moment).changes(NOTHING, symbol or self.head.symbols[0])

    def picture(self, moment: int) -> Picture:
        """The picture after the events up to `moment`."""
        start = self._copies[max(bisect_right(self._copies, moment, key=attrgetter("at")) - 1, 0)]
        picture = start.picture.copy()
        for seq, message, decided in self._read(start.offset):
            if not decided and isinstance(message, Event) and message.available_at > moment:
                break
            hear(picture, seq, message, decided=decided)
        return picture

    def stop(self) -> None:
        """From another thread: leave it, nobody waits for it any more."""
        self._stopped = True

    def close(self) -> None:
        """Forget it."""
        self._spool.close()

    def _read(self, offset: int) -> Iterator[tuple[int, Event | Decision, bool]]:
        self._spool.seek(offset)
        while header := self._spool.read(_RECORD.size):
            size, decided, seq = _RECORD.unpack(header)
            body = self._spool.read(size)
            yield seq, _decision(body) if decided else _event(body), bool(decided)

    def _remark(self, now: int, message: Event | Decision) -> None:
        """Where the slider begins, and the moments to jump to."""
        if not self.begins and (
            self.run.kind is RunKind.BACKTEST
            or (isinstance(message, Command) and message.action == "warm-up-done")
        ):
            self.begins = now
        mark = _mark(now, message)
        if mark is not None and len(self.marks) < MARKS:
            self.marks.append(mark)


def _mark(now: int, message: Event | Decision) -> Mark | None:
    match message:
        case Fill():
            return Mark(now, "fill", message.symbol)
        case RiskEvent(symbol="") if message.rule != "warm-up":
            return Mark(now, "risk", "")
        case Command() if message.action in COMMANDS:
            return Mark(now, "command", "")
    return None


def hear(picture: Picture, seq: int, message: Any, *, decided: bool) -> None:
    """Let a picture hear one thing."""
    if decided:
        picture.decision(seq, message)
    else:
        picture.event(seq, message)


def _heard(
    database: Database, run: Run, events: Iterator[Event]
) -> Iterator[tuple[int, Event | Decision, bool]]:
    """Events and the decisions on them, as a watcher heard them: (number of the event, message, whether it was decided)."""
    decisions = groupby(read_decisions(database, run.id), key=attrgetter("event_seq"))
    none: tuple[int, Iterator[RecordedDecision]] = (0, iter(()))
    on, decided = next(decisions, none)
    for seq, event in enumerate(events, 1):
        yield seq, event, False
        if on == seq:
            for item in decided:
                yield seq, item.decision, True
            on, decided = next(decisions, none)
