"""What happened in a run: changes of risk, commands, notes of the strategy, rejected orders."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from itertools import chain
from threading import Lock
from typing import Final, NamedTuple

from agent.api.api_messages import LEVELS, Level
from agent.api.route_table import ActivityQuery
from agent.api.run_messages import ActivityEntry, ActivityPage
from agent.core.events import (
    CashAdjustment,
    Command,
    Decision,
    Notice,
    OrderStatus,
    OrderUpdate,
    RiskEvent,
    RiskState,
    StrategyChange,
    kind_of,
)
from agent.core.risk import KILL, NOTES, WARM_UP
from agent.data.text import one_line
from agent.live.formatting import describe
from agent.store.database import Database
from agent.store.journal import decode, read_journal_rows
from agent.store.queries import read_numbered
from agent.store.runs import Run, RunKind, RunStatus

MAX_KEPT: Final = 20_000
"""Activities of a run that are kept: the newest."""

_RUNS: Final = 8  # in memory
_TEXT: Final = 500  # characters
_KINDS: Final = (RiskEvent, Notice, StrategyChange, CashAdjustment, OrderUpdate)
_ROUTINE: Final = ("heartbeat", "reconciling", "life", "warm-up", "warm-up-done")
_SERIOUS: Final = ("kill", "halt", "alarm", "emergency-kill", "strategy-error")


class Activities(NamedTuple):
    """The activities of a run, newest first, and how many older ones were left out."""

    entries: list[ActivityEntry]
    omitted: int


class RunActivities:
    """The activities of runs, read once and continued with what was recorded since.

    Safe to use from several threads.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._runs: OrderedDict[str, _ActivitiesOfRun] = OrderedDict()
        self._lock = Lock()

    def of(self, run: Run) -> Activities:
        """Return all activities of a run; don't change the list."""
        with self._lock:
            fold = self._runs.pop(run.id, None) or _ActivitiesOfRun(self._database, run.id)
            found = fold.read(run)  # if the store fails half-way, the fold is lost and made anew
            self._runs[run.id] = fold
            if len(self._runs) > _RUNS:
                self._runs.popitem(last=False)
            return found


class _ActivitiesOfRun:
    """The activities of one run up to a decision and an event of its journal."""

    def __init__(self, database: Database, run_id: str) -> None:
        self._database = database
        self._run_id = run_id
        self._decision = self._event = 0
        self._ended: int | None = None  # when the run ended that was read to its end
        self._found = Activities([], 0)

    def read(self, run: Run) -> Activities:
        """Read what was recorded since the last call; of a run that has ended, only once."""
        if run.status is RunStatus.RUNNING or self._ended is None or self._ended != run.finished_at:
            self._continue(run)
            self._ended = None if run.status is RunStatus.RUNNING else run.finished_at
        return self._found

    def _continue(self, run: Run) -> None:
        entries, omitted = list(self._found.entries), self._found.omitted
        known = len(entries)
        for entry in chain(self._decided(), self._commanded(run)):
            entries.append(entry)
            if len(entries) > 2 * MAX_KEPT:
                omitted += _keep_newest(entries)
        if len(entries) > known or omitted > self._found.omitted:
            omitted += _keep_newest(entries)
            self._found = Activities(entries, omitted)

    def _decided(self) -> Iterator[ActivityEntry]:
        recorded = read_numbered(self._database, self._run_id, _KINDS, self._decision + 1)
        for seq, event, _, decision in recorded:
            self._decision = seq
            if not isinstance(decision, OrderUpdate) or decision.status is OrderStatus.REJECTED:
                yield _entry(decision, event, seq, _level_of(decision))

    def _commanded(self, run: Run) -> Iterator[ActivityEntry]:
        """Yield the commands of a live run; a backtest has none."""
        if run.kind is not RunKind.LIVE:
            return
        for row in read_journal_rows(self._database, run.id, self._event + 1):
            self._event = row.seq
            if row.kind == _COMMAND:
                command = decode(row.payload)
                if isinstance(command, Command) and command.action not in _ROUTINE:
                    yield _entry(command, row.seq, 0, "warning" if command.action in _SERIOUS else "info")


def _keep_newest(entries: list[ActivityEntry]) -> int:
    """Sort entries, newest first, and cut them to `MAX_KEPT`; return how many were cut."""
    entries.sort(key=lambda entry: (entry.event, entry.seq), reverse=True)
    cut = max(len(entries) - MAX_KEPT, 0)
    del entries[MAX_KEPT:]
    return cut


_COMMAND: Final = kind_of(Command("", 0, 0, {}, ""))


def _level_of(decision: Decision) -> Level:
    match decision:
        case Notice():
            return next((level for level in LEVELS if level == decision.level), "info")
        case RiskEvent() if decision.rule in (*NOTES, WARM_UP):
            return "info"
        case RiskEvent() if decision.rule == KILL and not decision.symbol:
            return "error" if decision.state is RiskState.HALTED else "info"
        case RiskEvent():
            return "info" if decision.state is RiskState.ACTIVE and not decision.symbol else "warning"
        case OrderUpdate():
            return "warning"
    return "info"


def _entry(message: Decision | Command, event: int, seq: int, level: Level) -> ActivityEntry:
    fields = describe(message)
    what, symbol = str(fields.pop("what")), str(fields.pop("symbol", ""))
    fields.pop("id", None)
    if isinstance(message, OrderUpdate):
        symbol = message.symbol
    if isinstance(message, Notice):
        text = message.text
    else:
        text = ", ".join(f"{name} {value}" for name, value in fields.items() if value not in ("", None))
    return ActivityEntry(message.ts, event, seq, level, what, symbol, one_line(text, _TEXT))


def activity_page(found: Activities, query: ActivityQuery) -> ActivityPage:
    """Return a page of the activities that match."""
    matching = [*matches(found.entries, query)]
    items = tuple(matching[query.offset : query.offset + query.limit])
    return ActivityPage(len(found.entries), found.omitted, len(matching), items)


def matches(entries: Iterable[ActivityEntry], query: ActivityQuery) -> Iterator[ActivityEntry]:
    """Yield the entries of the wanted level, or a more serious one, with all words."""
    least = LEVELS.index(query.level or "debug")
    words = (query.search or "").casefold().split()
    for entry in entries:
        text = f"{entry.what} {entry.symbol} {entry.text}".casefold()
        if LEVELS.index(entry.level) >= least and all(word in text for word in words):
            yield entry
