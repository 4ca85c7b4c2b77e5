"""Revision of the database schema, and the Alembic migrations to the newest one, which are part of the
package.

Only an upgrade imports Alembic, which takes as long as importing SQLAlchemy. The revisions, which every start
needs, are read from the migration files.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from sqlalchemy import Connection, inspect, text

from agent.core.errors import StoreError
from agent.system.resources import resource

if TYPE_CHECKING:
    from alembic.config import Config

_VERSION_TABLE: Final = "alembic_version"
_ASSIGNED: Final = re.compile(r'^(revision|down_revision)\b[^=\n]*= *"([^"]+)"', re.MULTILINE)


class SchemaState(NamedTuple):
    """The revision of a database (None: it is empty) and the revision that this program needs."""

    current: str | None
    needed: str


def schema_state(connection: Connection, name: str) -> SchemaState:
    """Read the schema's revision. `name` names the database in errors.

    Raises StoreError if the database belongs to another program or to a newer version of Tapewire.
    """
    tables = inspect(connection).get_table_names()
    current = None
    if _VERSION_TABLE in tables:
        current = connection.execute(text(f"SELECT version_num FROM {_VERSION_TABLE}")).scalar()
    if current is None and tables:
        raise StoreError(
            f"{name}: holds tables that are not Tapewire's", hint="name another database in store.url"
        )
    if current is not None:
        check_not_newer(current, name)
    return SchemaState(current, _newest(_revisions()))


def check_not_newer(revision: str, name: str) -> None:
    """Raise StoreError if `revision` belongs to a newer version of Tapewire; `name` names the database."""
    revisions = _revisions()
    if revision not in revisions:
        raise StoreError(
            f"{name}: its schema {revision} is newer than this program's {_newest(revisions)}",
            hint="update Tapewire, or name another database in store.url",
        )


def _revisions() -> dict[str, str]:
    """Map each migration's revision to the one before it; empty for the first."""
    files = (resource("migrations") / "versions").glob("*.py")
    assigned = [dict(_ASSIGNED.findall(file.read_text(encoding="utf-8"))) for file in files]
    return {names["revision"]: names.get("down_revision", "") for names in assigned if "revision" in names}


def _newest(revisions: dict[str, str]) -> str:
    (newest,) = revisions.keys() - revisions.values()
    return newest


def migrate(connection: Connection) -> None:
    """Upgrade the schema to the newest revision within the transaction of `connection`."""
    from alembic import command

    command.upgrade(alembic_config(connection), "head")


def alembic_config(connection: Connection | None = None) -> Config:
    """Return Alembic's configuration; its commands use the transaction of `connection`."""
    from alembic.config import Config

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(resource("migrations")).replace("%", "%%"))
    return config
