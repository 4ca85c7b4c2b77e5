"""Playback of a recorded run: the page as it was at any moment of the run.

Opening a run applies all its events and decisions to a `DashboardState` once. They are also spooled to a
temporary file, and the state is copied at intervals (checkpoints). The state at a moment is built from the
last checkpoint before it and the few records after that, so neither time nor memory grows with the length of
the run.
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
from agent.dashboard.dashboard_state import NO_VERSION, DashboardState
from agent.dashboard.page_rows import RunHeader, run_header
from agent.live.control_socket import COMMANDS
from agent.replay.verify import inputs
from agent.store.database import Database
from agent.store.queries import RecordedDecision, read_decisions
from agent.store.runs import Run, RunKind, RunStatus

MAX_BOOKMARKS: Final = 2_000

_MAX_CHECKPOINTS: Final = 256  # with one symbol; divided by the number of symbols
_MIN_CHECKPOINTS: Final = 16
# records between checkpoints; doubles whenever every other checkpoint is dropped
_FIRST_INTERVAL: Final = 256
_PROGRESS_INTERVAL: Final = 4_096  # records
_RECORD: Final = struct.Struct("<IBQ")  # length, whether it is a decision, number of the event
_encode: Final = msgspec.msgpack.Encoder().encode
_event: Final = msgspec.msgpack.Decoder(Event).decode
_decision: Final = msgspec.msgpack.Decoder(Decision).decode


class Bookmark(NamedTuple):
    """A moment to jump to."""

    at: int
    what: str  # fill, risk, command
    symbol: str


class _Checkpoint(NamedTuple):
    at: int
    offset: int  # in the spool, of the next record
    state: DashboardState


class RunPlayback:
    """A recorded run to play back, after `open` has read it.

    All methods block and, except `stop`, must be called from one thread at a time. `close` releases the disk
    space of the spool.
    """

    def __init__(self, database: Database, run: Run) -> None:
        self.run = run
        self.share = 0.0
        """Fraction of the run that `open` has read."""
        self.begins = self.ends = 0
        """UTC ms of the end of the warm-up and of the last event."""
        self.bookmarks: list[Bookmark] = []
        self.header: RunHeader
        self._database = database
        self._spool = TemporaryFile()  # noqa: SIM115 - closed by `close`
        self._checkpoints: list[_Checkpoint] = []
        self._stopped = False

    def open(self, *, bars: int = 300) -> None:
        """Read the whole run. Raises StoreError; UsageError or DataError if files are missing or changed."""
        config, events = inputs(self._database, self.run)
        self.header = run_header(self.run, config)
        if (
            self.run.status is not RunStatus.RUNNING
        ):  # input files continue after the event on which a run failed
            events = islice(events, self.run.events)
        state = DashboardState(self.header, config, bars=bars)
        limit = max(_MIN_CHECKPOINTS, _MAX_CHECKPOINTS // len(self.header.symbols))
        interval, offset = _FIRST_INTERVAL, 0
        self._checkpoints = [_Checkpoint(0, 0, state.copy())]
        for count, (seq, message, decided) in enumerate(_messages(self._database, self.run, events), 1):
            if self._stopped:
                break
            apply_message(state, seq, message, decided=decided)
            record = _encode(message)
            offset += self._spool.write(_RECORD.pack(len(record), decided, seq) + record)
            self._add_bookmark(state.now, message)
            if count % interval == 0:
                self._checkpoints.append(_Checkpoint(state.now, offset, state.copy()))
                if len(self._checkpoints) > limit:
                    del self._checkpoints[1::2]
                    interval *= 2
            if count % _PROGRESS_INTERVAL == 0 and self.run.events:
                self.share = min(seq / self.run.events, 1.0)
        self.begins, self.ends = self.begins or state.now, state.now
        self.share = 1.0

    def page_at(self, moment: int, symbol: str = "") -> dict[str, Any]:
        """Return all sections of the page after the events up to `moment` (UTC ms), with bars of `symbol`."""
        return self.state_at(moment).changes(NO_VERSION, symbol or self.header.symbols[0])

    def state_at(self, moment: int) -> DashboardState:
        """Return the state after the events up to `moment` (UTC ms)."""
        index = max(bisect_right(self._checkpoints, moment, key=attrgetter("at")) - 1, 0)
        checkpoint = self._checkpoints[index]
        state = checkpoint.state.copy()
        for seq, message, decided in self._read(checkpoint.offset):
            if not decided and isinstance(message, Event) and message.available_at > moment:
                break
            apply_message(state, seq, message, decided=decided)
        return state

    def stop(self) -> None:
        """Make a running `open` return early. Can be called from any thread."""
        self._stopped = True

    def close(self) -> None:
        """Delete the spool."""
        self._spool.close()

    def _read(self, offset: int) -> Iterator[tuple[int, Event | Decision, bool]]:
        self._spool.seek(offset)
        while header := self._spool.read(_RECORD.size):
            size, decided, seq = _RECORD.unpack(header)
            body = self._spool.read(size)
            yield seq, _decision(body) if decided else _event(body), bool(decided)

    def _add_bookmark(self, now: int, message: Event | Decision) -> None:
        """Note the end of the warm-up, and a bookmark if the message is worth one."""
        warm = isinstance(message, Command) and message.action == "warm-up-done"
        if not self.begins and (self.run.kind is RunKind.BACKTEST or warm):
            self.begins = now
        bookmark = _bookmark(now, message)
        if bookmark is not None and len(self.bookmarks) < MAX_BOOKMARKS:
            self.bookmarks.append(bookmark)


def _bookmark(now: int, message: Event | Decision) -> Bookmark | None:
    match message:
        case Fill():
            return Bookmark(now, "fill", message.symbol)
        case RiskEvent(symbol="") if message.rule != "warm-up":
            return Bookmark(now, "risk", "")
        case Command() if message.action in COMMANDS:
            return Bookmark(now, "command", "")
    return None


def apply_message(state: DashboardState, seq: int, message: Any, *, decided: bool) -> None:
    """Apply an event, or a decision on event `seq`, to `state`."""
    if decided:
        state.decision(seq, message)
    else:
        state.event(seq, message)


def _messages(
    database: Database, run: Run, events: Iterator[Event]
) -> Iterator[tuple[int, Event | Decision, bool]]:
    """Yield each event, then the decisions on it: (number of the event, message, is it a decision)."""
    decisions = groupby(read_decisions(database, run.id), key=attrgetter("event_seq"))
    end: tuple[int, Iterator[RecordedDecision]] = (0, iter(()))
    next_seq, decided = next(decisions, end)
    for seq, event in enumerate(events, 1):
        yield seq, event, False
        if next_seq == seq:
            for item in decided:
                yield seq, item.decision, True
            next_seq, decided = next(decisions, end)
