"""`tapewire db`: upgrade, back up, restore and archive the store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import MofNCompleteColumn, TaskProgressColumn

from agent.cli.command_options import ConfigFile, Json, parse_span, parse_time
from agent.cli.console import err, out, print_json, print_text, progress_bar
from agent.cli.typer_setup import option
from agent.config import Config, load
from agent.core.errors import SafetyError, UsageError

if TYPE_CHECKING:
    from agent.store.backup import PageProgress, StoreContents


def register(app: typer.Typer) -> None:
    """Add the group `db`."""
    group = typer.Typer(help="Upgrade, back up, restore or archive the store.", no_args_is_help=True)
    for command in (upgrade, backup, restore, archive):
        group.command(command.__name__)(command)
    app.add_typer(group, name="db")


def upgrade(
    config: ConfigFile = None,
    url: Annotated[str | None, option("--url", "Database to upgrade.", "URL", "store.url")] = None,
    json: Json = False,
) -> None:
    """Upgrade the store's schema to this version. An SQLite file is backed up first.

    The upgrade is committed only if the new store passes the integrity checks.
    """
    from agent.store.database import upgrade as upgrade_database

    settled = load(config)
    with _no_agent(settled, url), _pages("backing up") as progress:
        done = upgrade_database(url or settled.store.url, progress=progress)
    if json:
        print_json(
            {"before": done.before, "after": done.after, "backup": str(done.backup) if done.backup else None}
        )
    elif done.before == done.after:
        out.print(f"The schema is already {done.after}.")
    else:
        out.print(f"Upgraded the schema from {done.before or 'nothing'} to {done.after}.")
        if done.backup:
            print_text(f"Backup: {done.backup}")


def backup(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="File to write; it must not exist.",
            show_default="a new one in the folder of --to",
        ),
    ] = None,
    to: Annotated[Path | None, option("--to", "Folder of the backups.", "FOLDER", "backup.folder")] = None,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Back up the store, also while the agent runs. Each copy is checked before it appears.

    A copy shows the store at one moment. Without FILE it goes to a folder, with the archives that the store
    names (each of them once), and older copies are removed by the rules of the section [backup]. Exit code 1
    if an archive is missing.
    """
    from datetime import UTC, datetime

    from agent.store.backup import back_up
    from agent.store.backup_rotation import rotate
    from agent.store.database import store_file

    settled = load(config)
    source = store_file(settled.store.url, "pg_dump --format=custom")
    if file is not None:
        if to is not None:
            raise UsageError("FILE and --to name two places", hint="give one of them")
        with _pages("backing up") as progress:
            holding = back_up(source, file, progress)
        _show(holding, json)
        return
    with _pages("backing up") as progress:
        done = rotate(source, to or settled.backup.folder, settled.backup, datetime.now(UTC), progress)
    if json:
        print_json(done)
    else:
        _show(done.holds, json=False)
        out.print(f"{done.added:,} new archives, {len(done.removed):,} old copies removed.")
        for path in done.missing:
            err.print(f"[bold red]missing[/]: {escape(path)}, an archive of a journal", soft_wrap=True)
    if done.missing:
        raise typer.Exit(1)


def restore(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Copy written by `tapewire db backup`.", show_default=False)
    ],
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Replace the store by a backup. The present store is kept beside it. Not while an agent runs.

    Missing archives that the backup names are restored too, from the folder `archives` beside FILE.
    """
    from agent.store.backup import restore_backup
    from agent.store.backup_rotation import ARCHIVES, restore_archives
    from agent.store.database import store_file

    settled = load(config)
    store = store_file(settled.store.url, "pg_restore --clean")
    with _no_agent(settled), _pages("restoring") as progress:
        holding, kept = restore_backup(file, store, progress)
        brought, missing = restore_archives(store, file.parent / ARCHIVES)
    _show(holding, json, kept=kept, archives={"brought": list(map(str, brought)), "missing": missing})


def archive(
    before: Annotated[
        str, option("--before", "Archive runs that ended before this date or time.", "TIME", "see --keep")
    ] = "",
    keep: Annotated[
        str,
        option(
            "--keep", "Archive runs that ended longer ago than this, such as 30d.", "DURATION", "archive.keep"
        ),
    ] = "",
    to: Annotated[Path | None, option("--to", "Folder of the archives.", "FOLDER", "archive.folder")] = None,
    prune: Annotated[
        bool | None,
        option(
            "--prune/--no-prune",
            "Delete the archived rows from the store afterwards.",
            default="archive.prune",
        ),
    ] = None,
    unfinished: Annotated[
        bool | None,
        option(
            "--unfinished/--complete",
            "Also archive runs that could be continued; afterwards they can't.",
            default="archive.unfinished",
        ),
    ] = None,
    config: ConfigFile = None,
    json: Json = False,
) -> None:
    """Move the journals of ended live runs to Parquet files. `verify` and `report` work as before.

    There is one file per run. It is read back and compared with the store before the store names it by its
    SHA-256 and deletes rows. An archive that was moved to another place is found again if it lies in the
    folder. Works beside a running agent, except with --unfinished.

    Finished segments of unfinished runs (`store.segment`) are moved first, each after its decisions were
    verified.
    """
    from contextlib import suppress

    from msgspec.structs import asdict

    from agent.replay.segment_archiver import roll_over_all
    from agent.store.database import open_database
    from agent.store.journal_archive import archivable_runs, archive_journal, prune_journal
    from agent.system.clock import WallClock, iso

    settled = load(config)
    policy, clock = settled.archive, WallClock()
    limit = _limit(before, keep, clock.now() - policy.keep, clock.now())
    folder = to or policy.folder
    pruning = policy.prune if prune is None else prune
    also = policy.unfinished if unfinished is None else unfinished
    done = []
    with (
        _no_agent(settled) if also else nullcontext(),
        closing(open_database(settled.store.url, create=False)) as database,
    ):
        with suppress(SafetyError):  # then the running agent moves them
            for run_id, segments in roll_over_all(database, folder, copies=settled.live.folder).items():
                for part in segments:
                    events = part.last - part.first + 1
                    done.append(
                        {"run": run_id, "new": True, "pruned": events, "events": events, **asdict(part)}
                    )
        found = archivable_runs(database, limit, unfinished=also)
        rows = sum(one.stored * (2 * (one.archive is None) + pruning) for one in found)
        with _rows("archiving", rows) as progress:
            for one in found:
                made = archive_journal(database, one, folder, clock, progress)
                gone = prune_journal(database, one.run.id, clock, progress) if pruning and one.stored else 0
                if one.archive is None or gone or made != one.archive:
                    done.append(
                        {"run": one.run.id, "new": one.archive is None, "pruned": gone, **asdict(made)}
                    )
    if json:
        print_json({"before": limit, "archived": done})
        return
    for item in done:
        note = "" if item["new"] else ", archived before"
        note += f", {item['pruned']:,} rows deleted" if item["pruned"] else ""
        print_text(
            f"{item['path']}: {item['events']:,} events of run {item['run']}, "
            f"{item['size'] / 1e6:,.2f} MB{note}"
        )
    if not done:
        out.print(f"Nothing to do: no journal of a run that ended before {iso(limit)} is in the store.")


def _limit(before: str, keep: str, default: int, now: int) -> int:
    """Return the UTC ms before which a run must have ended to be archived."""
    if before and keep:
        raise UsageError("--before and --keep both set the limit", hint="give one of them")
    if before:
        return parse_time(before, "--before")
    return now - parse_span(keep, "--keep") if keep else default


@contextmanager
def _no_agent(config: Config, url: str | None = None) -> Iterator[None]:
    """Lock folder and store so that no agent can trade meanwhile. Raises SafetyError if one runs."""
    from agent.store.database import sqlite_file
    from agent.store.lock import LOCK, file_lock, instance_lock

    file = sqlite_file(url or config.store.url)
    with (
        instance_lock(config.live.folder / LOCK),
        nullcontext() if file is None else file_lock(file, config.live.folder),
    ):
        yield


@contextmanager
def _rows(title: str, total: int) -> Iterator[Callable[[int], None]]:
    with progress_bar(title, total, TaskProgressColumn()) as update:
        yield lambda rows: update(advance=rows)


@contextmanager
def _pages(title: str) -> Iterator[PageProgress]:
    with progress_bar(title, None, MofNCompleteColumn(), "pages") as update:
        yield lambda done, total: update(completed=done, total=total)


def _show(
    holding: StoreContents, json: bool, kept: Path | None = None, archives: dict[str, list[str]] | None = None
) -> None:
    if json:
        kept_file = str(kept) if kept else None
        print_json({"holds": holding, "kept": kept_file} | ({"archives": archives} if archives else {}))
        return
    text = f"{holding.file}: {holding.bytes / 1e6:,.1f} MB, sound; schema {holding.schema}, "
    text += f"{holding.runs:,} run{'s' * (holding.runs != 1)}"
    text += f" (newest {holding.newest})" if holding.newest else ""
    text += f", {holding.unfinished:,} of them live and unfinished" if holding.unfinished else ""
    text += f"; {holding.events:,} events in journals"
    text += f"; {holding.archived:,} more journals in archive files" if holding.archived else ""
    print_text(text)
    if kept:
        print_text(f"The previous store is kept at {kept}.")
    for what, paths in (archives or {}).items():
        for path in paths:
            state = "restored" if what == "brought" else "missing"
            print_text(f"{state}: {path}, an archive of a journal")
