"""The schema's revision, and the way to the newest: Alembic's migrations, which travel with the program."""

from __future__ import annotations

from typing import NamedTuple

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect

from agent.core.errors import StoreError
from agent.system.resources import resource


class SchemaState(NamedTuple):
    """The revision that a database has (None: it is empty), and the one that this program needs."""

    current: str | None
    needed: str


def schema_state(connection: Connection, name: str) -> SchemaState:
    """Read it from the database called `name` in errors.

    Raises StoreError where the database isn't Tapewire's, or is from a newer Tapewire.
    """
    scripts = ScriptDirectory.from_config(alembic_config())
    needed = scripts.as_revision_number("head")
    current = MigrationContext.configure(connection).get_current_revision()
    if current is None and inspect(connection).get_table_names():
        raise StoreError(
            f"{name}: holds tables that are not Tapewire's", hint="name another database in store.url"
        )
    if current is not None:
        check_known(current, name)
    return SchemaState(current, str(needed))


def check_known(revision: str, name: str) -> None:
    """Raises StoreError where the database called `name`, at this revision, is from a newer Tapewire."""
    scripts = ScriptDirectory.from_config(alembic_config())
    if revision not in {script.revision for script in scripts.walk_revisions()}:
        raise StoreError(
            f"{name}: its schema {revision} is newer than this program's {scripts.as_revision_number('head')}",
            hint="update Tapewire, or name another database in store.url",
        )


def migrate(connection: Connection) -> None:
    """Bring the schema to the newest revision, inside the transaction of `connection`."""
    command.upgrade(alembic_config(connection), "head")


def alembic_config(connection: Connection | None = None) -> Config:
    """For Alembic's commands; those that touch a database run in the transaction of `connection`."""
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(resource("migrations")).replace("%", "%%"))
    return config
