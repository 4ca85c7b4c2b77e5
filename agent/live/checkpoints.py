"""Checkpoints of the store while the agent runs.

SQLite copies its write-ahead log into the file once it has 1,000 pages, in the commit that reaches this, and
waits for the disk: every event behind that commit would wait, too.
"""

from __future__ import annotations

import asyncio
from typing import Final, Never

import structlog

from agent.core.errors import StoreError
from agent.live.store_retry import StoreWriter
from agent.store.database import Database

_EVERY: Final = 5.0  # seconds
_log: Final = structlog.get_logger(__name__)


async def checkpoint_at_intervals(database: Database, storage: StoreWriter) -> Never:
    """Checkpoint the store until cancelled, in another thread than the one that commits."""
    failed = False
    while True:
        await asyncio.sleep(_EVERY)
        if storage.failing.is_set():
            continue
        try:
            await asyncio.to_thread(database.checkpoint)
        except StoreError as error:  # the log grows meanwhile; nothing is lost
            if not failed:
                _log.warning("the write-ahead log can't be copied into the store", reason=error.message)
            failed = True
        else:
            failed = False
