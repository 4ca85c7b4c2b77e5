"""`tapewire runs`: list, tag, annotate and delete recorded runs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing, nullcontext
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec
import typer
from rich.progress import MofNCompleteColumn

from agent.cli.command_options import ConfigFile, Json, parse_span, parse_time
from agent.cli.console import err, print_columns, print_json, print_text, progress_bar
from agent.cli.typer_setup import option
from agent.config import load
from agent.core.errors import UsageError
from agent.data.text import one_line
from agent.system.fitted_table import Column, figures

if TYPE_CHECKING:
    from agent.research.run_list import ListedRun
    from agent.store.database import Database
    from agent.store.run_deletion import DeletedRun
    from agent.store.runs import Run

_NOTE: Final = 60  # characters of a note in the list
_FIGURES: Final = ("return", "Sharpe", "drawdown", "trips")

_Which = Annotated[
    str, typer.Argument(metavar="RUN", help="Id of a run or walk-forward, its first characters, or latest.")
]


def register(app: typer.Typer) -> None:
    """Add the group `runs`."""
    group = typer.Typer(
        help="List, tag, annotate and delete recorded runs. Without a command, list them.",
        invoke_without_command=True,
    )
    group.callback()(list_runs)
    for command in (tag, note, delete):
        group.command(command.__name__)(command)
    app.add_typer(group, name="runs")


def list_runs(
    context: typer.Context,
    kind: Annotated[
        str, option("--kind", "Only backtest, live or walkforward.", "NAME", default="all kinds")
    ] = "",
    strategy: Annotated[str, option("--strategy", "Only runs of this strategy.", "NAME", default="all")] = "",
    symbol: Annotated[str, option("--symbol", "Only runs that trade it.", "SYMBOL", default="all")] = "",
    since: Annotated[
        str,
        option(
            "--since",
            "Only runs started since a time, or within a duration, such as 7d.",
            "TIME",
            default="all",
        ),
    ] = "",
    tags: Annotated[
        list[str] | None, option("--tag", "Only runs with this tag; may be repeated.", "TAG")
    ] = None,
    status: Annotated[
        str, option("--status", "Only complete, running, failed or interrupted.", "NAME", default="all")
    ] = "",
    sort: Annotated[
        str,
        option(
            "--sort",
            "started, return, sharpe, drawdown, trades, events, strategy or id; - before it: descending.",
            "COLUMN",
        ),
    ] = "-started",
    folds: Annotated[bool, option("--folds", "Also list the folds of each walk-forward.")] = False,
    limit: Annotated[int, option("--limit -n", "Lines to list; 0: all.", min=0)] = 30,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """List the recorded runs. The folds of a walk-forward, also of `tune`, are one line."""
    if context.invoked_subcommand is not None:
        return
    from agent.research.run_list import RunFilter, listed_runs, sort_runs
    from agent.store.database import open_database

    wanted = RunFilter(
        _choice(kind, ("backtest", "live", "walkforward"), "--kind"),
        strategy,
        symbol,
        _since(since) if since else None,
        tuple(tags or ()),
        _choice(status, ("complete", "running", "failed", "interrupted"), "--status"),
    )
    with closing(open_database(load(config).store.url, create=False)) as database:
        known = listed_runs(database)
    found = sort_runs([line for line in known if wanted.accepts_any(line)], sort)
    shown = found[:limit] if limit else found
    if json:
        rows = [_as_object(line, folds=folds) for line in shown]
        print_json({"runs": rows, "matching": len(found), "recorded": len(known)})
        return
    _print_runs(shown, folds=folds)
    if len(shown) < len(found):
        print_text(f"the first {len(shown):,} of {len(found):,}; --limit 0 lists all")
    elif not found:
        print_text("no run matches" if known else "no run is recorded yet: tapewire backtest makes one")


def tag(
    run: _Which,
    tags: Annotated[list[str] | None, typer.Argument(metavar="[TAG]...", help="Tags to add.")] = None,
    remove: Annotated[list[str] | None, option("--remove", "Tag to remove; may be repeated.", "TAG")] = None,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Add tags to a run or walk-forward, or remove some; without tags, show those that it has."""
    from agent.store.database import open_database
    from agent.store.run_labels import RunLabels, read_labels, set_tags

    with closing(open_database(load(config).store.url, create=False)) as database:
        name = _resolve(database, run)
        if tags or remove:
            set_tags(database, name, tags or (), remove or ())
        labels = read_labels(database).get(name, RunLabels())
    if json:
        print_json({"run": name, "tags": labels.tags, "note": labels.note})
    else:
        print_text(f"{name}: {', '.join(labels.tags) or 'no tags'}")


def note(
    run: _Which,
    text: Annotated[
        str | None, typer.Argument(metavar="[TEXT]", help='The note; "" removes it.', show_default=False)
    ] = None,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Write a note about a run or walk-forward in place of the present one; without TEXT, show it."""
    from agent.store.database import open_database
    from agent.store.run_labels import RunLabels, read_labels, set_note
    from agent.system.clock import WallClock

    with closing(open_database(load(config).store.url, create=False)) as database:
        name = _resolve(database, run)
        if text is not None:
            set_note(database, name, text, WallClock().now())
        labels = read_labels(database).get(name, RunLabels())
    if json:
        print_json({"run": name, "tags": labels.tags, "note": labels.note})
    else:
        print_text(f"{name}: {labels.note or 'no note'}", wrap=True)


def delete(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="RUN...", help="Ids of runs or walk-forwards, or their first characters."),
    ],
    yes: Annotated[bool, option("--yes -y", "Don't ask.")] = False,
    unfinished: Annotated[
        bool,
        option("--unfinished", "Also delete runs that have not ended. Their process must not run any more."),
    ] = False,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Delete runs from the store, with their tags and notes; a walk-forward with all its folds.

    It can't be undone. Files stay: archives of a journal, and the result of a walk-forward, which counts as a
    try. A run that may be being written is refused with exit code 3.
    """
    from agent.store.database import open_database
    from agent.store.integrity import mark_path
    from agent.store.lock import store_lock
    from agent.store.run_deletion import check_deletable, delete_run
    from agent.store.runs import RunKind, RunStatus

    if json and not yes:
        raise UsageError("--json can't ask", hint="add --yes")
    settled = load(config)
    with closing(open_database(settled.store.url, create=False)) as database:
        studies, chosen = _chosen(database, runs)
        for run in chosen:
            check_deletable(run, unfinished=unfinished)
        if not yes:
            for run in chosen:
                print_text(
                    f"{run.id}: {run.kind.value}, {run.status.value}, {run.strategy}, {run.events:,} events"
                )
            typer.confirm(f"Delete {len(chosen):,} run{'s' * (len(chosen) != 1)}?", abort=True, err=True)
        open_ended = any(run.kind is RunKind.LIVE and run.status is not RunStatus.COMPLETE for run in chosen)
        with (
            store_lock(database, settled.live.folder) if open_ended else nullcontext(),
            progress_bar("deleting", None, MofNCompleteColumn(), "rows") as update,
        ):
            mark = mark_path(database, settled.live.folder)
            done = [delete_run(database, run, mark, lambda rows: update(advance=rows)) for run in chosen]
            _delete_study_labels(database, studies)
    _report_deleted(done, studies, json=json)


def _delete_study_labels(database: Database, studies: Sequence[str]) -> None:
    from agent.store.run_labels import read_labels, set_note, set_tags

    labels = read_labels(database)
    for name in studies:
        if name in labels:
            set_tags(database, name, remove=labels[name].tags)
            set_note(database, name, "", 0)


def _report_deleted(done: Sequence[DeletedRun], studies: Sequence[str], *, json: bool) -> None:
    from agent.research.walk_forward import FOLDER

    results = [str(FOLDER / name) for name in studies if (FOLDER / name).is_dir()]
    if json:
        print_json({"deleted": done, "kept": results})
        return
    for item in done:
        print_text(f"{item.run}: {item.rows:,} rows deleted")
        for path in item.kept_files:
            print_text(f"  kept: {path}, an archive of its journal")
    for path in results:
        print_text(f"kept: {path}, whose result counts as a try")


def _chosen(database: Database, names: Sequence[str]) -> tuple[list[str], list[Run]]:
    """Return the walk-forwards that are named, and all runs to delete, each once."""
    from agent.research.run_list import study_of
    from agent.research.study_comparison import is_study
    from agent.store import queries

    studies: list[str] = []
    chosen: dict[str, Run] = {}
    for name in names:
        if not is_study(name):
            run = queries.find_run(database, name)
            chosen[run.id] = run
            continue
        study = _resolve(database, name)
        studies.append(study)
        folds = [run for run in queries.list_runs(database) if study_of(run) == study]
        chosen |= {run.id: run for run in reversed(folds)}
    return studies, list(chosen.values())


def _resolve(database: Database, name: str) -> str:
    """Return the id of the run or walk-forward that `name` stands for. Raises UsageError."""
    from agent.research.run_list import study_of
    from agent.research.study_comparison import is_study
    from agent.store import queries

    if not is_study(name):
        return queries.find_run(database, name).id
    known = {study for run in queries.list_runs(database) if (study := study_of(run))}
    found = [one for one in known if one == name] or sorted(one for one in known if one.startswith(name))
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(f"several walk-forwards begin with {name!r}", hint=", ".join(found[:5]))
    raise UsageError(f"{database.name}: no walk-forward {name!r}", hint="tapewire runs --kind walkforward")


def _choice(value: str, choices: tuple[str, ...], name: str) -> str:
    if value and value not in choices:
        raise UsageError(f"{name} {value}: there is no such one", hint=f"one of {', '.join(choices)}")
    return value


def _since(text: str) -> int:
    """Return the UTC ms of a time, or of a duration before now."""
    from agent.system.clock import WallClock

    if text[:4].isdigit() and "-" in text:
        return parse_time(text, "--since")
    return WallClock().now() - parse_span(text, "--since")


def _as_object(line: ListedRun, *, folds: bool) -> dict[str, Any]:
    """Return a line for `--json`: the fields of its row, its labels, and its folds or their number."""
    found: dict[str, Any] = msgspec.to_builtins(line.row)
    found |= {"tags": list(line.tags), "note": line.note}
    if line.folds:
        inner = [_as_object(fold, folds=False) for fold in line.folds]
        found["folds"] = inner if folds else len(inner)
    return found


def _print_runs(lines: Sequence[ListedRun], *, folds: bool) -> None:
    """Print a table, or on a narrow terminal some lines a run."""
    if not lines:
        return
    rows = [
        cells
        for line in lines
        for cells in (_cells(line), *(_cells(fold, "  ") for fold in (line.folds if folds else ())))
    ]
    names = [Column(title) for title in ("run", "kind", "strategy", "symbols", "window")]
    print_columns((*names, *figures(*_FIGURES), Column("", wraps=True)), rows)
    for stamp in dict.fromkeys(stamp for line in lines for stamp in line.row.stamps):
        marked = sum(stamp in line.row.stamps for line in lines)
        err.print(f"! {stamp}: {marked:,} of these", markup=False)


def _cells(line: ListedRun, indent: str = "") -> list[str]:
    from agent.cli.research_output import number, percent
    from agent.system.clock import iso

    row = line.row
    ends = [iso(at)[:10] for at in (row.first_event_at, row.last_event_at) if at is not None]
    symbols = ", ".join(row.symbols[:3]) + (f" +{len(row.symbols) - 3}" if len(row.symbols) > 3 else "")
    notes = [] if row.status == "complete" else [row.status]
    notes += [f"{len(line.folds)} folds"] if line.folds else []
    notes += [f"#{tag}" for tag in line.tags] + ([one_line(line.note, _NOTE)] if line.note else [])
    return [
        indent + row.id,
        row.kind,
        row.strategy,
        symbols,
        " – ".join(dict.fromkeys(ends)),
        percent(row.total_return),
        number(row.sharpe),
        percent(row.max_drawdown),
        "–" if row.trades is None else f"{row.trades:,}",
        ", ".join(notes),
    ]
