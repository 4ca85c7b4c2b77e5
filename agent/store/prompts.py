"""Prompts of language models in the store. The provenance of a sentiment refers to its prompt by hash."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from sqlalchemy import select, text

from agent.data.text import storable
from agent.store.database import Database
from agent.store.tables import prompts

_INSERT: Final = text(
    "INSERT INTO prompts (sha256, text) VALUES (:sha256, :text) ON CONFLICT (sha256) DO NOTHING"
)


def save_prompts(database: Database, texts: Mapping[str, str]) -> None:
    """Store prompts by their SHA-256; a prompt that is stored stays as it is. Raises StoreError."""
    known = read_prompts(database, texts)
    rows = [{"sha256": key, "text": storable(own)} for key, own in texts.items() if key not in known]
    if rows:
        with database.write() as connection:
            connection.execute(_INSERT, rows)


def read_prompts(database: Database, hashes: Iterable[str]) -> dict[str, str]:
    """Return the text of each of the `hashes` that is stored. Raises StoreError."""
    wanted = list(hashes)
    if not wanted:
        return {}
    with database.read() as connection:
        rows = connection.execute(select(prompts).where(prompts.c.sha256.in_(wanted)))
        return {row.sha256: row.text for row in rows}
