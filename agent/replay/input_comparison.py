"""Whether two recorded runs handled the same events, and the event that led to a decision."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, zip_longest
from typing import NamedTuple

import msgspec

from agent.analysis.comparison.comparison_data import FileDifference, InputComparison
from agent.core.errors import TapewireError
from agent.core.events import Event
from agent.replay.backtest import Progress
from agent.replay.verify import inputs
from agent.store.database import Database
from agent.store.journal import digest_at, last_event_seq
from agent.store.runs import InputFile, Run, RunKind

_TICK = 16_384


class ComparedInputs(NamedTuple):
    """The result, and the event with the wanted number: of run a, or if it has none, of run b."""

    comparison: InputComparison
    event: Event | None


def compare_inputs(
    database: Database, a: Run, b: Run, until: int | None = None, progress: Progress | None = None
) -> ComparedInputs:
    """Compare the events of two runs one by one, up to number `until` or all of them.

    Journals with the same digest are equal and not read. Files that are missing or have changed leave the
    question open, which the result states.
    """
    files = _differing_files(a.inputs, b.inputs)
    if until is None and (known := _known_equal(database, a, b)):
        return ComparedInputs(InputComparison(True, known), None)
    checked, event = 0, None
    try:
        for one, other in zip_longest(_events(database, a, until), _events(database, b, until)):
            if one != other and (one is None or other is None or not _same(one, other)):
                detail = f"the inputs differ from event {checked + 1:,} on"
                found = InputComparison(False, detail, files, checked, checked + 1, one, other)
                return ComparedInputs(found, one or other if checked + 1 == until else None)
            checked, event = checked + 1, one
            if progress and checked % _TICK == 0:
                progress(one.available_at)
    except TapewireError as error:
        detail = f"the inputs can't be compared event by event: {error.message}"
        same = False if files else None
        return ComparedInputs(InputComparison(same, detail, files, checked), None)
    if until is not None:
        detail = f"the events up to the first differing decision are equal: {checked:,}, compared one by one"
        detail += "; the runs read different files, so later events may differ" if files else ""
    else:
        detail = f"all {checked:,} events are equal, compared one by one"
    return ComparedInputs(InputComparison(True, detail, files, checked), event if until is not None else None)


def _events(database: Database, run: Run, until: int | None) -> Iterator[Event]:
    """Return the events that the run handled: input files go on after the event on which a run failed."""
    _, events = inputs(database, run)
    last = min(until, run.events) if until is not None and run.events else until or run.events or None
    return islice(events, last)


def _known_equal(database: Database, a: Run, b: Run) -> str:
    """Return how it is known that the runs have equal inputs without reading them; empty if it is not."""
    if a.id == b.id:
        return "it is the same run"
    if a.kind is not RunKind.LIVE or b.kind is not RunKind.LIVE:
        return ""
    ends = last_event_seq(database, a.id), last_event_seq(database, b.id)
    if not ends[0] or ends[0] != ends[1]:
        return ""
    digests = digest_at(database, a.id, ends[0]), digest_at(database, b.id, ends[1])
    if digests[0] is None or digests[0] != digests[1]:
        return ""
    return f"the journals are equal: {ends[0]:,} events with the same digest"


def _differing_files(a: tuple[InputFile, ...], b: tuple[InputFile, ...]) -> list[FileDifference]:
    one = {(item.role, item.symbol): item.sha256 for item in a}
    other = {(item.role, item.symbol): item.sha256 for item in b}
    return [
        FileDifference(role, symbol, one.get((role, symbol), ""), other.get((role, symbol), ""))
        for role, symbol in dict.fromkeys((*one, *other))
        if one.get((role, symbol)) != other.get((role, symbol))
    ]


def _same(one: Event, other: Event) -> bool:
    """Compare two events; NaN equals NaN."""
    return type(one) is type(other) and msgspec.msgpack.encode(one) == msgspec.msgpack.encode(other)
