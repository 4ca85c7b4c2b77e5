"""Which strategies decided in a recorded run, and since when."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec.structs import replace
from sqlalchemy import select

from agent.core.events import StrategyChange
from agent.core.strategy_version import label_of
from agent.store.database import Database
from agent.store.runs import Run
from agent.store.strategy_sources import read_source
from agent.store.tables import DECISIONS
from strategies import SOURCE_SHA256


class RecordedVersion(msgspec.Struct, frozen=True):
    """A strategy of a run. `event` is the number of the command that brought it; 0 for the first one."""

    strategy: str  # a short name
    source: str  # SHA-256; empty if it is built in
    params: dict[str, Any]
    since: int  # UTC ms
    event: int = 0
    by: str = ""
    flatten: bool = False
    sleeve: str = ""
    stored: bool = False  # the store has the source

    @property
    def values(self) -> str:
        """The parameters as text."""
        return ", ".join(f"{name} = {value}" for name, value in self.params.items())


def recorded_versions(database: Database, run: Run) -> list[RecordedVersion]:
    """List the strategies of a run, the first one first. Raises StoreError."""
    found = _first_versions(run)
    for seq, change in _read_changes(database, run.id):
        params = msgspec.json.decode(change.params, type=dict[str, Any])
        label = label_of(change.strategy, change.class_name)
        found.append(
            RecordedVersion(
                label, change.sha256, params, change.ts, seq, change.by, change.flatten, change.sleeve or ""
            )
        )
    stored = {one.source for one in found if one.source and read_source(database, one.source) is not None}
    return [replace(one, stored=one.source in stored) for one in found]


def _first_versions(run: Run) -> list[RecordedVersion]:
    """Return the strategies with which a run began: one, or that of each sleeve."""
    began = run.first_event_at or run.started_at
    sleeves = [one for one in run.config.get("sleeves", ()) if one.get("enabled", True)]
    if not sleeves:
        return [RecordedVersion(run.strategy, run.versions.get(SOURCE_SHA256, ""), run.params, began)]
    return [
        RecordedVersion(
            one["strategy"]["name"],
            run.versions.get(f"{SOURCE_SHA256}:{one['name']}", ""),
            run.params.get(one["name"], {}),
            began,
            sleeve=one["name"],
        )
        for one in sleeves
    ]


def _read_changes(database: Database, run_id: str) -> Iterator[tuple[int, StrategyChange]]:
    """Yield the changes of a run's strategy, each with the number of its event. Raises StoreError."""
    table = DECISIONS[StrategyChange]
    columns = [table.c.event_seq, *(table.c[name] for name in StrategyChange.__struct_fields__)]
    with database.read() as connection:
        rows = connection.execute(select(*columns).where(table.c.run_id == run_id).order_by(table.c.seq))
        for seq, *values in rows:
            yield seq, StrategyChange(*values)
