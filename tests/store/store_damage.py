"""Damage to stores: as after a kill, a power cut, a bad disk or a deleted file."""

from __future__ import annotations

import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path


def as_killed(store: Path, folder: Path) -> Path:
    """Copy an open store, its write-ahead log and its mark, as kill -9 would leave them."""
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


def flip_bytes(file: Path, offset: int, count: int, rng: random.Random) -> None:
    """Change `count` bytes from `offset` on."""
    content = bytearray(file.read_bytes())
    for place in range(offset, min(offset + count, len(content))):
        content[place] ^= rng.randrange(1, 256)
    file.write_bytes(content)


def payloads(store: Path) -> list[bytes] | None:
    """Return the payloads of all journals; None if SQLite can't read them."""
    try:
        with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as connection:
            return [
                bytes(row[0])
                for row in connection.execute("SELECT payload FROM journal ORDER BY run_id, seq")
            ]
    except (sqlite3.Error, TypeError):
        return None
