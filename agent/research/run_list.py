"""The list of recorded runs: folds under their walk-forward, filtered and sorted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from agent.analysis.run_rows import RunRow, run_row
from agent.core.errors import DataError, UsageError, did_you_mean
from agent.research.study_comparison import find_study
from agent.research.walk_forward import FOLDER
from agent.store.database import Database
from agent.store.queries import list_runs
from agent.store.run_labels import RunLabels, read_labels
from agent.store.runs import Run

STUDY: Final = "walkforward"
"""Kind of a row that stands for the folds of a walk-forward."""

_FOLD: Final = " fold "


class ListedRun(msgspec.Struct, frozen=True):
    """A line of the list: a run, or a walk-forward with its `folds`.

    The figures of a walk-forward are those of its result, of all folds together; without the result file they
    are computed from the folds as far as possible.
    """

    row: RunRow
    tags: tuple[str, ...] = ()
    note: str = ""
    study: str = ""  # of a fold: the walk-forward that it belongs to
    folds: tuple[ListedRun, ...] = ()


class RunFilter(NamedTuple):
    """Which lines to list; empty fields don't restrict. A walk-forward matches by its own line or a fold."""

    kind: str = ""
    strategy: str = ""
    symbol: str = ""
    since: int | None = None  # UTC ms of the start
    tags: tuple[str, ...] = ()
    status: str = ""

    def accepts(self, listed: ListedRun) -> bool:
        """Return whether the line matches all fields."""
        row = listed.row
        own = Path(row.strategy.partition(":")[0]).stem if ".py" in row.strategy else row.strategy
        return (
            self.kind in ("", row.kind)
            and self.strategy in ("", row.strategy, own)
            and (not self.symbol or self.symbol.upper() in row.symbols)
            and (self.since is None or row.started_at >= self.since)
            and set(self.tags) <= set(listed.tags)
            and self.status in ("", row.status)
        )

    def accepts_any(self, listed: ListedRun) -> bool:
        """Return whether the line or one of its folds matches."""
        return self.accepts(listed) or any(map(self.accepts, listed.folds))


_KEYS: Final[dict[str, Callable[[ListedRun], Any]]] = {
    "started": lambda listed: listed.row.started_at,
    "return": lambda listed: listed.row.total_return,
    "sharpe": lambda listed: listed.row.sharpe,
    "drawdown": lambda listed: listed.row.max_drawdown,
    "trades": lambda listed: listed.row.trades,
    "events": lambda listed: listed.row.events,
    "strategy": lambda listed: listed.row.strategy,
    "id": lambda listed: listed.row.id,
}
SORT_KEYS: Final = tuple(_KEYS)


def listed_runs(database: Database, folder: Path = FOLDER) -> list[ListedRun]:
    """Return all runs, newest first; the folds of a walk-forward are one line. `folder` has the results."""
    labels = read_labels(database)
    lines: list[ListedRun] = []
    studies: dict[str, list[ListedRun]] = {}
    places: dict[str, int] = {}
    for run in list_runs(database):
        study = study_of(run)
        listed = _labelled(run_row(run), labels, study)
        if not study:
            lines.append(listed)
            continue
        if study not in studies:
            places[study] = len(lines)
            lines.append(listed)  # replaced below
        studies.setdefault(study, []).append(listed)
    for study, folds in studies.items():
        ordered = tuple(sorted(folds, key=lambda fold: fold.row.first_event_at or 0))
        lines[places[study]] = _labelled(_study_row(study, ordered, folder), labels, "", ordered)
    return lines


def study_of(run: Run) -> str:
    """Return the id of the walk-forward of which the run is a fold; empty for other runs."""
    part = str((run.config.get("window") or {}).get("part_of") or "")
    return part.partition(_FOLD)[0]


def sort_runs(lines: Sequence[ListedRun], key: str) -> list[ListedRun]:
    """Sort by one of `SORT_KEYS`, descending with a minus sign before it; lines without a value come last.

    Raises UsageError for another key.
    """
    name = key.removeprefix("-")
    if name not in _KEYS:
        hint = did_you_mean(name, SORT_KEYS, f"one of {', '.join(SORT_KEYS)}, with - before it: descending")
        raise UsageError(f"--sort {key}: there is no such column", hint=hint)
    value = _KEYS[name]
    known = [line for line in lines if value(line) is not None]
    return sorted(known, key=value, reverse=key.startswith("-")) + [
        line for line in lines if value(line) is None
    ]


def _labelled(
    row: RunRow, labels: dict[str, RunLabels], study: str, folds: tuple[ListedRun, ...] = ()
) -> ListedRun:
    own = labels.get(row.id, RunLabels())
    return ListedRun(row, own.tags, own.note, study, folds)


def _study_row(study: str, folds: tuple[ListedRun, ...], folder: Path) -> RunRow:
    rows = [fold.row for fold in folds]
    first = rows[0]
    statuses = {row.status for row in rows}
    returns = [row.total_return for row in rows]
    total = prod(1 + value for value in returns if value is not None) - 1 if None not in returns else None
    trades = [row.trades for row in rows]
    row = RunRow(
        id=study,
        kind=STUDY,
        status=statuses.pop() if len(statuses) == 1 else "running" if "running" in statuses else "failed",
        strategy=first.strategy,
        symbols=first.symbols,
        started_at=min(row.started_at for row in rows),
        first_event_at=first.first_event_at,
        last_event_at=rows[-1].last_event_at,
        events=sum(row.events for row in rows),
        decisions=sum(row.decisions for row in rows),
        total_return=total,
        max_drawdown=None,
        sharpe=None,
        trades=sum(count for count in trades if count is not None) if None not in trades else None,
        stamps=tuple(dict.fromkeys(stamp for row in rows for stamp in row.stamps)),
        error=next((row.error for row in rows if row.error), ""),
    )
    try:
        evidence = find_study(study, folder).evidence
    except (UsageError, DataError):
        return row
    return msgspec.structs.replace(
        row,
        total_return=evidence.total_return,
        sharpe=evidence.sharpe,
        max_drawdown=evidence.max_drawdown,
        trades=evidence.trades,
    )
