"""While the agent runs, its store is checkpointed by a thread of its own."""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import cast

import pytest
from structlog.testing import capture_logs

from agent.config import LogConfig, StoreConfig
from agent.core.errors import StoreError
from agent.live import checkpoints
from agent.live.app import make_agent
from agent.live.checkpoints import checkpoint_at_intervals
from agent.live.log import configure
from agent.live.store_retry import StoreWriter
from agent.sandbox import Sandbox
from agent.store.database import Database
from tests.live.conftest import database, hasty_start, quiet_log, sandbox
from tests.support.live import living, load_words, settings, until

__all__ = ["database", "hasty_start", "quiet_log", "sandbox"]


def events_without_log(store: Path, copy: Path) -> int:
    """Count the events in the file alone, as a power cut would leave it at worst."""
    shutil.copy(store, copy)
    # A copy made during a checkpoint may be torn
    with closing(sqlite3.connect(copy)) as connection, suppress(sqlite3.DatabaseError):
        return cast(int, connection.execute("SELECT count(*) FROM journal").fetchone()[0])
    return 0


async def test_the_file_follows_the_log_within_an_interval(
    sandbox: Sandbox, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "_EVERY", 0.02)
    daemon = make_agent(
        settings(sandbox.rest_url, tmp_path), database, load_model=load_words, clock=sandbox.clock
    )
    assert database.file is not None
    store, copy = database.file, tmp_path / "copy.db"
    async with living(daemon):
        await until(lambda: daemon.pipeline.journal.last_seq > 100)
        await until(lambda: events_without_log(store, copy) > 100)


class FailingDatabase:
    """Stands for a store whose log can't be copied."""

    def __init__(self, outcomes: list[str]) -> None:
        self.outcomes = outcomes

    def checkpoint(self) -> None:
        if self.outcomes and self.outcomes.pop(0) == "fails":
            raise StoreError("the disk is full")


async def test_a_failing_checkpoint_is_logged_once_until_one_succeeds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checkpoints, "_EVERY", 0.001)
    failing = FailingDatabase(["fails", "fails", "succeeds", "fails", "succeeds"])
    storage = StoreWriter(StoreConfig(), random.Random(1))
    configure(LogConfig(level="warning"))
    with capture_logs() as logs:
        task = asyncio.create_task(checkpoint_at_intervals(cast(Database, failing), storage))
        await until(lambda: not failing.outcomes)
        task.cancel()
        await asyncio.wait({task})
    assert [entry["reason"] for entry in logs] == ["the disk is full"] * 2
    storage.close()


async def test_a_store_that_cannot_be_written_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "_EVERY", 0.001)
    failing = FailingDatabase(["fails"])
    storage = StoreWriter(StoreConfig(), random.Random(1))
    storage.failing.set()
    task = asyncio.create_task(checkpoint_at_intervals(cast(Database, failing), storage))
    await asyncio.sleep(0.05)
    assert failing.outcomes == ["fails"]
    storage.failing.clear()
    await until(lambda: not failing.outcomes)
    task.cancel()
    await asyncio.wait({task})
    storage.close()
