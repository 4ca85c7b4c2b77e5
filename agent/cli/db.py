"""`tapewire db`: the store itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from agent.cli.console import err, out, print_json

if TYPE_CHECKING:
    from agent.config import Config
    from agent.store.backup import PageProgress, StoreContents

_Config = Annotated[
    Path | None, typer.Option("--config", "-c", help="Configuration file; its store.url is meant.")
]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    group = typer.Typer(help="The store: its schema, its copies, its past.", no_args_is_help=True)
    app.add_typer(group, name="db")
    for verb in (upgrade, backup, restore, archive):
        group.command(verb.__name__)(verb)


def upgrade(
    config: _Config = None,
    url: Annotated[str | None, typer.Option(help="Upgrade this database instead.")] = None,
    as_json: _Json = False,
) -> None:
    """Bring the store's schema to this program's. An SQLite file is backed up first, and nothing is kept that isn't sound."""
    from agent.config import load
    from agent.store.database import upgrade as upgrade_database

    settled = load(config)
    with _no_agent(settled, url), _pages("backing up") as progress:
        done = upgrade_database(url or settled.store.url, progress=progress)
    if as_json:
        print_json(
            {"before": done.before, "after": done.after, "backup": str(done.backup) if done.backup else None}
        )
    elif done.before == done.after:
        out.print(f"The schema is already {done.after}.")
    else:
        out.print(f"The schema went from {done.before or 'nothing'} to {done.after}.")
        if done.backup:
            out.print(f"A backup is at {done.backup}.", soft_wrap=True, markup=False)


def backup(
    file: Annotated[
        Path | None,
        typer.Argument(
            help="To write; it must not exist. Left out: a copy named by the time.", show_default=False
        ),
    ] = None,
    to: Annotated[
        Path | None, typer.Option(help="Folder of the copies; else backup.folder.", show_default=False)
    ] = None,
    config: _Config = None,
    as_json: _Json = False,
) -> None:
    """Copy the store, while the agent runs or not; the copy is of one moment, and looked through before it appears.

    Without FILE the copy goes to a folder, with the archives that the store names, each of them once; of older copies there only those
    stay that [backup] says. Exit code 1 if an archive is missing.
    """
    from datetime import UTC, datetime

    from agent.config import load
    from agent.core.errors import UsageError
    from agent.store.backup import back_up
    from agent.store.backup_rotation import rotate
    from agent.store.database import store_file

    settled = load(config)
    source = store_file(settled.store.url, "pg_dump --format=custom")
    if file is not None:
        if to is not None:
            raise UsageError("a file and --to name two places", hint="give one of them")
        with _pages("backing up") as progress:
            holding = back_up(source, file, progress)
        _tell(holding, as_json)
        return
    with _pages("backing up") as progress:
        done = rotate(source, to or settled.backup.folder, settled.backup, datetime.now(UTC), progress)
    if as_json:
        print_json(done)
    else:
        _tell(done.holds, as_json=False)
        out.print(f"{done.added:,} new archives, {len(done.removed):,} old copies removed.", highlight=False)
        for path in done.missing:
            err.print(f"[bold red]missing[/]: {escape(path)}, an archive of a journal", soft_wrap=True)
    if done.missing:
        raise typer.Exit(1)


def restore(
    file: Annotated[Path, typer.Argument(help="What `tapewire db backup` wrote.")],
    config: _Config = None,
    as_json: _Json = False,
) -> None:
    """Let a copy of a backup take the store's place; the present store is kept beside it. Not while an agent runs.

    Archives that the copy names and that are not there are put back too, if they lie in the folder `archives` beside it.
    """
    from agent.config import load
    from agent.store.backup import restore_backup
    from agent.store.backup_rotation import ARCHIVES, restore_archives
    from agent.store.database import store_file

    settled = load(config)
    store = store_file(settled.store.url, "pg_restore --clean")
    with _no_agent(settled), _pages("restoring") as progress:
        holding, kept = restore_backup(file, store, progress)
        brought, missing = restore_archives(store, file.parent / ARCHIVES)
    _tell(holding, as_json, kept=kept, archives={"brought": list(map(str, brought)), "missing": missing})


def archive(
    before: Annotated[
        str, typer.Option(help="Of runs that ended before this date or time.", show_default=False)
    ] = "",
    keep: Annotated[
        str,
        typer.Option(
            help="Of runs that ended longer ago than this, e.g. 30d; else archive.keep.", show_default=False
        ),
    ] = "",
    to: Annotated[Path | None, typer.Option(help="Folder; else archive.folder.", show_default=False)] = None,
    prune: Annotated[
        bool | None,
        typer.Option(
            "--prune/--no-prune",
            help="Then take them out of the store; else archive.prune.",
            show_default=False,
        ),
    ] = None,
    unfinished: Annotated[
        bool | None,
        typer.Option(
            "--unfinished/--complete",
            help="Also of runs that the agent could have gone on with, which it won't then; else archive.unfinished.",
            show_default=False,
        ),
    ] = None,
    config: _Config = None,
    as_json: _Json = False,
) -> None:
    """Copy the journals of live runs that ended to parquet files, one a run, from which `verify` and `report` work as before.

    Each file is read back and compared with the store before the store names it by its SHA-256, or lets go of a row. Archives
    that were moved are found again in the folder. Beside a running agent only without `--unfinished`.

    Finished segments of runs that go on (`store.segment`) are moved first, each after it was decided again.
    """
    from contextlib import closing, nullcontext, suppress

    from msgspec.structs import asdict

    from agent.config import load
    from agent.core.errors import SafetyError
    from agent.replay.segment_archiver import roll_over_all
    from agent.store.database import open_database
    from agent.store.journal_archive import archivable_runs, archive_journal, prune_journal
    from agent.system.clock import WallClock

    settled = load(config)
    policy, clock = settled.archive, WallClock()
    limit = _limit(before, keep, clock.now() - policy.keep, clock.now())
    pruning = policy.prune if prune is None else prune
    also = policy.unfinished if unfinished is None else unfinished
    done = []
    with (
        _no_agent(settled) if also else nullcontext(),
        closing(open_database(settled.store.url, create=False)) as database,
    ):
        with suppress(SafetyError):  # the running agent is doing it
            for run_id, segments in roll_over_all(database, to or policy.folder).items():
                for part in segments:
                    events = part.last - part.first + 1
                    done.append(
                        {"run": run_id, "new": True, "pruned": events, "events": events, **asdict(part)}
                    )
        found = archivable_runs(database, limit, unfinished=also)
        with _rows(sum(one.stored * (2 * (one.archive is None) + pruning) for one in found)) as progress:
            for one in found:
                made = archive_journal(database, one, to or policy.folder, clock, progress)
                gone = prune_journal(database, one.run.id, clock, progress) if pruning and one.stored else 0
                if one.archive is None or gone or made != one.archive:
                    done.append(
                        {"run": one.run.id, "new": one.archive is None, "pruned": gone, **asdict(made)}
                    )
    if as_json:
        print_json({"before": limit, "archived": done})
        return
    for item in done:
        what = "" if item["new"] else ", archived before"
        what += f", {item['pruned']:,} rows pruned" if item["pruned"] else ""
        out.print(
            f"{item['path']}: {item['events']:,} events of run {item['run']}, {item['size'] / 1e6:,.2f} MB{what}",
            soft_wrap=True, highlight=False, markup=False,
        )  # fmt: skip
    if not done:
        from agent.system.clock import iso

        out.print(
            f"Nothing to do: no journal of a run that ended before {iso(limit)} is left to move.",
            highlight=False,
        )


def _limit(before: str, keep: str, default: int, now: int) -> int:
    """UTC ms before which a run ended, to be archived."""
    from agent.cli.moments import parse_moment
    from agent.core.durations import parse_duration
    from agent.core.errors import UsageError

    if before and keep:
        raise UsageError("--before and --keep say the same in two ways", hint="give one of them")
    if before:
        return parse_moment(before, "--before")
    try:
        return now - parse_duration(keep) if keep else default
    except ValueError as error:
        raise UsageError(f"--keep: {error}") from None


@contextmanager
def _rows(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on standard error that follows rows: written, compared, pruned."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("archiving", total=total)
        yield lambda rows: bar.update(task, advance=rows)


@contextmanager
def _no_agent(config: Config, url: str | None = None) -> Iterator[None]:
    """Nobody trades meanwhile, from this folder or in this store. Raises SafetyError where somebody does."""
    from contextlib import nullcontext

    from agent.store.database import sqlite_file
    from agent.store.lock import LOCK, file_lock, instance_lock

    file = sqlite_file(url or config.store.url)
    with (
        instance_lock(config.live.folder / LOCK),
        nullcontext() if file is None else file_lock(file, config.live.folder),
    ):
        yield


@contextmanager
def _pages(title: str) -> Iterator[PageProgress]:
    """A bar on standard error that follows the pages of a file."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("pages"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _tell(
    holding: StoreContents,
    as_json: bool,
    kept: Path | None = None,
    archives: dict[str, list[str]] | None = None,
) -> None:
    if as_json:
        print_json(
            {"holds": holding, "kept": str(kept) if kept else None}
            | ({"archives": archives} if archives else {})
        )
        return
    text = f"{holding.file}: {holding.bytes / 1e6:,.1f} MB, sound; schema {holding.schema}, {holding.runs:,} run{'s' * (holding.runs != 1)}"
    text += f" (the newest {holding.newest})" if holding.newest else ""
    text += f", {holding.unfinished:,} of them live and unfinished" if holding.unfinished else ""
    text += f"; {holding.events:,} events in their journals"
    text += (
        f", and {holding.archived:,} journals in archives, which are files of their own"
        if holding.archived
        else ""
    )
    out.print(text, soft_wrap=True, highlight=False, markup=False)
    if kept:
        out.print(f"The store that was there is at {kept}.", soft_wrap=True, highlight=False, markup=False)
    for what, paths in (archives or {}).items():
        for path in paths:
            verb = "put back" if what == "brought" else "missing"
            out.print(
                f"{verb}: {path}, an archive of a journal", soft_wrap=True, highlight=False, markup=False
            )
