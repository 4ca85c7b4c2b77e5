"""Fixtures: a sandbox, a store and a broker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.conftest import database, quiet_log, sandbox
from tests.support.mosquitto import Mosquitto, mosquitto

__all__ = ["database", "quiet_log", "sandbox"]


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker without a password on loopback."""
    with mosquitto(tmp_path / "mosquitto") as running:
        yield running
