"""`tapewire db`: the store itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agent.cli.console import out, print_json


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    group = typer.Typer(help="The store: its schema.", no_args_is_help=True)
    app.add_typer(group, name="db")

    @group.command()
    def upgrade(
        config: Annotated[Path | None, typer.Option(help="Configuration file; its store.url is upgraded.")] = None,
        url: Annotated[str | None, typer.Option(help="Upgrade this database instead.")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    ) -> None:
        """Bring the store's schema to this program's. An SQLite file is backed up first."""
        from agent.config import load
        from agent.store.database import upgrade as upgrade_database

        url = url or load(config).store.url
        done = upgrade_database(url)
        if as_json:
            print_json({"before": done.before, "after": done.after, "backup": str(done.backup) if done.backup else None})
        elif done.before == done.after:
            out.print(f"The schema is already {done.after}.")
        else:
            out.print(f"The schema went from {done.before or 'nothing'} to {done.after}.")
            if done.backup:
                out.print(f"A backup is at {done.backup}.", soft_wrap=True, markup=False)
