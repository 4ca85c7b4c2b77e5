"""A run that was killed, held against the same run uninterrupted: what is in its store must be the other's beginning, or all of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from agent.core.errors import StoreError
from agent.core.events import Command, Event, Sentiment
from agent.replay.verify import verify
from agent.store import tables
from agent.store.chain import DecisionChain
from agent.store.database import Database, open_database
from agent.store.journal import encode, read_journal
from agent.store.queries import find_run, list_runs, read_decisions
from agent.store.runs import RunStatus
from tests.crash.script import AUTHOR


class Transcript(NamedTuple):
    """A run as it stands in its store. A life's own commands are left out, and events are numbered without them."""

    inputs: list[bytes]  # the journal
    decisions: list[tuple[int, bytes]]  # the number of its event, and the decision
    head: str  # of the chain over these numbers
    equity: list[tuple[Any, ...]]


class Loss(Exception):
    """Something that was safe is gone, doubled or other than it was."""


def read(store: Path, run_id: str) -> Transcript:
    """Empty where the store or the run doesn't exist yet. Raises Loss where the store itself is damaged."""
    if not store.exists():
        return Transcript([], [], "", [])
    try:
        with closing(open_database(f"sqlite:///{store}")) as database:
            return _read(database, run_id)
    except StoreError as error:
        raise Loss(f"the store can't be read: {error}") from error


def _read(database: Database, run_id: str) -> Transcript:
    with database.read() as connection:
        health = connection.exec_driver_sql("PRAGMA integrity_check").scalar()
        rows = connection.execute(
            tables.equity.select().where(tables.equity.c.run_id == run_id).order_by(tables.equity.c.seq)
        )
        equity = [tuple(row) for row in rows]
    if health != "ok":
        raise Loss(f"integrity_check: {health}")
    inputs: list[bytes] = []
    numbers: dict[int, int] = {}
    for seq, event in read_journal(database, run_id):
        if not isinstance(event, Command) or event.by == AUTHOR:
            inputs.append(encode(_timeless(event)))
        numbers[seq] = len(inputs)
    chain = DecisionChain()
    decisions = []
    for item in read_decisions(database, run_id):
        number = numbers.get(item.event_seq)
        if number is None:
            raise Loss(
                f"a decision stands without its event {item.event_seq}, which is not in the journal: {item.decision}"
            )
        chain.add(item.decision, number)
        decisions.append((number, msgspec.msgpack.encode(item.decision)))
    return Transcript(inputs, decisions, chain.head, equity)


def _timeless(event: Event) -> Event:
    """How long the model took is measured, and no part of what is decided by."""
    return replace(event, latency_ms=0.0) if isinstance(event, Sentiment) else event


def check_prefix(now: Transcript, before: Transcript, whole: Transcript) -> None:
    """Right after a death. Raises Loss where something recorded earlier is gone, or isn't what the uninterrupted run has."""
    for name, mine, earlier, all_of_it in _parts(now, before, whole):
        if len(mine) < len(earlier):
            raise Loss(f"{len(earlier) - len(mine)} of {len(earlier)} {name} are gone")
        if mine != all_of_it[: len(mine)]:
            raise Loss(_first_difference(name, mine, all_of_it))


def check_whole(store: Path, run_id: str, whole: Transcript) -> None:
    """At the end of the run. Raises Loss where it isn't, in every input, decision and sample of equity, the uninterrupted one."""
    mine = read(store, run_id)
    for name, ours, _, all_of_it in _parts(mine, mine, whole):
        if ours != all_of_it:
            raise Loss(_first_difference(name, ours, all_of_it))
    if mine.head != whole.head:
        raise Loss(f"chain head {mine.head}, uninterrupted {whole.head}")
    with closing(open_database(f"sqlite:///{store}")) as database:
        runs = list_runs(database)
        if [run.id for run in runs] != [run_id] or runs[0].status is not RunStatus.COMPLETE:
            raise Loss(
                f"one complete run was due, and there are {[(run.id, run.status.value) for run in runs]}"
            )
        try:
            identical = verify(database, find_run(database, run_id)).identical
        except StoreError as error:
            raise Loss(f"verify: {error}") from error
        if not identical:
            raise Loss("verify finds another decision")


def _parts(*of: Transcript) -> Iterator[tuple[Any, ...]]:
    for name in ("inputs", "decisions", "equity"):
        yield (name, *(getattr(transcript, name) for transcript in of))


def _first_difference(name: str, mine: list[Any], due: list[Any]) -> str:
    for number, (one, other) in enumerate(zip_longest(mine, due), 1):
        if one != other:
            return f"number {number} of the {name} is {_words(one)}, uninterrupted {_words(other)}"
    return f"the {name} differ"


def _words(item: Any) -> str:
    """For people; `inputs` and `decisions` are kept encoded."""
    match item:
        case bytes():
            return str(msgspec.msgpack.decode(item))
        case (int(number), bytes(encoded)):
            return f"{msgspec.msgpack.decode(encoded)} on input {number}"
    return str(item)
