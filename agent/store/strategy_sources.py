"""Sources of strategies in the store, by their SHA-256, and which of them this machine trusts.

A store may come from another person, so a source in it runs only if its hash is that of a file which this
agent has run before: of those it keeps copies in a folder of its own, outside of the store.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from sqlalchemy import select, text

from agent.core.errors import StoreError
from agent.store.database import Database
from agent.store.private_files import PRIVATE_FILE, make_private_folder
from agent.store.tables import strategy_sources
from agent.system.atomic import replaced_file

COPIES: Final = "strategies"
"""Name of the folder of copies in `live.folder`."""

_INSERT: Final = text(
    "INSERT INTO strategy_sources (sha256, source) VALUES (:sha256, :source) ON CONFLICT (sha256) DO NOTHING"
)


def save_source(database: Database, source: bytes) -> str:
    """Store a source; return its SHA-256. Raises StoreError."""
    sha256 = hashlib.sha256(source).hexdigest()
    if read_source(database, sha256) is None:
        with database.write() as connection:
            connection.execute(_INSERT, {"sha256": sha256, "source": source})
    return sha256


def read_source(database: Database, sha256: str) -> bytes | None:
    """Return a stored source; None without one. Raises StoreError, also if it is damaged."""
    with database.read() as connection:
        found = connection.scalar(
            select(strategy_sources.c.source).where(strategy_sources.c.sha256 == sha256)
        )
    if found is None:
        return None
    source = bytes(found)
    if hashlib.sha256(source).hexdigest() != sha256:
        raise StoreError(f"{database.name}: the source {sha256[:12]} of a strategy is damaged")
    return source


def find_source(database: Database, beginning: str) -> tuple[str, bytes] | None:
    """Return hash and text of the only source whose hash begins so; None without one or with several."""
    column = strategy_sources.c.sha256
    with database.read() as connection:
        found = list(
            connection.scalars(select(column).where(column.startswith(beginning, autoescape=True)).limit(2))
        )
    if len(found) != 1:
        return None
    source = read_source(database, found[0])
    return None if source is None else (found[0], source)


def trust_source(folder: Path, source: bytes) -> Path:
    """Keep a copy in `folder` (live.folder), which allows the source to run. Raises StoreError."""
    path = _copy(folder, hashlib.sha256(source).hexdigest())
    if not path.is_file():
        make_private_folder(path.parent)
        with replaced_file(path, mode=PRIVATE_FILE) as file:
            file.write(source)
    return path


def is_trusted(folder: Path | None, sha256: str) -> bool:
    """Return whether `folder` (live.folder) has a copy of the source."""
    if folder is None:
        return False
    try:
        return hashlib.sha256(_copy(folder, sha256).read_bytes()).hexdigest() == sha256
    except OSError:
        return False


def _copy(folder: Path, sha256: str) -> Path:
    return folder / COPIES / f"{sha256}.py"
