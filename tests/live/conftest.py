"""A running sandbox, and a store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import structlog

from agent.config.live import LogConfig
from agent.live import timekeeping
from agent.live.log import configure
from agent.sandbox import Sandbox
from agent.store.database import Database, open_database
from tests.models.conftest import write_model
from tests.support.live import options

__all__ = ["write_model"]


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """Real bars at 1,200 times their speed, and headlines."""
    async with Sandbox(options(news=True)) as running:
        yield running


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """The store that `settings(…, tmp_path)` names."""
    with closing(open_database(f"sqlite:///{tmp_path / 'store.db'}")) as opened:
        yield opened


@pytest.fixture(autouse=True)
def hasty_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the venue is away, a start does not wait long for its time."""
    monkeypatch.setattr(timekeeping, "_START_WITHIN", 0.3)


@pytest.fixture(autouse=True)
def quiet_log() -> Iterator[None]:
    """Only what is wrong is said; afterwards the log is as it was."""
    configure(LogConfig(level="error"))
    yield
    structlog.reset_defaults()
