"""Fixtures: a store, a sandbox, a quiet log, and a store with a backtest of the sample data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Outcome, tapewire
from tests.live.conftest import database, quiet_log, sandbox

__all__ = ["database", "quiet_log", "sandbox", "tapewire"]


@pytest.fixture
def backtested(tapewire: Callable[..., Outcome]) -> Callable[..., Outcome]:
    """The command line in a folder whose store has a backtest with headlines."""
    done = tapewire("backtest", "--strategy", "sentiment", "--start", "2025-03-03T12:00Z", "--json")
    assert done.code == 0, done.err
    assert Path("var/tapewire.db").is_file()
    return tapewire
