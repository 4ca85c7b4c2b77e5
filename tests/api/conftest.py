"""Fixtures: a store, a sandbox, a quiet log, and a store with a backtest of the sample data."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Outcome, tapewire
from tests.live.conftest import database, quiet_log, sandbox

__all__ = ["database", "quiet_log", "sandbox", "tapewire"]


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that keeps the store of `backtested` for the next test."""
    return tmp_path_factory.mktemp("backtested")


@pytest.fixture
def backtested(tapewire: Callable[..., Outcome], made_once: Path) -> Callable[..., Outcome]:
    """The command line in a folder whose store has a backtest with headlines."""
    kept = made_once / "var"
    if kept.is_dir():
        shutil.copytree(kept, "var")
        return tapewire
    done = tapewire("backtest", "--strategy", "sentiment", "--start", "2025-03-03T12:00Z", "--json")
    assert done.code == 0, done.err
    assert Path("var/tapewire.db").is_file()
    shutil.copytree("var", kept)
    return tapewire
