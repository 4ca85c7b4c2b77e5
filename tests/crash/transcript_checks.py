"""Compares a killed run with the uninterrupted run: its store must hold a prefix or all of it."""

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
from tests.crash.market_script import AUTHOR


class Transcript(NamedTuple):
    """A run as recorded in its store. Commands of the agent itself are left out, and events are numbered
    without them.
    """

    inputs: list[bytes]  # the journal
    decisions: list[tuple[int, bytes]]  # event number and decision
    head: str  # head of the chain over these numbers
    equity: list[tuple[Any, ...]]
    sleeves: list[tuple[Any, ...]] = []  # samples by sleeve


class Loss(Exception):
    """Recorded data is lost, duplicated or changed."""


def read_transcript(store: Path, run_id: str) -> Transcript:
    """Read the run; the transcript is empty if the store or the run doesn't exist yet. Raises Loss if the
    store is damaged.
    """
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
        sleeves = tables.sleeve_equity
        rows = connection.execute(sleeves.select().where(sleeves.c.run_id == run_id).order_by(sleeves.c.seq))
        equity_of_sleeves = [tuple(row) for row in rows]
    if health != "ok":
        raise Loss(f"integrity_check: {health}")
    inputs: list[bytes] = []
    numbers: dict[int, int] = {}
    for seq, event in read_journal(database, run_id):
        if not isinstance(event, Command) or event.by == AUTHOR:
            inputs.append(encode(_without_latency(event)))
        numbers[seq] = len(inputs)
    chain = DecisionChain()
    decisions = []
    for item in read_decisions(database, run_id):
        number = numbers.get(item.event_seq)
        if number is None:
            raise Loss(f"decision without its event {item.event_seq} in the journal: {item.decision}")
        chain.add(item.decision, number)
        decisions.append((number, msgspec.msgpack.encode(item.decision)))
    return Transcript(inputs, decisions, chain.head, equity, equity_of_sleeves)


def _without_latency(event: Event) -> Event:
    """Remove the measured latency of the model, which has no effect on decisions."""
    return replace(event, latency_ms=0.0) if isinstance(event, Sentiment) else event


def check_prefix(now: Transcript, before: Transcript, uninterrupted: Transcript) -> None:
    """Check the store right after a kill. Raises Loss if recorded data is gone or differs from the
    uninterrupted run.
    """
    for name, mine, earlier, all_of_it in _compared(now, before, uninterrupted):
        if len(mine) < len(earlier):
            raise Loss(f"{len(earlier) - len(mine)} transcripts {len(earlier)} {name} are gone")
        if mine != all_of_it[: len(mine)]:
            raise Loss(_first_difference(name, mine, all_of_it))


def check_complete(store: Path, run_id: str, uninterrupted: Transcript) -> None:
    """Check the finished run. Raises Loss if an input, decision or equity sample differs from the
    uninterrupted run.
    """
    mine = read_transcript(store, run_id)
    for name, ours, _, all_of_it in _compared(mine, mine, uninterrupted):
        if ours != all_of_it:
            raise Loss(_first_difference(name, ours, all_of_it))
    if mine.head != uninterrupted.head:
        raise Loss(f"chain head {mine.head}, uninterrupted {uninterrupted.head}")
    with closing(open_database(f"sqlite:///{store}")) as database:
        runs = list_runs(database)
        if [run.id for run in runs] != [run_id] or runs[0].status is not RunStatus.COMPLETE:
            raise Loss(f"expected one complete run, found {[(run.id, run.status.value) for run in runs]}")
        try:
            identical = verify(database, find_run(database, run_id)).identical
        except StoreError as error:
            raise Loss(f"verify: {error}") from error
        if not identical:
            raise Loss("verify found a different decision")


def _compared(*transcripts: Transcript) -> Iterator[tuple[Any, ...]]:
    for name in ("inputs", "decisions", "equity", "sleeves"):
        yield (name, *(getattr(transcript, name) for transcript in transcripts))


def _first_difference(name: str, mine: list[Any], due: list[Any]) -> str:
    for number, (one, other) in enumerate(zip_longest(mine, due), 1):
        if one != other:
            return (
                f"number {number} transcripts the {name} is {_describe(one)}, "
                f"uninterrupted {_describe(other)}"
            )
    return f"the {name} differ"


def _describe(item: Any) -> str:
    """Format an item; inputs and decisions are stored encoded."""
    match item:
        case bytes():
            return str(msgspec.msgpack.decode(item))
        case (int(number), bytes(encoded)):
            return f"{msgspec.msgpack.decode(encoded)} on input {number}"
    return str(item)
