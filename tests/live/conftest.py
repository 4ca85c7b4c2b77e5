"""Fixtures: a running sandbox and a store."""

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
from tests.models.conftest import write_model, write_reader
from tests.support.live import options

__all__ = ["write_model", "write_reader"]


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    """Sandbox that replays sample bars and headlines at 1,200 times real time."""
    async with Sandbox(options(news=True)) as running:
        yield running


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    """The store that `settings(…, tmp_path)` configures."""
    with closing(open_database(f"sqlite:///{tmp_path / 'store.db'}")) as opened:
        yield opened


@pytest.fixture(autouse=True)
def hasty_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the wait for the venue's time, so that the agent starts quickly if the venue is unreachable."""
    monkeypatch.setattr(timekeeping, "_START_WITHIN", 0.3)


@pytest.fixture(autouse=True)
def quiet_log() -> Iterator[None]:
    """Log warnings and errors only; restore the log configuration after the test."""
    configure(LogConfig(level="error"))
    yield
    structlog.reset_defaults()
