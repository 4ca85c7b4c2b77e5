"""`tapewire db`: the store itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.console import err, out, print_json

if TYPE_CHECKING:
    from agent.config import Config
    from agent.store.backup import Holding, Progress

_Config = Annotated[Path | None, typer.Option("--config", "-c", help="Configuration file; its store.url is meant.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    group = typer.Typer(help="The store: its schema, its copies, its past.", no_args_is_help=True)
    app.add_typer(group, name="db")
    for verb in (upgrade, backup, restore):
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
    with _no_agent(settled), _pages("backing up") as progress:
        done = upgrade_database(url or settled.store.url, progress=progress)
    if as_json:
        print_json({"before": done.before, "after": done.after, "backup": str(done.backup) if done.backup else None})
    elif done.before == done.after:
        out.print(f"The schema is already {done.after}.")
    else:
        out.print(f"The schema went from {done.before or 'nothing'} to {done.after}.")
        if done.backup:
            out.print(f"A backup is at {done.backup}.", soft_wrap=True, markup=False)


def backup(
    file: Annotated[Path, typer.Argument(help="To write; it must not exist.")], config: _Config = None, as_json: _Json = False
) -> None:
    """Copy the store, while the agent runs or not; the copy is of one moment, and looked through before it appears."""
    from agent.config import load
    from agent.store.backup import back_up
    from agent.store.database import store_file

    source = store_file(load(config).store.url, "pg_dump --format=custom")
    with _pages("backing up") as progress:
        holding = back_up(source, file, progress)
    _tell(holding, as_json)


def restore(
    file: Annotated[Path, typer.Argument(help="What `tapewire db backup` wrote.")],
    config: _Config = None,
    as_json: _Json = False,
) -> None:
    """Let a copy of a backup take the store's place; the present store is kept beside it. Not while an agent runs."""
    from agent.config import load
    from agent.store.backup import put_back
    from agent.store.database import store_file

    settled = load(config)
    store = store_file(settled.store.url, "pg_restore --clean")
    with _no_agent(settled), _pages("restoring") as progress:
        holding, kept = put_back(file, store, progress)
    _tell(holding, as_json, kept=kept)


@contextmanager
def _no_agent(config: Config) -> Iterator[None]:
    """Nobody trades meanwhile. Raises SafetyError where somebody does."""
    from agent.live.lock import LOCK, instance_lock

    with instance_lock(config.live.folder / LOCK):
        yield


@contextmanager
def _pages(title: str) -> Iterator[Progress]:
    """A bar on standard error that follows the pages of a file."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("pages"), TimeRemainingColumn()
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _tell(holding: Holding, as_json: bool, kept: Path | None = None) -> None:
    if as_json:
        print_json({"holds": holding, "kept": str(kept) if kept else None})
        return
    text = f"{holding.file}: {holding.bytes / 1e6:,.1f} MB, sound; schema {holding.schema}, {holding.runs:,} runs"
    text += f" (the newest {holding.newest})" if holding.newest else ""
    text += f", {holding.unfinished:,} of them live and unfinished" if holding.unfinished else ""
    text += f"; {holding.events:,} events in their journals"
    text += f", and {holding.archived:,} journals in archives, which are files of their own" if holding.archived else ""
    out.print(text, soft_wrap=True, highlight=False, markup=False)
    if kept:
        out.print(f"The store that was there is at {kept}.", soft_wrap=True, highlight=False, markup=False)
