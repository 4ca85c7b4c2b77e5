"""Revision of the database schema, and the Alembic migrations to the newest one.

They are part of the package.
"""

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
    """The revision of a database (None: it is empty) and the revision that this program needs."""

    current: str | None
    needed: str


def schema_state(connection: Connection, name: str) -> SchemaState:
    """Read the schema's revision. `name` names the database in errors.

    Raises StoreError if the database belongs to another program or to a newer version of Tapewire.
    """
    scripts = ScriptDirectory.from_config(alembic_config())
    needed = scripts.as_revision_number("head")
    current = MigrationContext.configure(connection).get_current_revision()
    if current is None and inspect(connection).get_table_names():
        hint = "name another database in store.url"
        raise StoreError(f"{name}: holds tables that are not Tapewire's", hint=hint)
    if current is not None:
        check_not_newer(current, name)
    return SchemaState(current, str(needed))


def check_not_newer(revision: str, name: str) -> None:
    """Raise StoreError if `revision` belongs to a newer version of Tapewire."""
    scripts = ScriptDirectory.from_config(alembic_config())
    if revision not in {script.revision for script in scripts.walk_revisions()}:
        message = f"{name}: its schema {revision} is newer than this program's "
        hint = "update Tapewire, or name another database in store.url"
        raise StoreError(f"{message}{scripts.as_revision_number('head')}", hint=hint)


def migrate(connection: Connection) -> None:
    """Upgrade the schema to the newest revision within the transaction of `connection`."""
    command.upgrade(alembic_config(connection), "head")


def alembic_config(connection: Connection | None = None) -> Config:
    """Return Alembic's configuration; its commands use the transaction of `connection`."""
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(resource("migrations")).replace("%", "%%"))
    return config
