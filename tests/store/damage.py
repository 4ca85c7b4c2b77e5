"""Stores as a power cut, a bad disk or a careless hand leaves them."""

from __future__ import annotations

import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path


def as_killed(store: Path, folder: Path) -> Path:
    """Copy a store that is open, with its write-ahead log and its mark, as kill -9 would leave them; returns the copy."""
    folder.mkdir(parents=True, exist_ok=True)
    for suffix in ("", "-wal", ".mark"):
        source = store.with_name(store.name + suffix)
        if source.exists():
            shutil.copy(source, folder / source.name)
    return folder / store.name


def wal_of(store: Path) -> Path:
    return store.with_name(store.name + "-wal")


def halve_wal(store: Path) -> None:
    wal = wal_of(store)
    with wal.open("r+b") as file:
        file.truncate(wal.stat().st_size // 2)


def flip_wal_byte(store: Path) -> None:
    wal = wal_of(store)
    content = bytearray(wal.read_bytes())
    content[len(content) // 2] ^= 0x55
    wal.write_bytes(content)


def flip_bytes(file: Path, offset: int, count: int, dice: random.Random) -> None:
    """Overwrite `count` bytes from `offset` on with others."""
    content = bytearray(file.read_bytes())
    for place in range(offset, min(offset + count, len(content))):
        content[place] ^= dice.randrange(1, 256)
    file.write_bytes(content)


def payloads(store: Path) -> list[bytes] | None:
    """The payloads of all journals as SQLite reads them; None if it can't."""
    try:
        with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as connection:
            return [
                bytes(row[0])
                for row in connection.execute("SELECT payload FROM journal ORDER BY run_id, seq")
            ]
    except (sqlite3.Error, TypeError):
        return None
